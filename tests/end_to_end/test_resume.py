"""A driver killed in the middle, workers that fail, the same search after it; and a search resumed with more epochs."""

import random
import shutil
import signal
import sqlite3

import pandas as pd
import pytest
from searches import SHORT, Row, Search

from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.folder import SearchFolder, check_folder
from tune_jobs.search.run import resume
from tune_jobs.stopping.asha import Rule
from tune_jobs.stopping.replay import replay


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


@pytest.mark.slow
def test_a_driver_killed_after_its_last_report_left_things_to_tidy(searched, tmp_path):
    search = Search(tmp_path / "search", Row("tidy"))
    shutil.copytree(searched.folder, search.folder)
    shutil.copy(searched.epoch_log, search.epoch_log)
    connection = sqlite3.connect(search.folder / "ledger.sqlite")
    (checksum,) = connection.execute("SELECT checksum FROM events WHERE kind = 'stop'").fetchone()
    connection.execute("DELETE FROM events WHERE kind = 'stop'")
    totals = "num_rows = num_rows - 1, digest = (digest | ?1) - (digest & ?1)"  # exclusive or
    connection.execute(f"UPDATE checksums SET {totals} WHERE name = 'events'", (checksum,))
    connection.commit()
    connection.close()
    (search.folder / "optuna.journal").write_text("half a li")
    (search.folder / "checkpoints" / "resnet8-base-0000.pt.4711.tmp").write_bytes(b"half")
    search.finish().check(searched)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_with_four_gpus")
def test_with_more_epochs_completed_trials_that_were_kept_continue(searched, tmp_path):
    folder = tmp_path / "search"
    shutil.copytree(searched.folder, folder)
    before = pd.read_parquet(folder / "parquet" / "trials.parquet").set_index("trial_id")
    kept = {file.stem for file in (folder / "checkpoints").iterdir()}
    assert len(kept) == 2
    with pytest.raises(JobError, match="expected at least 4"):
        resume(folder, ["train.epochs=1"])

    resume(folder, ["train.epochs=6", "search.num_trials=3"])
    after = pd.read_parquet(folder / "parquet" / "trials.parquet").set_index("trial_id")
    assert len(after) == 6
    assert set(after.index[after["epochs_trained"] == 6]) >= kept
    left = sorted(set(before.index) - kept)
    for column in ("epochs_trained", "finished_at", "param.lr"):
        assert (after.loc[left, column] == before.loc[left, column]).all()
    with Ledger.open(folder, read_only=True) as ledger:
        rules = [(at, Rule.of_job(job)) for at, job in ledger.jobs()]
        assert replay(rules, ledger.trials(), ledger.reports()) == []
        assert len(rules) == 2
        for trial_id in kept:
            reports = ledger.reports(trial_id)
            assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5, 6]
            evaluations = [report["gradient_evaluations"] for report in reports]
            assert evaluations == [evaluations[0] * epoch for epoch in range(1, 7)], "not trained again"
            assert reports[3]["lr"] == reports[5]["lr"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_driver_and_failing_workers_change_nothing(searched, tmp_path):
    seed = random.randrange(10**6)
    print(f"{seed=}")
    environment = {"FAULTS_AT": "resnet8-zsharp-0000 raised 1 1,resnet8-base-0000 killed 1 1"}
    search = Search(tmp_path / "search", Row("short"), environment).begin(*SHORT)
    try:
        # After the second report, so that the first fault is recorded: the kill would take it along now and then.
        assert search.wait_for(random.Random(seed).randrange(2, 8))
        search.kill(random.Random(seed).choice([signal.SIGKILL, signal.SIGTERM]))
        search.finish().check(searched, in_flight=3)
    finally:
        search.give_up()
    with Ledger.open(search.folder, read_only=True) as ledger:
        errors = [one["data"]["error"] for one in ledger.events() if one["kind"] == "retry"]
    assert errors[0].splitlines()[-1] == "RuntimeError: the data are gone"
