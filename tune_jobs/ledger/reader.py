"""Reads the record of a search: trials, reports with their decisions, events, confirmations."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.checks import check_facts, check_metrics, checked
from tune_jobs.ledger.checksums import COLUMNS, checked_rows, has_checksums, matching_rows
from tune_jobs.ledger.rows import OWN_METRICS, Fork


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
        """Reads the entire file and raises `LedgerError` if anything in it is damaged, or no ledger's."""
        with self._translated():
            # Unlike quick_check, it also compares indices with their tables: the writer looks rows up by them.
            (damage,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        if damage != "ok":
            raise self._error(f"the ledger is damaged: {damage}")
        with self.snapshot():
            self._meta("provenance")
            num_reports = sum(1 for _ in self.iter_reports())
            moments = [event["after"] for event in self.events()]
            moments += [trial["ended_after"] or 0 for trial in self.trials()]
            if max(moments, default=0) > num_reports:
                raise self._error(
                    f"the ledger cannot be used: expected report {max(moments)}, found {num_reports}"
                )
            self.jobs()
            self.confirmations()

    def jobs(self) -> list[tuple[int, dict[str, Any]]]:
        """Returns the job as created and as extended, each with the `seq` of the last report before it applied."""
        jobs = [(0, self._meta("job"))]
        jobs += [
            (event["after"], event["data"].get("job")) for event in self.events() if event["kind"] == "job"
        ]
        for _, job in jobs:
            if not isinstance(job, dict) or not isinstance(job.get("name"), str):
                raise self._error("a job in it has no name")
            self._check_facts("job", job)
        return jobs

    def events(self) -> list[dict[str, Any]]:
        """Returns all events in order.

        Each has `after` (the `seq` of the last report before it), `kind`, `trial_id` (or None), `data`, and
        `happened_at` as an aware datetime in UTC. Kinds: a `start` and a `stop` of the search with its reason, a
        `retry` of a trial with its error, the `job` it was extended to, a `checkpoint` that could not be used, a
        `pack` of trials onto GPUs, the `origin` of a trial's configuration, the `fork` that it starts from.
        """
        return [row for _, row in self._rows("events")]

    def forks(self) -> dict[str, Fork]:
        """Returns where the trials start that continue from a trunk, by their ids."""
        forks: dict[str, Fork] = {}
        for event in self.events():
            if event["kind"] == "fork":
                trunk, epoch = event["data"].get("trunk"), event["data"].get("epoch")
                if not isinstance(trunk, str) or type(epoch) is not int or epoch < 1:
                    raise self._error(f"the fork of trial {event['trial_id']!r} has no trunk or no epoch")
                forks[str(event["trial_id"])] = Fork(trunk, epoch)
        return forks

    def confirmations(self) -> dict[str, dict[str, Any]]:
        """Returns all confirmations by their keys, in the order recorded."""
        return {row["key"]: row["data"] for _, row in self._rows("confirmations")}

    def trials(self) -> list[dict[str, Any]]:
        """Returns all trials in the order started.

        Each has the arguments of `start_trial`, `status` (None while it runs), `stop_reason`, `error`,
        `started_at` and `finished_at` as aware datetimes in UTC, `ended_after` (the `seq` of the last report of
        any trial before it ended), and its number of `retries`.
        """
        return [row for _, row in self._rows("trials")]

    def reports(self, trial_id: str | None = None) -> list[dict[str, Any]]:
        """Returns all reports, or those of one trial, as `iter_reports` yields them."""
        return list(self.iter_reports(trial_id))

    def iter_reports(self, trial_id: str | None = None) -> Iterator[dict[str, Any]]:
        """Yields all reports, or those of one trial, in the order recorded.

        Each has `seq` (its number in that order), `trial_id`, `epoch`, each metric by its name, `metrics` (what
        a task of the user's own measured, by name), `decision` (the action), `rung`, `cutoff`, `num_values`, `reason`,
        and `reported_at` as an aware datetime in UTC.
        """
        with nullcontext() if self._connection.in_transaction else self.snapshot():
            trials = {seq: row["trial_id"] for seq, row in self._rows("trials")}
            if trial_id is not None and trial_id not in trials.values():
                raise self._error(f"there is no trial {trial_id!r}; expected one that start_trial recorded")
            forks = self.forks()
            epochs = Counter({seq: forks[name].epoch for seq, name in trials.items() if name in forks})
            is_sealed = has_checksums(self._connection)
            for seq, row in self._rows("reports"):
                trial, metrics = row.pop("trial"), row.pop("metrics")
                epochs[trial] += 1
                if trial not in trials or row["epoch"] != epochs[trial]:
                    raise self._error(
                        f"row {seq} of reports: epoch {row['epoch']} of trial {trials.get(trial, trial)!r}; "
                        f"expected epoch {epochs[trial]} of a trial that started"
                    )
                try:
                    check_metrics(metrics, is_sealed=is_sealed)
                except ValueError as problem:
                    raise self._error(f"row {seq} of reports cannot be used: {problem}") from problem
                if trial_id is None or trials[trial] == trial_id:
                    report = {"seq": seq, "trial_id": trials[trial], "val_accuracy": None, OWN_METRICS: {}}
                    yield {**report, **metrics, **row}

    def num_reports(self) -> dict[str, int]:
        """Returns up to which epoch each trial has reports, without reading them."""
        query = (
            "SELECT trial_id, (SELECT MAX(epoch) FROM reports WHERE trial = t.seq) FROM trials t ORDER BY seq"
        )
        with self._translated():
            return {trial_id: epochs or 0 for trial_id, epochs in self._connection.execute(query)}

    def reports_after(self, trial_id: str, epoch: int) -> list[dict[str, Any]]:
        """Returns a trial's reports after an epoch, as `iter_reports` yields them, without reading any others."""
        reports: list[dict[str, Any]] = []
        with self._translated():
            number, _ = self._trial(trial_id)
            epoch = max(epoch, self._fork_epoch(trial_id))
            is_sealed = has_checksums(self._connection)
            query = "trial = ? AND epoch > ? ORDER BY epoch"
            for seq, row in matching_rows(self._connection, "reports", query, (number, epoch)):
                values = checked("reports", COLUMNS["reports"], row)
                metrics = values.pop("metrics")
                del values["trial"]
                check_metrics(metrics, is_sealed=is_sealed)
                if values["epoch"] != epoch + len(reports) + 1:
                    raise self._error(f"trial {trial_id}: epoch {epoch + len(reports) + 1} is missing")
                report = {"seq": seq, "trial_id": trial_id, "val_accuracy": None, OWN_METRICS: {}}
                reports.append({**report, **metrics, **values})
        return reports

    def metric_names(self) -> list[str]:
        """Returns the names of all numbers that a task of the user's own measured, sorted."""
        query = f"SELECT DISTINCT j.key FROM reports, json_each(reports.metrics, '$.{OWN_METRICS}') j"
        with self._translated():
            return sorted(str(name) for (name,) in self._connection.execute(query) if name is not None)

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
        values = {row["key"]: row["value"] for _, row in self._rows("meta")}
        if key not in values:
            raise self._error(f"the ledger cannot be used: no {key}")
        value: dict[str, Any] = values[key]
        self._check_facts(key, value)
        return value

    def _check_facts(self, key: str, value: Mapping[str, Any]) -> None:
        try:
            check_facts(key, value)
        except ValueError as problem:
            raise self._error(f"the ledger cannot be used: {problem}") from problem

    def _rows(self, table: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields a table's rows by column, each checked, with its `seq`."""
        with self._translated():
            for number, (seq, row) in enumerate(checked_rows(self._connection, table), 1):
                try:
                    values = checked(table, COLUMNS[table], row)
                except ValueError as problem:
                    raise self._error(f"row {seq} of {table} cannot be used: {problem}") from problem
                if seq != number:
                    raise self._error(f"row {number} of {table} is missing")
                yield seq, values

    def _trial(self, trial_id: str) -> tuple[int, str | None]:
        query = "SELECT seq, status FROM trials WHERE trial_id = ?"
        row = self._connection.execute(query, (trial_id,)).fetchone()
        if row is None:
            raise self._error(f"there is no trial {trial_id!r}; expected one that start_trial recorded")
        return row[0], row[1]

    def _fork_epoch(self, trial_id: str) -> int:
        """Returns the epoch that a trial's own follow: 0 unless it continues from a trunk."""
        query = "SELECT json_extract(data, '$.epoch') FROM events WHERE kind = 'fork' AND trial_id = ?"
        row = self._connection.execute(query, (trial_id,)).fetchone()
        return 0 if row is None else int(row[0])

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
