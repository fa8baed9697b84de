"""The examples are short, their jobs are valid, and they run as their first lines say."""

import ast
from pathlib import Path

import pytest

from tune_jobs.job.load import load_job

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if (folder / "job.yaml").is_file())


def test_six_examples():
    assert len(NAMES) == 6


@pytest.mark.parametrize("name", NAMES)
def test_short_and_told(name):
    (file,) = (EXAMPLES / name).glob("*.py")
    text = file.read_text()
    assert len(text.splitlines()) < 80
    told = ast.get_docstring(ast.parse(text))
    assert f"cd examples/{name}\n" in told
    assert "tune-jobs run job.yaml --out results" in told
    assert load_job(str(EXAMPLES / name / "job.yaml")).name == name
