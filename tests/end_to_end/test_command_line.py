"""`tune-jobs run` as a user types it, with a Ray of its own, and the verbs that read what it left."""

import os
import re
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger

SETS = [
    "architectures=[resnet8]",
    "methods=[zsharp, base]",
    "search.num_trials=2",
    "train.epochs=2",
    "train.warmup_epochs=0",
    "train.batch_size=32",
    "asha.grace_epochs=1",
    "data.max_images=200",
    "resources.max_concurrent=2",
    "resources.device=cpu",
]
CHANGES = [part for change in SETS for part in ("--set", change)]
FILES = ["trials.parquet", "epochs.parquet", "confirmations.parquet"]
LINE = re.compile(
    r"\d/4  resnet8-(zsharp|base)-000\d  +(completed|pruned) +epoch [12]/2  val acc \d\.\d{4}  (q_p=.*rho=.*)?lr=.*"
)


def tune_jobs(*arguments, **environment):
    """Runs the command line in a process of its own; returns it and the seconds it took."""
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | environment
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tune_jobs", *map(str, arguments)],
        env=variables, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    return done, time.monotonic() - began


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command_line") / "search"
    done, _ = tune_jobs("run", "digits", *CHANGES, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def everything(folder):
    """All that the ledger holds, clocks too."""
    with Ledger.open(folder, read_only=True) as ledger:
        return ledger.trials(), ledger.reports(), ledger.events(), ledger.jobs()


def table_of(text):
    """The comparison at the end of what `run` prints."""
    return text[text.index("Best on digits:") :].partition("\nResults:")[0].rstrip()


def test_it_says_what_runs_then_each_trial_then_what_was_found(searched):
    folder, done = searched
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"Running 2 studies, 4 trials in all: [12] trials? at once\.", lines[0])
    trials = lines[1:5]
    assert all(LINE.fullmatch(line) for line in trials), trials
    assert [line[:3] for line in trials] == ["1/4", "2/4", "3/4", "4/4"]
    assert len({line.split()[1] for line in trials}) == 4
    assert lines[5].startswith("Best on digits: resnet8 with ")
    assert lines[-1] == f"Results: {folder / 'parquet'}"
    assert "\x1b" not in done.stdout


def test_libraries_say_nothing(searched):
    assert searched[1].stderr == ""


def test_the_folder_holds_the_job_the_ledger_and_parquet(searched):
    folder, _ = searched
    names = ["checkpoints", "job.yaml", "ledger.sqlite", "optuna.journal", "parquet"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert sorted(path.name for path in (folder / "parquet").iterdir()) == sorted(FILES)
    assert pq.read_table(folder / "parquet" / "trials.parquet").num_rows == 4
    assert load_job(str(folder / "job.yaml")) == load_job("digits", SETS)


def test_the_same_again_trains_nothing(searched, tmp_path):
    folder, first = searched
    before = everything(folder)
    again, took_s = tune_jobs("run", folder / "job.yaml", "--out", folder, RAY_TMPDIR=str(tmp_path / "ray"))
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("Best on digits:")
    assert table_of(again.stdout) == table_of(first.stdout)
    assert took_s < 20
    assert not (tmp_path / "ray").exists(), "Ray was started"
    assert everything(folder) == before


def test_export_rewrites_the_same_parquet(searched):
    folder, _ = searched
    parquet = folder / "parquet"
    before = {name: pq.read_table(parquet / name) for name in FILES}
    for name in FILES:
        (parquet / name).unlink()
    done, _ = tune_jobs("export", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(parquet / name) for name in FILES]
    for name, table in before.items():
        assert pq.read_table(parquet / name).equals(table, check_metadata=True)


def test_compare_shows_the_same_table(searched):
    folder, first = searched
    done, _ = tune_jobs("compare", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip() == table_of(first.stdout)
