"""A ledger in an object store: what a call returned from is there, whatever happens to the machine."""

import json
import shutil
from pathlib import Path

import pytest
from ledgers import start

from tune_jobs.errors import JobError, LedgerError
from tune_jobs.ledger.mirror import RemoteRecord
from tune_jobs.ledger.rows import Decision
from tune_jobs.search.folder import SearchFolder
from tune_jobs.storage import RemoteFolder

JOB = {"name": "tiny", "asha": {}}
CONTINUE = Decision("continue")


def lose_machine(folder):
    """What a new driver on another machine sees: nothing but the store."""
    shutil.rmtree(folder.remote.cache, ignore_errors=True)
    return SearchFolder(folder.address, writes=True)


def test_everything_comes_back_on_another_machine(address):
    folder = SearchFolder(address, writes=True)
    assert not folder.has_search()
    ledger = folder.create(JOB, {"git_commit": "0"})
    start(ledger, "a")
    for epoch in range(1, 12):
        ledger.report("a", epoch, {"val_accuracy": epoch / 7, "train_loss": None}, CONTINUE)
    ledger.finish_trial("a", "completed", "done")
    expected = (ledger.trials(), ledger.reports(), ledger.events(), ledger.job)
    there = lose_machine(folder)
    assert there.has_search()
    with there.open() as again:
        assert (again.trials(), again.reports(), again.events(), again.job) == expected
        start(again, "b")
    with lose_machine(folder).open(read_only=True) as read:
        assert [trial["trial_id"] for trial in read.trials()] == ["a", "b"]


def test_the_second_opening_of_a_folder_fetches_only_what_is_new(address, tmp_path, monkeypatch):
    pulled, pull = [], RemoteFolder.pull
    monkeypatch.setattr(
        RemoteFolder, "pull", lambda self, name, file: pulled.append(name) or pull(self, name, file)
    )
    ledger = SearchFolder(address, writes=True).create(JOB, {})
    start(ledger, "a")
    ledger.report("a", 1, {}, CONTINUE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    folder = SearchFolder(address, writes=True)
    for epoch in (2, 3):
        with folder.open(read_only=True) as read:
            assert len(read.reports()) == epoch - 1
        ledger.report("a", epoch, {}, CONTINUE)
    with folder.open() as again:
        assert [report["epoch"] for report in again.reports()] == [1, 2, 3]
        again.report("a", 4, {}, CONTINUE)
    assert len(pulled) == 1
    with folder.open(read_only=True) as read:
        assert len(read.reports()) == 4
    assert len(pulled) == 2, "a copy that was written to is not taken for what is stored"
    ledger.close()


def test_what_was_not_stored_did_not_happen(gate, address, monkeypatch):
    monkeypatch.setattr("tune_jobs.storage._ATTEMPTS", 2)
    folder = SearchFolder(address, writes=True)
    ledger = folder.create(JOB, {})
    start(ledger, "a")
    ledger.report("a", 1, {}, CONTINUE)
    gate.is_down = True
    with pytest.raises(LedgerError, match=address):
        ledger.report("a", 2, {}, CONTINUE)
    assert [report["epoch"] for report in ledger.reports()] == [1]
    gate.heal()
    ledger.report("a", 2, {}, CONTINUE)
    with lose_machine(folder).open(read_only=True) as read:
        assert [report["epoch"] for report in read.reports()] == [1, 2]


def test_copies_take_the_place_of_many_transactions(address, monkeypatch):
    monkeypatch.setattr("tune_jobs.ledger.mirror._MIN_NEW", 4)
    folder = SearchFolder(address, writes=True)
    ledger = folder.create(JOB, {})
    start(ledger, "a")
    most = 0
    for epoch in range(1, 41):
        ledger.report("a", epoch, {"val_accuracy": epoch / 3}, CONTINUE)
        ledger.store_copy()
        most = max(most, len(folder.remote.names("ledger")))
    assert most < 25
    with lose_machine(folder).open(read_only=True) as read:
        assert [report["val_accuracy"] for report in read.reports()] == [epoch / 3 for epoch in range(1, 41)]


def test_a_copy_that_was_interrupted_leaves_the_record_whole(address, monkeypatch):
    monkeypatch.setattr("tune_jobs.ledger.mirror._MIN_NEW", 3)
    folder = SearchFolder(address, writes=True)
    ledger = folder.create(JOB, {})
    start(ledger, "a")
    for epoch in range(1, 8):
        ledger.report("a", epoch, {}, CONTINUE)

    def killed(names):
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger.record._remote, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.store_copy()  # the new copy is there, the old objects too
    with lose_machine(folder).open() as again:
        assert len(again.reports()) == 7
        again.report("a", 8, {}, CONTINUE)
    with lose_machine(folder).open(read_only=True) as read:
        assert len(read.reports()) == 8


def test_a_missing_transaction_is_found(address):
    folder = SearchFolder(address, writes=True)
    ledger = folder.create(JOB, {})
    start(ledger, "a")
    for epoch in range(1, 6):
        ledger.report("a", epoch, {}, CONTINUE)
    folder.remote.delete(["ledger/3.json"])
    with pytest.raises(LedgerError, match="transactions are missing"):
        lose_machine(folder).open()


@pytest.mark.parametrize(
    "content",
    [
        b'[["ATTACH ? AS other", ["/tmp/never-made.sqlite"]]]',
        b'[["CREATE TABLE more (x)", []]]',
        b'[["DELETE FROM trials", []]]',
        b'[["PRAGMA user_version = 9", []]]',
        b'[["INSERT INTO meta VALUES (hex(1), 2)", []]]',
        b"[",
        b"7",
        b"[[1, 2]]",
        json.dumps([["UPDATE meta SET value = value || value", []]] * 40).encode(),
        json.dumps([["INSERT INTO events SELECT NULL, 1, 'retry', a.key, b.value, c.key FROM meta a, meta b, meta c, "
                     "meta d, meta e, meta f, meta g, meta h, meta i, meta j, meta k", []]]).encode(),
        None,
    ],
    ids=str.split("attach create delete pragma function half number no-statement grows endless missing"),
)  # fmt: skip
def test_a_transaction_that_is_no_ledgers_is_refused(address, monkeypatch, content):
    monkeypatch.setattr("tune_jobs.ledger.mirror._MOST_STEPS", 2_000_000)
    folder = SearchFolder(address, writes=True)
    with folder.create(JOB, {}) as ledger:
        start(ledger, "a")
    if content is not None:
        folder.remote.write("ledger/1.json", content)
    else:  # it vanishes between the listing and the reading
        monkeypatch.setattr(RemoteFolder, "read_all", lambda self, names: [None for _ in names])
    with pytest.raises(LedgerError, match=r"1\.json"):
        lose_machine(folder).open()
    assert not Path("/tmp/never-made.sqlite").exists()


def test_the_writer_that_was_replaced_stops(address, monkeypatch):
    monkeypatch.setattr("tune_jobs.ledger.mirror._CHECK_WRITER_EVERY_S", 0.0)
    folder = SearchFolder(address, writes=True)
    old = folder.create(JOB, {})
    start(old, "a")
    record = RemoteRecord(RemoteFolder(address))
    record.take_over()
    with pytest.raises(LedgerError, match="is writing this ledger now"):
        old.report("a", 1, {}, CONTINUE)
    assert old.reports() == []


def test_stray_objects_are_passed_over_and_a_damaged_name_of_the_writer_is_another(address, monkeypatch):
    monkeypatch.setattr("tune_jobs.ledger.mirror._CHECK_WRITER_EVERY_S", 0.0)
    folder = SearchFolder(address, writes=True)
    ledger = folder.create(JOB, {})
    start(ledger, "a")
    folder.remote.write("ledger/writer.json", b"\xff{")
    with pytest.raises(LedgerError, match="is writing this ledger now"):
        ledger.report("a", 1, {}, CONTINUE)
    for name in (
        "base-old.sqlite",
        "base-.sqlite",
        "base-00.sqlite",
        "02.json",
        "\N{ARABIC-INDIC DIGIT TWO}.json",
    ):
        folder.remote.write(f"ledger/{name}", b"mine")
    with lose_machine(folder).open(read_only=True) as read:
        assert len(read.trials()) == 1


def test_places_without_a_search_are_unique_name(address):
    folder = SearchFolder(address, writes=True)
    folder.check_usable()
    with pytest.raises(LedgerError, match="no ledger there"):
        folder.open()
    folder.remote.write("notes.txt", b"mine")
    with pytest.raises(JobError, match="not a search folder"):
        folder.check_usable()
    folder.create(JOB, {}).close()
    folder.check_usable()
    folder.delete()
    assert not folder.has_search()
    assert folder.remote.names() == []  # `delete` is what --fresh does
