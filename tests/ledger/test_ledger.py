"""The ledger keeps what it was told, refuses what would make it untrue, and survives being killed."""

import errno
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import IN_MEMORY, JOB, ON, start, unchanged_by, writer

from tune_jobs.errors import LedgerError, LedgerLostError
from tune_jobs.ledger.file import FILE_NAME, keep_durably
from tune_jobs.ledger.rows import METRICS, STATUSES, Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.checkpoints import Checkpoints
from tune_jobs.search.folder import SearchFolder


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "search", JOB, {"git_commit": "abc"}) as opened:
        yield opened


def test_keeps_everything_it_was_told(ledger):
    metrics = {name: {int: 7, float: 0.1, str: "cpu"}[kind] for name, kind in METRICS.items()}
    before = datetime.now(UTC)
    start(ledger, "a", number=5, params={"rho": 0.1 + 0.2, "lr": 1e-300})
    start(ledger, "b", variant=None)
    own = {"metrics": {"val_auc": 0.75, "bad": math.nan, "worse": np.float32("-inf"), "count": 3}}
    ledger.report("a", 1, metrics | own | {"extra": "kept"}, Decision("continue", 1, 0.25, 3, "0.3 >= 0.25"))
    ledger.report("b", 1, {"val_accuracy": None}, Decision("stop", 1, 0.5, 4, "below"))
    ledger.report("a", 2, metrics, Decision("complete"))
    ledger.finish_trial("b", "pruned", "below", error=None)

    folder = ledger.file.parent
    ledger.close()
    with Ledger.open(folder) as again:
        assert again.job == JOB
        assert again.provenance == {"git_commit": "abc"}
        a, b = again.trials()
        reports = again.reports()
        assert again.reports("a") == [reports[0], reports[2]]
    assert a["params"] == {"rho": 0.1 + 0.2, "lr": 1e-300}
    assert (a["trial_id"], a["number"], a["seed"], a["max_epochs"], a["variant"]) == ("a", 5, 3, 9, "paper")
    assert (a["status"], a["finished_at"]) == (None, None)
    assert (b["status"], b["stop_reason"], b["error"], b["variant"]) == ("pruned", "below", None, None)
    assert before <= a["started_at"] <= b["started_at"] <= b["finished_at"] <= datetime.now(UTC)
    assert [(r["seq"], r["trial_id"], r["epoch"]) for r in reports] == [(1, "a", 1), (2, "b", 1), (3, "a", 2)]
    assert reports[0].items() >= (metrics | {"extra": "kept", "decision": "continue"}).items()
    assert [report["metrics"] for report in reports] == [
        {"val_auc": 0.75, "bad": None, "worse": None, "count": 3.0}, {}, {},
    ]  # fmt: skip
    assert reports[0].items() >= {"rung": 1, "cutoff": 0.25, "num_values": 3, "reason": "0.3 >= 0.25"}.items()
    assert reports[2].items() >= {"rung": None, "cutoff": None, "num_values": None, "reason": ""}.items()
    assert reports[2]["reported_at"] - before < timedelta(minutes=1)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_folder_that_is_lost_is_noticed_and_not_made_again(ledger, is_replaced):
    start(ledger, "a")
    folder, elsewhere = ledger.file.parent, ledger.file.parents[1] / "moved"
    folder.rename(elsewhere)
    if is_replaced:
        Ledger.create(folder, JOB, {}).close()
    before = sorted(folder.rglob("*"))
    assert ledger.loss
    with pytest.raises(LedgerLostError, match="search"):
        ledger.report("a", 1, {}, ON)
    with pytest.raises(OSError, match="checkpoints") if not is_replaced else nullcontext():
        Checkpoints(SearchFolder(folder)).store("a", lambda file: None)
    ledger.close()
    assert sorted(path for path in folder.rglob("*") if path.name != "checkpoints") == before
    elsewhere.rename(folder.with_name("back"))
    with Ledger.open(folder.with_name("back")) as back:
        back.report("a", 1, {}, ON)


def test_values_that_json_cannot_hold(ledger):
    start(ledger, "a", params={"lr": np.float32(0.5)})
    metrics = {"train_loss": math.nan, "val_loss": math.inf, "lr": -math.inf, "val_accuracy": np.float32(0.5)}
    metrics |= {
        "gradient_evaluations": np.int64(8),
        "peak_memory_bytes": 12.0,
        "grad_norm": 3,
        "unknown": math.nan,
    }
    ledger.report("a", 1, metrics, Decision("diverge", cutoff=math.nan, reason="loss is nan"))
    (report,) = ledger.reports()
    assert [report[name] for name in ("train_loss", "val_loss", "lr", "unknown", "cutoff")] == [None] * 5
    assert report.items() >= {"val_accuracy": 0.5, "gradient_evaluations": 8, "decision": "diverge"}.items()
    assert isinstance(report["peak_memory_bytes"], int)
    assert isinstance(report["grad_norm"], float)
    ledger.finish_trial("a", "failed", "raised", error="undecodable \udcff\nÜberlauf 漢 \x00")
    assert ledger.trials()[0]["error"] == "undecodable \\udcff\nÜberlauf 漢 \x00"


@pytest.mark.parametrize(
    ("metrics", "match"),
    [
        ({"val_loss": "low"}, "val_loss: 'low'; expected float"),
        ({"num_parameters": 1.5}, "num_parameters: 1.5; expected int"),
        ({"device": 0}, "device: 0; expected str"),
        ({"extra": [1]}, "extra: .1.; expected a number, a text or None"),
        ({"epoch": 1}, "'epoch'.;"),
        ({"metrics": {"val_auc": "high"}}, "metrics.val_auc: 'high'; expected float"),
        ({"metrics": 0.5}, "metrics: 0.5; expected numbers by name"),
        ({"reason": "x"}, "'reason'.;"),
    ],
)
def test_refuses_metrics_that_are_not_what_they_say(ledger, metrics, match):
    start(ledger, "a")
    unchanged_by(ledger, lambda: ledger.report("a", 1, metrics, ON), match)


def test_refuses_what_would_make_it_untrue(ledger):
    start(ledger, "a")
    ledger.report("a", 1, {}, ON)
    unchanged_by(ledger, lambda: start(ledger, "a"), "trial a has started before")
    unchanged_by(ledger, lambda: start(ledger, "b", params={"lr": math.nan}), "expected finite numbers")
    unchanged_by(ledger, lambda: ledger.report("a", 1, {}, ON), "last epoch reported is 1; expected 2")
    unchanged_by(ledger, lambda: ledger.report("a", 3, {}, ON), "last epoch reported is 1; expected 2")
    unchanged_by(ledger, lambda: ledger.report("c", 1, {}, ON), "no trial 'c'")
    unchanged_by(ledger, lambda: ledger.report("a", 2, {}, Decision("prune")), "'prune'; expected one of")
    unchanged_by(ledger, lambda: ledger.finish_trial("a", "done", ""), "'done'; expected one of")
    unchanged_by(ledger, lambda: ledger.finish_trial("c", "failed", ""), "no trial 'c'")
    unchanged_by(ledger, lambda: ledger.reports("c"), "no trial 'c'")
    unchanged_by(ledger, lambda: ledger.reopen_trial("a"), "a is running; expected an interrupted one")
    ledger.finish_trial("a", "completed", "full fidelity")
    unchanged_by(ledger, lambda: ledger.report("a", 2, {}, ON), "the trial is completed")
    unchanged_by(ledger, lambda: ledger.finish_trial("a", "failed", ""), "it is completed")
    unchanged_by(ledger, lambda: ledger.reopen_trial("a"), "a is completed; expected an interrupted one")


TRIALS = st.sampled_from("abc")
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), TRIALS),
        st.tuples(st.just("report"), TRIALS, st.none() | st.integers(1, 4)),  # None: the epoch that is next
        st.tuples(st.just("finish"), TRIALS, st.sampled_from(STATUSES)),
        st.tuples(st.just("reopen"), TRIALS),
    ),
    max_size=25,
)


class Record:
    """What a true ledger holds, kept by hand, next to the ledger."""

    def __init__(self, folder):
        self.ledger = Ledger.create(folder, JOB, {})
        self.epochs, self.status, self.order = {}, {}, []

    def start(self, trial):
        valid = trial not in self.epochs
        self._attempt(valid, lambda: start(self.ledger, trial))
        if valid:
            self.epochs[trial], self.status[trial] = 0, None

    def report(self, trial, epoch):
        epoch = epoch or self.epochs.get(trial, 0) + 1
        valid = self._runs(trial) and epoch == self.epochs[trial] + 1
        self._attempt(valid, lambda: self.ledger.report(trial, epoch, {"lr": epoch}, ON))
        if valid:
            self.epochs[trial] = epoch
            self.order.append((trial, epoch))

    def finish(self, trial, status):
        valid = self._runs(trial)
        self._attempt(valid, lambda: self.ledger.finish_trial(trial, status, "because"))
        if valid:
            self.status[trial] = status

    def reopen(self, trial):
        valid = self.status.get(trial) == "interrupted"
        self._attempt(valid, lambda: self.ledger.reopen_trial(trial))
        if valid:
            self.status[trial] = None

    def _runs(self, trial):
        return trial in self.epochs and self.status[trial] is None

    def _attempt(self, valid, call):
        if valid:
            call()
        else:
            unchanged_by(self.ledger, call, ".")


@given(CALLS)
def test_any_calls_leave_no_gap_and_no_duplicate(calls):
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        record = Record(Path(folder))
        with record.ledger:
            for kind, *arguments in calls:
                getattr(record, kind)(*arguments)
        with Ledger.open(Path(folder)) as ledger:
            reports = ledger.reports()
            assert [(r["trial_id"], r["epoch"]) for r in reports] == record.order
            assert [r["seq"] for r in reports] == list(range(1, len(record.order) + 1))
            assert {t["trial_id"]: t["status"] for t in ledger.trials()} == record.status
            for trial, last in record.epochs.items():
                assert [r["epoch"] for r in ledger.reports(trial)] == list(range(1, last + 1))


def test_is_read_while_another_process_writes_it(tmp_path):
    with writer(tmp_path, "t") as child:
        try:
            child.stdout.readline()
            with pytest.raises(LedgerError, match="another process is writing"):
                Ledger.open(tmp_path)
            with Ledger.open(tmp_path, read_only=True) as ledger:
                with ledger.snapshot():
                    before = len(ledger.reports())
                    for _ in range(20):
                        child.stdout.readline()
                    assert len(ledger.reports()) == before
                assert len(ledger.reports()) > before
        finally:
            child.kill()
    Ledger.open(tmp_path).close()  # the killed writer's claim ended with it


def test_a_reader_cannot_write(ledger):
    start(ledger, "a")
    with Ledger.open(ledger.file.parent, read_only=True) as reader:
        unchanged_by(reader, lambda: reader.report("a", 1, {}, ON), "opened for reading")
        unchanged_by(reader, lambda: start(reader, "b"), "opened for reading")


def test_closing_leaves_one_file_readable_where_nothing_can_be_written(tmp_path):
    with Ledger.create(tmp_path, JOB, {}) as ledger:
        start(ledger, "a")
    ledger.close()  # twice is once
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    with pytest.raises(LedgerError, match="closed"):
        ledger.trials()
    tmp_path.chmod(0o555)
    try:
        with Ledger.open(tmp_path, read_only=True) as reader:
            assert [t["trial_id"] for t in reader.trials()] == ["a"]
            assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    finally:
        tmp_path.chmod(0o755)


def test_writes_a_log_where_it_can_and_a_journal_where_not(tmp_path):
    with sqlite3.connect(tmp_path / "a") as connection:
        assert keep_durably(connection) == "wal"
    connection.close()
    # this way of locking shares no memory, as on file systems that cannot keep a write-ahead log
    connection = sqlite3.connect(f"{(tmp_path / 'b').as_uri()}?vfs=unix-dotfile", uri=True)
    assert keep_durably(connection) == "delete"
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    connection.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fcntl")
def test_without_locks_of_folders_a_second_writer_is_refused_and_without_any_lock_a_first(
    tmp_path, monkeypatch
):
    """As on some network file systems, where flock is not supported."""
    import fcntl

    def fails(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fails)
    second = (
        "import fcntl, sys; from pathlib import Path; from tune_jobs.ledger.writer import Ledger\n"
        "def fails(*_): raise OSError(37, 'no locks')\n"
        "fcntl.flock = fails; Ledger.open(Path(sys.argv[1]))"
    )
    with Ledger.create(tmp_path, JOB, {}):
        run = subprocess.run(
            [sys.executable, "-c", second, tmp_path], capture_output=True, text=True, check=False
        )
    assert "LedgerError" in run.stderr and "another process" in run.stderr, run.stderr
    Ledger.open(tmp_path).close()  # the lock has gone with the process that had it
    damaged = tmp_path / "damaged"
    with Ledger.open(tmp_path) as ledger:
        start(ledger, "a")
        shutil.copytree(tmp_path, damaged)
    log = damaged / "ledger.sqlite-wal"
    log.write_bytes(b"?" + log.read_bytes()[1:])
    monkeypatch.setattr(fcntl, "lockf", fails)
    with pytest.raises(LedgerError, match="damaged"):
        Ledger.open(damaged, read_only=True)
    with pytest.raises(LedgerError, match="cannot lock"):
        Ledger.create(tmp_path / "other", JOB, {})


def test_create_leaves_another_ledger_alone(ledger):
    folder = ledger.file.parent
    start(ledger, "a")
    ledger.close()
    with pytest.raises(LedgerError, match="there is a ledger already"):
        Ledger.create(folder, {"name": "other"}, {})
    with Ledger.open(folder) as again:
        assert (again.job, len(again.trials())) == (JOB, 1)


@pytest.mark.parametrize(
    "job", [{}, {"name": ""}, {"name": "x", "lr": math.nan}, {"name": "x", "folder": Path()}]
)
def test_create_refuses_a_job_that_it_cannot_keep(tmp_path, job):
    with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        Ledger.create(tmp_path / "search", job, {})
    assert not (tmp_path / "search").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a closed ledger of many pages, the last ones full of reports."""
    with Ledger.create(tmp_path_factory.mktemp("whole"), JOB, {}) as ledger:
        start(ledger, "a")
        for epoch in range(1, 100):
            ledger.report("a", epoch, {"device": "x" * 200}, ON)
    return ledger.file.read_bytes()


def alter(file, statement):
    connection = sqlite3.connect(file)
    connection.execute(statement)
    connection.commit()
    connection.close()


def keep_bytes(end, file):
    file.write_bytes(file.read_bytes()[:end])


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (Path.unlink, "no such file; expected a search folder"),
        (lambda file: file.write_bytes(b""), "found a file of 0 bytes"),
        (lambda file: file.write_text(json.dumps(JOB) * 100), "found: file is not a database"),
        (lambda file: file.write_bytes(file.read_bytes()[:60]), "found a file of 60 bytes"),
        *(
            (partial(keep_bytes, end), "truncated: expected [0-9]+ bytes, found")
            for end in (4096, 4097, 9000, -1)
        ),
        (
            lambda file: alter(file, "PRAGMA application_id = 7"),
            "expected application_id 0x5a534850, found 0x7",
        ),
        (
            lambda file: alter(file, "PRAGMA user_version = 4"),
            "expected ledger version 3, found version 4; a newer",
        ),
        (lambda file: alter(file, "PRAGMA user_version = 0"), "expected ledger version 3, found version 0"),
    ],
)
def test_open_refuses_what_is_not_a_whole_ledger(whole, tmp_path, damage, match, read_only):
    file = tmp_path / FILE_NAME
    file.write_bytes(whole)
    Ledger.open(tmp_path, read_only=read_only).close()
    damage(file)
    with pytest.raises(LedgerError, match=match) as caught:
        Ledger.open(tmp_path, read_only=read_only)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ('{"lr": "x"}', "lr"),
        ('{"lr": {"a": 1}}', "lr"),
        ('{"metrics": 0.5}', "metrics"),
        ('{"metrics": {"val_auc": "x"}}', "metrics"),
        ('{"metrics": {"val_auc": 1e999}}', "metrics"),
    ],
)
def test_a_metric_of_another_type_is_damage(tmp_path, metrics, named):
    shutil.copy(Path(__file__).parents[1] / "fixtures/search_of_0_1/ledger.sqlite", tmp_path)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        (text,) = connection.execute("SELECT metrics FROM reports WHERE seq = 1").fetchone()
        changed = json.dumps(json.loads(text) | json.loads(metrics))
        connection.execute("UPDATE reports SET metrics = ? WHERE seq = 1", (changed,))
    with Ledger.open(tmp_path, read_only=True) as ledger, pytest.raises(LedgerError, match=named):
        ledger.reports()
