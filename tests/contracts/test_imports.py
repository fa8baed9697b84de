"""Imports go one way: tune_jobs -> zsharp, ray in a few modules only, and no heavy import where none is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ZSHARP = sorted((ROOT / "zsharp").rglob("*.py"))
TUNE_JOBS = sorted((ROOT / "tune_jobs").rglob("*.py"))

OF_ZSHARP = {"torch", "triton", "torchvision", "numpy", "pyarrow", "sklearn", "zsharp"}
MAY_IMPORT_RAY = {"trial", "searcher", "scheduler", "search", "progress"}
RESULTS = {
    *("export", "compare", "report", "ledger", "ledger_file", "schema", "provenance"),
    *("statistics", "transfer"),
    *(path.stem for path in TUNE_JOBS if path.stem.startswith("report_")),
}
MAY_IMPORT_OPTUNA_LATE = {"report_importance"}  # inside a function; the report says so where it is missing
HEAVY = ("ray", "optuna", "pandas", "sklearn", "pyarrow", "torchvision")


def imported(path):
    """Top-level names of everything that a file imports, inside functions and for type checkers too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def may_import_ray(path):
    return path.stem in MAY_IMPORT_RAY or path.stem.startswith(("cluster", "ray_", "submit"))


def modules_after(statement):
    """Names of the modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


def test_there_are_files_to_test():
    assert len(ZSHARP) > 20
    assert len(TUNE_JOBS) > 10
    assert "torch" in imported(ROOT / "zsharp" / "optim" / "radius.py")
    assert "ray" not in imported(ROOT / "zsharp" / "optim" / "radius.py")


@pytest.mark.parametrize("path", ZSHARP, ids=lambda path: str(path.relative_to(ROOT)))
def test_zsharp_needs_its_five_packages_only(path):
    assert imported(path) <= OF_ZSHARP | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", TUNE_JOBS, ids=lambda path: str(path.relative_to(ROOT)))
def test_ray_stays_in_its_modules(path):
    assert may_import_ray(path) or "ray" not in imported(path)


def test_results_are_read_without_ray_and_torch():
    found = [path for path in TUNE_JOBS if path.stem in RESULTS]
    expected = {"export", "compare", "ledger", "schema", "provenance", "report", "report_page"}
    assert {path.stem for path in found} >= expected
    for path in found:
        late = {"optuna"} if path.stem in MAY_IMPORT_OPTUNA_LATE else set()
        assert not imported(path) & {"ray", "torch", "torchvision", "optuna"} - late, path
    names = ", ".join(f"tune_jobs.{path.stem}" for path in found)
    modules = modules_after(f"import {names}")
    assert {"tune_jobs.results.write", "pyarrow"} <= modules
    assert not modules & {"ray", "torch", "torchvision", "optuna"}


def test_statistics_need_numpy_and_scipy_only():
    modules = modules_after("import tune_jobs.results.statistics")
    assert {"numpy", "scipy.stats"} <= modules
    assert not modules & {"ray", "torch", *HEAVY}


def test_the_optimizers_import_nothing_heavy():
    modules = modules_after("import zsharp.optim")
    assert {"torch", "zsharp.optim.ascent.radius"} <= modules
    assert not modules & set(HEAVY)


def test_specs_are_checked_without_torch():
    """`tune-jobs validate` and `plan` answer at once: torch alone takes a second to import."""
    modules = modules_after("import zsharp, zsharp.training, zsharp.training.spec")
    assert "zsharp.training.spec" in modules
    assert "torch" not in modules
