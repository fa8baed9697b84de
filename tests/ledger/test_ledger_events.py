"""The ledger of a search that is resumed: events, retries, extensions, ends that come with a report, damage."""

import random
import signal
import sqlite3
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from ledgers import IN_MEMORY, JOB, ON, start, unchanged_by, writer

from tune_jobs.errors import LedgerError
from tune_jobs.ledger import rows
from tune_jobs.ledger.file import FILE_NAME
from tune_jobs.ledger.rows import EVENTS, STATUSES, Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.trackers.rows import read as tracked


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "search", JOB, {}) as opened:
        yield opened


def states(ledger):
    return {trial["trial_id"]: trial["status"] for trial in ledger.trials()}


def refused(ledger, call, match):
    events = ledger.events()
    unchanged_by(ledger, call, match)
    assert ledger.events() == events


def test_a_clock_that_is_set_changes_no_times(ledger, monkeypatch):
    before = datetime.now(UTC)
    monkeypatch.setattr(rows, "datetime", SimpleNamespace(now=lambda zone: datetime(1970, 1, 1, tzinfo=zone)))
    start(ledger, "a")
    ledger.record_event("start")
    (trial,), (event,) = ledger.trials(), ledger.events()
    assert before - timedelta(minutes=1) < trial["started_at"] <= event["happened_at"]


def test_a_clock_set_back_between_sessions_lets_nothing_end_before_it_started(tmp_path, monkeypatch):
    with Ledger.create(tmp_path / "search", JOB, {}) as ledger:
        start(ledger, "a")
        ledger.record_event("start")
    monkeypatch.setattr(rows, "datetime", SimpleNamespace(now=lambda zone: datetime(1970, 1, 1, tzinfo=zone)))
    with Ledger.open(tmp_path / "search") as ledger:
        ledger.record_event("start")
        ledger.report("a", 1, {}, Decision("complete"), "completed")
        ledger.record_event("stop", {"reason": None})
        (trial,) = ledger.trials()
        search, _ = tracked(ledger)
    assert trial["started_at"] <= trial["finished_at"]
    assert search.started_at <= search.ended_at


@pytest.mark.parametrize("status", STATUSES)
def test_a_report_can_end_its_trial(ledger, status):
    start(ledger, "a")
    start(ledger, "b")
    ledger.report("b", 1, {}, ON)
    ledger.report("a", 1, {}, Decision("stop", reason="below the cutoff"), status)
    ended, other = ledger.trials()
    assert (ended["status"], ended["stop_reason"], ended["error"]) == (status, "below the cutoff", None)
    assert ended["ended_after"] == 2
    assert ledger.reports("a")[0]["reported_at"] <= ended["finished_at"] <= datetime.now(UTC)
    assert (other["status"], other["ended_after"]) == (None, None)
    refused(ledger, lambda: ledger.report("a", 2, {}, ON), f"the trial is {status}")


def test_a_report_that_is_refused_ends_nothing(ledger):
    start(ledger, "a")
    stop = Decision("stop")
    refused(ledger, lambda: ledger.report("a", 1, {}, stop, "done"), "'done'; expected one of")
    refused(ledger, lambda: ledger.report("a", 2, {}, stop, "pruned"), "expected 1")
    refused(ledger, lambda: ledger.report("a", 1, {"val_loss": "x"}, stop, "pruned"), "expected float")


def test_a_report_and_the_end_are_one(ledger):
    """Where the end cannot be written, the report is not written either."""
    start(ledger, "a")
    other = sqlite3.connect(ledger.file)
    other.execute("CREATE TRIGGER no BEFORE UPDATE ON trials BEGIN SELECT RAISE(ABORT, 'disk on fire'); END")
    other.commit()
    refused(ledger, lambda: ledger.report("a", 1, {}, Decision("stop"), "pruned"), "disk on fire")
    refused(ledger, lambda: ledger.retry_trial("a", "raised"), "disk on fire")
    other.execute("DROP TRIGGER no")
    other.commit()
    other.close()
    ledger.report("a", 1, {}, Decision("stop"), "pruned")
    assert states(ledger) == {"a": "pruned"}


def test_ends_know_after_which_report_they_came(ledger):
    for trial in "abc":
        start(ledger, trial)
    ledger.finish_trial("c", "failed", "raised")
    ledger.report("a", 1, {}, ON)
    ledger.report("b", 1, {}, ON)
    ledger.finish_trial("a", "failed", "raised")
    ledger.report("b", 2, {}, Decision("stop"), "pruned")
    assert [trial["ended_after"] for trial in ledger.trials()] == [2, 3, 0]


def test_events_are_kept_in_order_with_what_they_came_after(ledger):
    start(ledger, "a")
    before = datetime.now(UTC)
    ledger.record_event("start", {"slots": 2, "hardware": {"gpus": []}})
    ledger.report("a", 1, {}, ON)
    ledger.retry_trial("a", "Traceback \udcff\nValueError")
    ledger.report("a", 2, {}, ON)
    ledger.record_event("checkpoint", {"trial_id": "a", "problem": "damaged"})
    ledger.record_event("stop")
    folder = ledger.file.parent
    ledger.close()
    with Ledger.open(folder, read_only=True) as again:
        events = again.events()
        refused(again, lambda: again.record_event("stop"), "opened for reading")
    moments = [event.pop("happened_at") for event in events]
    assert [before, *moments] == sorted([before, *moments])
    assert events == [
        {"after": 0, "kind": "start", "trial_id": None, "data": {"slots": 2, "hardware": {"gpus": []}}},
        {"after": 1, "kind": "retry", "trial_id": "a", "data": {"error": "Traceback \\udcff\nValueError"}},
        {"after": 2, "kind": "checkpoint", "trial_id": None, "data": {"trial_id": "a", "problem": "damaged"}},
        {"after": 2, "kind": "stop", "trial_id": None, "data": {}},
    ]


@pytest.mark.parametrize("kind", ["", "ended", "Start", *(f"{kind} " for kind in EVENTS)])
def test_other_events_are_refused(ledger, kind):
    refused(ledger, lambda: ledger.record_event(kind), "expected one of")


def test_an_event_that_json_cannot_hold_is_refused(ledger):
    refused(ledger, lambda: ledger.record_event("stop", {"hours": float("nan")}), "JSON")
    refused(ledger, lambda: ledger.extend({"name": Path()}), "JSON")


def test_retries_are_counted_and_leave_the_trial_running(ledger):
    start(ledger, "a")
    ledger.retry_trial("a", "first")
    ledger.report("a", 1, {}, ON)
    ledger.retry_trial("a", "second")
    (trial,) = ledger.trials()
    assert (trial["retries"], trial["status"], trial["error"]) == (2, None, None)
    assert [event["data"]["error"] for event in ledger.events()] == ["first", "second"]
    ledger.report("a", 2, {}, Decision("stop"), "pruned")
    refused(ledger, lambda: ledger.retry_trial("a", "third"), "it is pruned, not running")
    refused(ledger, lambda: ledger.retry_trial("b", "x"), "no trial 'b'")
    assert ledger.trials()[0]["retries"] == 2


def test_the_job_is_the_last_one_and_all_are_kept(ledger):
    assert ledger.jobs() == [(0, JOB)]
    start(ledger, "a")
    ledger.report("a", 1, {}, ON)
    ledger.extend(JOB | {"more": 1})
    ledger.extend(JOB | {"more": 2})
    ledger.report("a", 2, {}, ON)
    ledger.extend(JOB | {"more": 3})
    assert ledger.job == JOB | {"more": 3}
    assert ledger.jobs() == [(0, JOB), *((after, JOB | {"more": n}) for after, n in ((1, 1), (1, 2), (2, 3)))]


def test_a_trial_is_reopened_for_more_epochs(ledger):
    ends = {"done": "completed", "cut": "interrupted", "weak": "pruned", "bad": "failed"}
    for trial, status in ends.items():
        start(ledger, trial)
        ledger.report(trial, 1, {}, Decision("complete"), status)
    start(ledger, "runs")
    refused(ledger, lambda: ledger.reopen_trial("done"), "done is completed; expected an interrupted one")
    for trial in ("done", "cut", "runs"):
        ledger.reopen_trial(trial, 20)
    for trial in ("weak", "bad"):
        refused(ledger, lambda trial=trial: ledger.reopen_trial(trial, 20), "expected an interrupted one")
    trials = {trial["trial_id"]: trial for trial in ledger.trials()}
    assert {name: trial["max_epochs"] for name, trial in trials.items()} == {
        "done": 20, "cut": 20, "weak": 9, "bad": 9, "runs": 20,
    }  # fmt: skip
    ended = ("status", "stop_reason", "error", "finished_at", "ended_after")
    assert all(trials[trial][name] is None for trial in ("done", "cut") for name in ended)
    ledger.report("done", 2, {}, ON)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE meta SET value = '{' WHERE key = 'job'",
        "DELETE FROM meta",
        "UPDATE trials SET params = 'x'",
        "UPDATE trials SET started_at = 'yesterday'",
        "UPDATE reports SET metrics = '[1'",
        "UPDATE reports SET reported_at = 'x'",
        "UPDATE events SET data = '{]'",
        "DROP TABLE events",
        "UPDATE trials SET study = x'ff'",
    ],
)
def test_content_that_is_not_a_ledgers_is_a_message(ledger, damage):
    start(ledger, "a")
    ledger.report("a", 1, {}, ON)
    ledger.record_event("stop")
    folder = ledger.file.parent
    ledger.close()
    other = sqlite3.connect(folder / FILE_NAME)
    other.execute(damage)
    other.commit()
    other.close()
    with (
        pytest.raises(LedgerError, match=r"ledger\.sqlite: "),
        Ledger.open(folder, read_only=True) as damaged,
    ):
        [damaged.job, damaged.trials(), damaged.reports(), damaged.events(), damaged.jobs()]


@pytest.fixture
def in_memory():
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Path(folder)


def test_kill_at_any_moment_loses_nothing_acknowledged_and_leaves_no_half_event(in_memory):
    """Every call is whole or not there: an end has its report, a retry its event, and events are in order."""
    for attempt in range(4):  # each continues the ledger that the kill before left behind
        with writer(in_memory, f"t{attempt}") as child:
            lines = [child.stdout.readline()]
            time.sleep(random.uniform(0, 0.08))
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        assert child.returncode == -signal.SIGKILL
        with Ledger.open(in_memory) as ledger:
            ledger.check_whole()
            trials, reports, events = ledger.trials(), ledger.reports(), ledger.events()
            epochs = {trial["trial_id"]: [] for trial in trials}
            for report in reports:
                epochs[report["trial_id"]].append(report["epoch"])
            retried = [event["trial_id"] for event in events if event["kind"] == "retry"]
            for trial in trials:
                assert trial["retries"] == retried.count(trial["trial_id"])
                assert (trial["status"] == "pruned") == (epochs[trial["trial_id"]] == [1, 2])
                last = [report["seq"] for report in reports if report["trial_id"] == trial["trial_id"]][-1:]
                assert trial["ended_after"] == (last[0] if trial["status"] else None)
            assert [event["after"] for event in events] == sorted(event["after"] for event in events)
            of_attempt = [trial for trial in trials if trial["trial_id"].startswith(f"t{attempt}-")]
            assert [trial["status"] for trial in of_attempt[:-1]] == ["pruned"] * (len(of_attempt) - 1)
            acknowledged = int([line for line in lines if line.endswith("\n")][-1])
            assert acknowledged <= ledger.job["number"] <= len(of_attempt) <= acknowledged + 1
    assert len(trials) > 4
