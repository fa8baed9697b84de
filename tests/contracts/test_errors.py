"""Every error class of `tune_jobs` lives in `errors.py` and carries the exit code of the command line."""

import ast
import inspect
from pathlib import Path

import pytest

import tune_jobs
from tune_jobs import errors


@pytest.mark.parametrize(
    ("kind", "builtin", "exit_code"),
    [
        (errors.JobError, ValueError, 2),
        (errors.LedgerError, ValueError, 2),
        (errors.LedgerLostError, ValueError, 1),
        (errors.ResultsError, ValueError, 2),
        (errors.StorageError, OSError, 1),
        (errors.ClusterError, RuntimeError, 1),
        (errors.TrackerError, RuntimeError, 1),
    ],
)
def test_an_error_has_the_base_class_an_exit_code_and_a_built_in_one(
    kind: type[errors.TuneJobsError], builtin: type[Exception], exit_code: int
) -> None:
    assert issubclass(kind, errors.TuneJobsError)
    assert issubclass(kind, builtin)
    assert kind.exit_code == exit_code
    assert f"{kind.__name__} ({builtin.__name__})" in inspect.cleandoc(errors.__doc__ or "")


def test_no_other_file_defines_a_public_error() -> None:
    package = Path(tune_jobs.__file__).parent
    elsewhere = [
        f"{file.relative_to(package)}: {node.name}"
        for file in package.rglob("*.py")
        if file.name != "errors.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and not node.name.startswith("_")
    ]
    assert elsewhere == []
