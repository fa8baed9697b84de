"""A search folder that version 0.1 wrote is read, compared, exported and continued.

The folder is `tests/fixtures/search_of_0_1`: `tune-jobs run` of 0.1 on its `job.yaml`, without the checkpoints.
"""

import json
import shutil
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from tune_jobs.errors import JobError
from tune_jobs.results.compare import compare
from tune_jobs.results.read import read_results
from tune_jobs.results.write import export
from tune_jobs.search.run import resume

WRITTEN_BY_0_1 = Path(__file__).parents[1] / "fixtures" / "search_of_0_1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN_BY_0_1, tmp_path / "search_of_0_1"))


def change_sampler(folder: Path, sampler: str) -> None:
    """Turns the search into one that used another sampler, in its ledger, its job file and its Parquet files."""
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        job = json.loads(connection.execute("SELECT value FROM meta WHERE key = 'job'").fetchone()[0])
        job["search"]["sampler"] = sampler
        connection.execute("UPDATE meta SET value = ? WHERE key = 'job'", (json.dumps(job),))
    connection.close()
    text = (folder / "job.yaml").read_text(encoding="utf-8")
    assert "sampler: random" in text
    (folder / "job.yaml").write_text(text.replace("sampler: random", f"sampler: {sampler}"), encoding="utf-8")
    shutil.rmtree(folder / "parquet")
    export(folder)


@pytest.fixture(params=["random", "cmaes", "qmc"])
def old_search(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A search of 0.1, also with samplers that this version no longer has."""
    if request.param != "random":
        change_sampler(folder, request.param)
    return folder


def test_its_results_are_read_and_compared(old_search: Path) -> None:
    results = read_results(old_search)
    assert results.trials["trial_id"].tolist() == ["resnet8-sam-0000", "resnet8-sam-0001"]
    assert results.trials["status"].tolist() == ["completed"] * 2
    assert results.epochs.groupby("trial_id")["epoch"].apply(list).tolist() == [[1, 2]] * 2
    assert results.confirmations.empty
    (best,) = compare([old_search])["val_accuracy"]
    assert best == results.trials["val_accuracy"].max()


def test_exporting_it_again_changes_no_value(folder: Path) -> None:
    before = read_results(folder)
    export(folder)
    after = read_results(folder)
    for table in ("trials", "epochs"):
        old, new = getattr(before, table), getattr(after, table)
        old = old.dropna(axis=1, how="all")  # columns that 0.1 did not have
        pd.testing.assert_frame_equal(new[old.columns], old)


def test_a_sampler_that_is_gone_cannot_be_resumed(folder: Path) -> None:
    change_sampler(folder, "cmaes")
    with pytest.raises(JobError) as error:
        resume(folder, ["search.num_trials=3"])
    assert [problem.path for problem in error.value.problems] == ["search.sampler"]


@pytest.mark.slow
def test_it_is_extended_by_a_trial(folder: Path) -> None:
    before = read_results(folder).epochs
    result = resume(folder, ["search.num_trials=3"])
    assert result is not None
    after = read_results(folder)
    assert after.trials["status"].isin(["completed", "pruned"]).tolist() == [True] * 3
    pd.testing.assert_frame_equal(after.epochs[before.columns].iloc[: len(before)], before)
