"""The examples are short, the documentation shows what they say, and they run as their first lines tell."""

import ast
import re
from pathlib import Path

import pytest

from tune_jobs.job.load import load_job

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if (folder / "job.yaml").is_file())
FIRST = {"own_network": "nets.py", "fine_tuning": "digit_halves.py"}  # what is run before the search


def unindented(text):
    """The lines that are not empty; the formatter moves those of a page to the left."""
    return "\n".join(filter(None, map(str.strip, text.splitlines())))


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
    assert f"python {FIRST[name]}" in told if name in FIRST else "python " not in told
    assert load_job(str(EXAMPLES / name / "job.yaml")).name == name


@pytest.mark.parametrize(("language", "suffix"), [("python", ".py"), ("yaml", ".yaml")])
def test_the_page_shows_parts_of_them(language, suffix):
    page = (EXAMPLES.parent / "docs" / "own_code.md").read_text()
    shown = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    texts = [unindented(file.read_text()) for file in EXAMPLES.glob(f"*/*{suffix}")]
    assert shown
    assert not [part for part in shown if not any(unindented(part) in text for text in texts)]
    assert all(f"/examples/{name})" in page for name in NAMES)
