"""`tune-jobs run` as a user types it, with a Ray of its own, and the verbs that read what it left."""

import re
import shutil

import pyarrow.parquet as pq
import pytest
from command_line import call
from searches import SHORT

from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.run import run

FILES = ["trials.parquet", "epochs.parquet", "confirmations.parquet"]
LINE = re.compile(
    r"\d/4  resnet8-(zsharp|base)-000\d  +(completed|pruned) +epoch [1-4]/4  val acc \d\.\d{4}  (q_p=.*rho=.*)?lr=.*"
)


def printed(search):
    return search.folder.with_suffix(".out").read_text()


def everything(folder):
    """All that the ledger holds, clocks too."""
    with Ledger.open(folder, read_only=True) as ledger:
        return ledger.trials(), ledger.reports(), ledger.events(), ledger.jobs()


def table_of(text):
    """The comparison at the end of what `run` prints."""
    return text[text.index("Best on digits:") :].partition("\nResults:")[0].rstrip()


def test_it_says_what_runs_then_each_trial_then_what_was_found(searched):
    lines = printed(searched).splitlines()
    assert (
        lines[0]
        == "Data: digits, 160 images to train on, 40 to validate on and 359 for the test, in 10 classes."
    )
    assert lines[1] == "Running 2 studies, 4 trials in all: 1 trial at once."
    trials = lines[2:6]
    assert all(LINE.fullmatch(line) for line in trials), trials
    assert [line[:3] for line in trials] == ["1/4", "2/4", "3/4", "4/4"]
    assert len({line.split()[1] for line in trials}) == 4
    assert any(line.startswith("Best on digits: resnet8 with ") for line in lines[6:])
    assert f"Results: {searched.folder / 'parquet'}" in lines
    assert f"tune-jobs confirm {searched.folder} --seeds 6" in lines[-1], "what settles it comes last"
    assert searched.printed.count("tune-jobs confirm") == 1
    assert "\x1b" not in searched.printed
    assert searched.folder.with_suffix(".err").read_text() == "", "libraries say nothing"


def test_the_folder_holds_the_job_it_was_given(searched):
    assert load_job(str(searched.folder / "job.yaml")) == load_job("digits", SHORT)


def test_the_same_again_trains_nothing(searched, tmp_path, monkeypatch):
    folder = searched.folder
    before = everything(folder)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    code, out, err = call("run", folder / "job.yaml", "--out", folder)
    assert (code, err) == (0, "")
    assert table_of(out) == table_of(printed(searched))
    assert not (tmp_path / "ray").exists(), "Ray was started"
    with pytest.raises(JobError, match="holds another job"):
        run(load_job("digits", [*SHORT, "train.seed=1"]), folder)
    assert everything(folder) == before


def test_export_rewrites_the_same_parquet_and_compare_shows_the_same_table(searched, tmp_path):
    folder = tmp_path / "search"
    shutil.copytree(searched.folder, folder)
    for name in FILES:
        (folder / "parquet" / name).unlink()
    code, out, err = call("export", folder)
    assert (code, err) == (0, "")
    assert out.splitlines() == [str(folder / "parquet" / name) for name in FILES]
    for name in FILES:
        table = pq.read_table(searched.folder / "parquet" / name)
        assert pq.read_table(folder / "parquet" / name).equals(table, check_metadata=True)
    code, out, err = call("compare", folder)
    assert (code, err) == (0, "")
    assert table_of(out) == table_of(printed(searched))
