"""The examples are short, the documentation shows what they say, and they run as their first lines tell."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line_searches import call, kill_after, reports

from tune_jobs.job.load import load_job
from tune_jobs.results.read import read_results

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if (folder / "job.yaml").is_file())
LOOPS = ("accelerate_loop", "lightning_module")
FIRST = {"own_network": "nets.py", "fine_tuning": "digit_halves.py"}  # what is run before the search
SHORTER = {
    "language_model": ("model={width: 16, num_layers: 1, steps: 3}",),
    "own_network": ("data.max_images=300",),
}


def sets(*values):
    values = ("resources.max_concurrent=1", "resources.device=cpu", "methods=[zsharp]", *values)
    return [word for value in values for word in ("--set", value)]


def copied(name, folder):
    shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / name


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
    # Loops have schedules of their own: our warm-up, of five epochs, is not held against them.
    short = ["train.epochs=2"] if name in LOOPS else []
    assert load_job(str(EXAMPLES / name / "job.yaml"), short).name == name


@pytest.mark.parametrize(("language", "suffix"), [("python", ".py"), ("yaml", ".yaml")])
def test_the_page_shows_parts_of_them(language, suffix):
    page = (EXAMPLES.parent / "docs" / "own_code.md").read_text()
    shown = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    texts = [unindented(file.read_text()) for file in EXAMPLES.glob(f"*/*{suffix}")]
    assert shown
    assert not [part for part in shown if not any(unindented(part) in text for text in texts)]
    assert all(f"/examples/{name})" in page for name in NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs(name, tmp_path):
    folder = copied(name, tmp_path)
    if name in FIRST:
        subprocess.run([sys.executable, FIRST[name]], cwd=folder, check=True)
    short = sets("search.num_trials=1", "train.epochs=2", "train.warmup_epochs=0", *SHORTER.get(name, ()))
    code, printed = call(folder, "run", "job.yaml", "--out", "results", *short)
    assert code == 0, printed
    job, trials = load_job(str(folder / "job.yaml")), read_results(folder / "results").trials
    assert len(trials) == max(1, len(job.architectures))
    assert set(trials["status"]) == {"completed"}
    assert read_results(folder / "results").epochs["epoch"].max() == 2


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("name", LOOPS)
def test_killed_and_resumed_a_loop_reports_the_same(name, tmp_path):
    folder = copied(name, tmp_path)
    short = sets("search.num_trials=2", "train.epochs=4")
    code, printed = call(folder, "run", "job.yaml", "--out", "whole", *short)
    assert code == 0, printed
    for least in (2, 6):  # within the first trial, and within the second
        kill_after(least, folder / "killed", folder, "run", "job.yaml", "--out", "killed", *short)
    code, printed = call(folder, "resume", "killed")
    assert code == 0, printed
    assert len(reports(folder / "whole")) == 8
    assert reports(folder / "killed") == reports(folder / "whole")
