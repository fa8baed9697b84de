"""The README says what is true: its file map, its commands, its examples, its printed output."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from tune_jobs.cli.app import app
from tune_jobs.job.checks import check_job
from tune_jobs.job.load import load_job

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    """The fenced blocks of a language, in order."""
    parts = re.split(r"^```(.*)\n", README, flags=re.MULTILINE)
    return [text for opening, text in zip(parts[1::4], parts[2::4], strict=True) if opening == language]


def between(name):
    return re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", README, re.DOTALL).group(1)


def test_the_file_map_names_what_is_there_and_leaves_no_folder_out():
    rows = re.findall(r"^\| (`.*?) \|", README[README.index("## Where things are") :], re.MULTILINE)
    named = []
    for row in rows:
        paths = re.findall(r"`([^`]+)`", row)
        folder = (
            str(Path(paths[0]).parent) if "/" in paths[0].rstrip("/") and not paths[0].endswith("/") else ""
        )
        named += [paths[0], *(f"{folder}/{path}" if folder else path for path in paths[1:])]
    assert len(named) > 15
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing
    packages = {
        f"zsharp/{p.name}/" for p in (ROOT / "zsharp").iterdir() if p.is_dir() and p.name[0] not in "_."
    }
    assert packages <= set(named)
    assert {"tests/", "benchmarks/", "docs/log.md", "cluster.yaml"} <= set(named)


def test_every_command_is_one_the_command_line_has():
    text = "\n".join(blocks("")).replace("\\\n", " ")
    commands = [
        shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("tune-jobs ")
    ]
    verbs = get_command(app).commands
    assert len(commands) >= 7
    for _, verb, *arguments in commands:
        assert verb in verbs, verb
        options = {name for param in verbs[verb].params for name in param.opts}
        assert {a for a in arguments if a.startswith("--")} <= options, verb
    assert {verb for _, verb, *_ in commands} == set(verbs), "the README shows every verb"


def test_make_has_the_targets_it_names():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+)", README))
    assert {"search", "test", "bench"} <= named <= targets


def test_the_job_file_is_valid():
    (text,) = blocks("yaml")
    job, problems = check_job(yaml.safe_load(text))
    assert job is not None
    assert not problems
    assert len(job.studies()) == 6


def test_the_changed_preset_is_valid(tmp_path):
    text = "\n".join(blocks("")).replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith("tune-jobs run cifar10")]
    words = [word.replace("FOLDER", str(tmp_path)) for word in shlex.split(line)]
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert len(sets) == 7
    assert [study.name for study in load_job("cifar10", sets).studies()] == [
        "resnet20-zsharp",
        "resnet20-base",
    ]


def test_the_python_example_runs():
    (code,) = blocks("python")
    scope = {}
    exec(code, scope)
    assert float(scope["loss"]) > 0


def test_python_m_zsharp_takes_the_options_shown():
    (line,) = [line for line in "\n".join(blocks("")).splitlines() if line.startswith("python -m zsharp")]
    shown = {word for word in shlex.split(line) if word.startswith("--")}
    printed = subprocess.run(
        [sys.executable, "-m", "zsharp", "-h"], capture_output=True, text=True, check=True
    ).stdout
    assert len(shown) == 6
    assert all(option in printed for option in shown)


def test_the_printed_search_is_one_of_this_preset():
    """The numbers vary with the order in which two slots finish; what they are about does not."""
    output = between("output of make search")
    headline = re.search(r"Best on digits: (\S+) with (\S+), validation accuracy ([01]\.\d{4})", output)
    job = load_job("digits")
    assert headline.group(1) in job.architectures
    assert headline.group(2) in job.methods
    assert float(headline.group(3)) >= 0.95
    rows = re.findall(r"^ ?\*? *(\w+) +[01]\.\d{4} .* (\d+)/(\d+) +(\d+)% +(\d+) ", output, re.MULTILINE)
    assert sorted(row[0] for row in rows) == sorted(job.methods * len(job.architectures))
    assert all(int(row[2]) == job.search.num_trials for row in rows)
    assert any(int(row[3]) > 0 for row in rows), "some trials were pruned"
    assert all(int(row[4]) <= job.search.num_trials * job.train.epochs for row in rows)


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "docs/log.md"])
def test_the_other_documents_are_there(name):
    assert (ROOT / name).read_text().startswith("# ")


def test_changelog_and_version_agree():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
