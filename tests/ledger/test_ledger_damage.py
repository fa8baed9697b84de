"""Damaged ledgers are refused, whichever bit it was; only a log that was cut short gives fewer transactions."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from ledger_damage import FILE, INDEX, LOG, copies, count, cut, flip
from ledgers import IN_MEMORY, JOB, ON, start

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.follow import Follower
from tune_jobs.ledger.writer import Ledger

WRITTEN_BY_0_1 = Path(__file__).parents[1] / "fixtures" / "search_of_0_1"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return copies(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("tries", [12, pytest.param(300, marks=pytest.mark.faults)])
@pytest.mark.parametrize(
    ("is_closed", "name", "damage", "without", "expected"),
    [
        (True, FILE, flip, None, {"refused", "same"}),
        (True, FILE, cut, None, {"refused"}),
        (False, FILE, flip, None, {"refused", "same"}),
        (False, LOG, flip, None, {"refused"}),
        (False, LOG, flip, INDEX, {"refused"}),
        (False, LOG, cut, None, {"shortened"}),
        (False, LOG, cut, INDEX, {"shortened"}),
    ],
)
def test_no_damage_is_read_as_a_result(
    damaged, is_closed, name, damage, without, expected, tries, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", IN_MEMORY)
    closed, killed, steps = damaged
    outcomes = count(closed if is_closed else killed, name, damage, steps, tries, 0, without)
    print(outcomes)
    assert outcomes.keys() <= expected


@pytest.mark.parametrize("table", ["trials", "reports", "events", "confirmations", "meta"])
def test_a_missing_or_changed_row_is_refused_by_name(damaged, tmp_path, table):
    for change in ("DELETE FROM {} WHERE rowid = (SELECT max(rowid) FROM {})", "UPDATE {} SET checksum = 1"):
        folder = Path(shutil.copytree(damaged[0], tmp_path / change[:6]))
        with sqlite3.connect(folder / FILE) as connection:
            connection.execute(change.format(table, table))
        connection.close()
        with (
            Ledger.open(folder, read_only=True) as ledger,
            pytest.raises(LedgerError, match=f"{FILE}.*{table}"),
        ):
            ledger.check_whole()


def test_a_ledger_of_0_1_gains_checksums_when_it_is_written(tmp_path):
    folder = Path(shutil.copytree(WRITTEN_BY_0_1, tmp_path / "s"))
    before = (folder / FILE).read_bytes()
    with Ledger.open(folder) as ledger:
        trials, reports = ledger.trials(), ledger.reports()
    assert (folder / FILE).read_bytes() == before
    with Ledger.open(folder) as ledger:
        start(ledger, "new")
        ledger.report("new", 1, {}, ON)
    with Ledger.open(folder, read_only=True) as ledger:
        ledger.check_whole()
        assert (ledger.trials()[:-1], ledger.reports()[:-1]) == (trials, reports)
    with sqlite3.connect(folder / FILE) as connection:
        assert connection.execute("SELECT count(*) FROM reports WHERE checksum IS NULL").fetchone() == (0,)
        connection.execute("UPDATE reports SET epoch = epoch + 1 WHERE seq = 5")
    connection.close()
    with Ledger.open(folder, read_only=True) as ledger, pytest.raises(LedgerError, match="row 5 of reports"):
        ledger.reports()


@pytest.mark.parametrize(
    "metrics", ["'{}'", "json_remove(metrics, '$.val_accuracy')", "replace(metrics, 'wall_s', 'wall_r')"]
)
def test_a_report_of_0_1_that_lost_a_metric_is_refused_by_name(tmp_path, metrics):
    folder = Path(shutil.copytree(WRITTEN_BY_0_1, tmp_path / "s"))
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute(f"UPDATE reports SET metrics = {metrics} WHERE seq = 2")
    connection.close()
    before = (folder / FILE).read_bytes()
    with (
        Ledger.open(folder) as ledger,
        pytest.raises(LedgerError, match=f"{FILE}: row 2 of reports .*metrics"),
    ):
        ledger.check_whole()
    with pytest.raises(LedgerError, match=f"{FILE}.*metrics"):
        Follower(folder).look()
    assert (folder / FILE).read_bytes() == before


def test_what_runs_code_in_a_ledger_from_elsewhere_is_refused(tmp_path):
    Ledger.create(tmp_path, JOB, {}).close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM reports; END")
    connection.close()
    with pytest.raises(LedgerError, match="other tables"):
        Ledger.open(tmp_path)


def test_a_schema_that_is_not_text_is_refused(damaged, tmp_path):
    content = bytearray((damaged[0] / FILE).read_bytes())
    content[content.index(b"CREATE TABLE") + 13] = 0xF4  # never valid in UTF-8 before a letter
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(LedgerError, match="expected a ledger"):
        Ledger.open(tmp_path, read_only=True)
