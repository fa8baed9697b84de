"""What a fresh interpreter loads; the direction of imports is enforced by import-linter (`make check`)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_NEED = {
    "torch",
    "triton",
    "torchvision",
    "numpy",
    "pyarrow",
    "sklearn",
    "PIL",
    "annotated_types",
    "timm",  # the extra, with the two it brings along
    "huggingface_hub",
    "safetensors",
    "zsharp",
}


def modules_of(*packages):
    """Dotted names of all modules of packages."""
    files = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files
    ]


READING = [*modules_of("tune_jobs/results", "tune_jobs/report", "tune_jobs/ledger"), "tune_jobs.provenance"]


@pytest.mark.parametrize(
    ("modules", "loaded", "not_loaded"),
    [
        (
            ["zsharp.optim.optimizers", "zsharp.models.architectures"],
            {"torch"},
            {"ray", "optuna", "pandas", "sklearn", "pyarrow", "torchvision", "triton"},
        ),
        (["zsharp"], set(), {"numpy", "torch"}),
        (["tune_jobs"], set(), {"torch", "ray", "optuna", "pandas", "pyarrow", "rich"}),
        (READING, {"pyarrow", "pandas", "plotly"}, {"ray", "torch", "torchvision", "optuna"}),
        (
            ["tune_jobs.results.statistics"],
            {"numpy", "scipy.stats"},
            {"ray", "torch", "optuna", "pandas", "pyarrow"},
        ),
        # `tune-jobs validate` and `plan` answer at once: torch alone takes a second to import.
        (
            ["zsharp", "zsharp.training.spec", "tune_jobs.job.load", "tune_jobs.cluster.slots"],
            {"zsharp.training.spec"},
            {"ray", "torch", "optuna", "pandas"},
        ),
        # Torch is what workers need, and they import it while the driver starts.
        (["tune_jobs.cli.search", "tune_jobs.search.tuner"], {"ray.tune", "optuna"}, {"torch"}),
    ],
    ids=["optimizers", "version", "tune_jobs", "reading results", "statistics", "specs", "driver"],
)
def test_an_import_loads_no_more_than_it_needs(modules, loaded, not_loaded):
    code = f"import {', '.join(modules)}, zsharp, sys; zsharp.__version__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    present = set(done.stdout.split())
    assert loaded <= present
    assert not present & not_loaded


def test_a_job_is_checked_without_torch():
    """Where there can be no GPU, and only architectures of ours."""
    code = (
        "import sys\n"
        "from tune_jobs.job.load import load_job\n"
        "from tune_jobs.job.rehearsal import rehearse\n"
        "print(rehearse(load_job('digits')).data.num_train, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["1438", "False"]


def test_zsharp_needs_its_few_packages_only():
    """A list of what is allowed, which import-linter does not have; imports inside functions count."""
    needed = set()
    for path in (ROOT / "zsharp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                needed |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                needed.add((node.module or "").partition(".")[0])
    assert "torch" in needed
    assert needed <= MAY_NEED | set(sys.stdlib_module_names)
