"""The short version of tests/faults: a driver killed in the middle, workers that fail, and the same search after it."""

import random
import shutil
import signal
import sqlite3

import pytest
from searches import ONE_SLOT, Row, Search

from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.folder import SearchFolder, check_folder

SHORT = (*ONE_SLOT, "search.num_trials=2", "train.epochs=4")
NUM_TRIALS = 2 * 2


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    search = Search(tmp_path_factory.mktemp("whole") / "search", Row("none")).begin(*SHORT)
    assert search.end(120) == 0, search.printed
    search.check()
    return search


def test_a_driver_killed_while_it_made_its_ledger_is_no_obstacle(tmp_path):
    job = load_job("digits", SHORT)
    left = tmp_path / ".ledger.sqlite.4711"
    left.write_bytes(b"half a ledger")
    assert not check_folder(job, SearchFolder(tmp_path))
    Ledger.create(tmp_path, job.model_dump(mode="json"), {}).close()
    assert not left.exists()
    (tmp_path / "ledger.sqlite").rename(tmp_path / "mine")
    with pytest.raises(JobError, match="not a search folder"):
        check_folder(job, SearchFolder(tmp_path))


def test_a_driver_killed_after_its_last_report_left_things_to_tidy(reference, tmp_path):
    search = Search(tmp_path / "search", Row("tidy"))
    shutil.copytree(reference.folder, search.folder)
    shutil.copy(reference.epoch_log, search.epoch_log)
    connection = sqlite3.connect(search.folder / "ledger.sqlite")
    connection.execute("DELETE FROM events WHERE kind = 'stop'")
    connection.commit()
    connection.close()
    (search.folder / "optuna.journal").write_text("half a li")
    (search.folder / "checkpoints" / "resnet8-sam-0000.pt.4711.tmp").write_bytes(b"half")
    search.finish().check(reference)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_driver_and_failing_workers_change_nothing(reference, tmp_path):
    seed = random.randrange(10**6)
    print(f"{seed=}")
    environment = {"FAULTS_AT": "resnet8-zsharp-0000 raised 1 1,resnet8-sam-0000 killed 1 1"}
    search = Search(tmp_path / "search", Row("short"), environment).begin(*SHORT)
    try:
        # After the second report, so that the first fault is recorded: the kill would take it along now and then.
        assert search.wait_for(random.Random(seed).randrange(2, 8))
        search.kill(random.Random(seed).choice([signal.SIGKILL, signal.SIGTERM]))
        search.finish().check(reference, in_flight=3)
    finally:
        search.give_up()
    with Ledger.open(search.folder, read_only=True) as ledger:
        errors = [one["data"]["error"] for one in ledger.events() if one["kind"] == "retry"]
    assert errors[0].splitlines()[-1] == "RuntimeError: the data are gone"
