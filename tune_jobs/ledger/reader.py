"""Reads the record of a search: trials, reports with their decisions, events, confirmations."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.rows import DECISION_COLUMNS, EVENT_COLUMNS, TRIAL_COLUMNS


class LedgerReader:
    """Reads an open ledger.

    Every method raises `LedgerError` if the file is not usable.
    """

    file: Path
    _connection: sqlite3.Connection

    @property
    def job(self) -> dict[str, Any]:
        """The resolved job, as it was last extended."""
        return self.jobs()[-1][1]

    @property
    def provenance(self) -> dict[str, Any]:
        """Versions, commit and hardware of the process that created the ledger."""
        return self._meta("provenance")

    def check_whole(self) -> None:
        """Reads the entire file and raises `LedgerError` if a page is damaged."""
        with self._translated():
            (damage,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise self._error(f"the ledger is damaged: {damage}")

    def jobs(self) -> list[tuple[int, dict[str, Any]]]:
        """Returns the job as created and as extended, each with the `seq` of the last report before it applied."""
        extended = [
            (event["after"], event["data"]["job"]) for event in self.events() if event["kind"] == "job"
        ]
        return [(0, self._meta("job")), *extended]

    def events(self) -> list[dict[str, Any]]:
        """Returns all events in order.

        Each has `after` (the `seq` of the last report before it), `kind`, `trial_id` (or None), `data`, and
        `happened_at` as an aware datetime in UTC. Kinds: a `start` and a `stop` of the search with its reason, a
        `retry` of a trial with its error, the `job` it was extended to, a `checkpoint` that could not be used, a
        `pack` of trials onto GPUs.
        """
        with self._translated():
            rows = self._connection.execute(
                f"SELECT {', '.join(EVENT_COLUMNS)} FROM events ORDER BY seq"
            ).fetchall()
            events = [dict(zip(EVENT_COLUMNS, row, strict=True)) for row in rows]
            for event in events:
                event["data"] = json.loads(event["data"])
                event["happened_at"] = datetime.fromisoformat(event["happened_at"])
        return events

    def confirmations(self) -> dict[str, dict[str, Any]]:
        """Returns all confirmations by their keys, in the order recorded."""
        with self._translated():
            rows = self._connection.execute("SELECT key, data FROM confirmations ORDER BY seq").fetchall()
            return {key: json.loads(data) for key, data in rows}

    def trials(self) -> list[dict[str, Any]]:
        """Returns all trials in the order started.

        Each has the arguments of `start_trial`, `status` (None while it runs), `stop_reason`, `error`,
        `started_at` and `finished_at` as aware datetimes in UTC, `ended_after` (the `seq` of the last report of
        any trial before it ended), and its number of `retries`.
        """
        with self._translated():
            query = f"SELECT {', '.join(TRIAL_COLUMNS)} FROM trials ORDER BY seq"
            rows = self._connection.execute(query).fetchall()
            trials = [dict(zip(TRIAL_COLUMNS, row, strict=True)) for row in rows]
            for trial in trials:
                trial["params"] = json.loads(trial["params"])
                trial["started_at"] = datetime.fromisoformat(trial["started_at"])
                trial["finished_at"] = trial["finished_at"] and datetime.fromisoformat(trial["finished_at"])
        return trials

    def reports(self, trial_id: str | None = None) -> list[dict[str, Any]]:
        """Returns all reports, or those of one trial, as `iter_reports` yields them."""
        return list(self.iter_reports(trial_id))

    def iter_reports(self, trial_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Yields all reports, or those of one trial, in the order recorded.

        Each has `seq` (its number in that order), `trial_id`, `epoch`, each metric by its name, `decision` (the
        action), `rung`, `cutoff`, `num_values`, `reason`, and `reported_at` as an aware datetime in UTC.
        """
        query = f"SELECT r.seq, t.trial_id, epoch, metrics, {', '.join(DECISION_COLUMNS)}"
        query += " FROM reports r JOIN trials t ON t.seq = r.trial"
        if trial_id is not None:
            query += " WHERE r.trial = ?"
        with self._translated():
            chosen = () if trial_id is None else self._trial(trial_id)[:1]
            rows = self._connection.execute(f"{query} ORDER BY r.seq", chosen)
            for seq, trial, epoch, metrics, *judged in rows:
                report = {"seq": seq, "trial_id": trial, "epoch": epoch, **json.loads(metrics)}
                report |= zip(DECISION_COLUMNS, judged, strict=True)
                report["reported_at"] = datetime.fromisoformat(report["reported_at"])
                yield report

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Makes everything read inside show the ledger at one moment, even while it is being written."""
        with self._translated():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            with self._translated():
                self._connection.execute("ROLLBACK")

    def _meta(self, key: str) -> dict[str, Any]:
        with self._translated():
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            if row is None:
                raise sqlite3.DatabaseError(f"no {key}")
            value: dict[str, Any] = json.loads(row[0])
        return value

    def _trial(self, trial_id: str) -> tuple[int, str | None]:
        query = "SELECT seq, status FROM trials WHERE trial_id = ?"
        row = self._connection.execute(query, (trial_id,)).fetchone()
        if row is None:
            raise self._error(f"there is no trial {trial_id!r}; expected one that start_trial recorded")
        return row[0], row[1]

    def _error(self, text: str) -> LedgerError:
        return LedgerError(f"{self.file}: {text}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns errors of SQLite, and of values that cannot be parsed, into `LedgerError`."""
        try:
            yield
        except LedgerError:
            raise
        except (sqlite3.Error, ValueError) as problem:  # damaged, disk full, closed; not JSON or not a date
            raise self._error(f"the ledger cannot be used: {problem}") from problem
