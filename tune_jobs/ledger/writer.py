"""The durable record of a search: every trial, every report, and the decision taken on each.

One SQLite file, `ledger.sqlite`, in the search folder. One process writes it (the driver; a second writer is
refused), any number may read meanwhile. Each call is one transaction: it happened, or it did not.

- `kill -9` of the writer loses nothing that a call has returned from; the call under way is there or not.
- Power loss or a kernel panic lose nothing either, as far as the disk honours fsync: every commit is synced
  (`synchronous=FULL`; 0.1 ms a report on an idle local disk, 0.7 ms on a busy one).
- The write-ahead log (`ledger.sqlite-wal`) is part of the record while it is there: copy it too. Closing
  leaves one file, which can be read where nothing can be written.
  Where the file system cannot keep one, SQLite's rollback journal takes over (slower, as durable).
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.file import (
    FILE_NAME,
    is_there,
    leave_one_file,
    lock_for_writing,
    make_file,
    open_file,
    unlock,
)
from tune_jobs.ledger.reader import LedgerReader
from tune_jobs.ledger.rows import (
    ACTIONS,
    DECISION_COLUMNS,
    EVENT_COLUMNS,
    EVENTS,
    METRICS,
    RESERVED,
    START_COLUMNS,
    STATUSES,
    Decision,
    as_json,
    as_text,
    now,
    plain,
)

if TYPE_CHECKING:
    from tune_jobs.ledger.mirror import RemoteRecord


class Ledger(LedgerReader):
    """An open ledger; get one from `create` or `open`, and close it or use it as a context manager.

    Belongs to the thread that opened it. Every method raises `LedgerError`, and changes nothing, where the
    file is not usable or a call would make the record untrue.
    """

    def __init__(self, file: Path, *, read_only: bool) -> None:
        self.file = file
        self.read_only = read_only
        self.record: RemoteRecord | None = None  # where each transaction is stored before it counts
        self._statements: list[tuple[str, Sequence[Any]]] = []
        self._lock = lock_for_writing(file) if is_there(file) and not read_only else None
        try:
            self._connection = open_file(file, read_only=read_only)
        except BaseException:
            unlock(self._lock)
            raise

    @classmethod
    def create(cls, folder: Path, job: Mapping[str, Any], provenance: Mapping[str, Any]) -> Self:
        """Start the record of a search in `folder` (made if missing), which must have none.

        Args:
            folder: the search folder.
            job: the resolved job, as JSON can hold it; has a "name".
            provenance: versions, commit and hardware, as `tune_jobs.provenance.provenance` collects them.
        """
        file = Path(folder) / FILE_NAME
        if not job.get("name"):
            raise LedgerError(f"{file}: expected a job with a 'name', found the keys {sorted(job)}")
        meta = {"job": as_json(job, f"{file}: job"), "provenance": as_json(provenance, f"{file}: provenance")}
        make_file(file, meta)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> Self:
        """Open the record of a search: for its one writer, or for reading (also while another writes)."""
        return cls(Path(folder) / FILE_NAME, read_only=read_only)

    def start_trial(
        self,
        trial_id: str,
        *,
        study: str,
        number: int,
        dataset: str,
        architecture: str,
        method: str,
        variant: str | None,
        seed: int,
        params: Mapping[str, float],
        max_epochs: int,
    ) -> None:
        """Record that a trial begins; `trial_id` is new in this ledger, `params` are finite."""
        values = {name: self._value(f"{trial_id}: params.{name}", v, float) for name, v in params.items()}
        if None in values.values():
            raise self._error(f"trial {trial_id}: params {dict(params)}; expected finite numbers")
        start = (trial_id, study, number, dataset, architecture, method, variant, seed)
        with self._writing() as connection:
            if connection.execute("SELECT 1 FROM trials WHERE trial_id = ?", (trial_id,)).fetchone():
                raise self._error(f"trial {trial_id} was started before; expected a new trial_id")
            self._write(
                f"INSERT INTO trials ({', '.join(START_COLUMNS)}, params, max_epochs, started_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*start, json.dumps(values), max_epochs, now()),
            )

    def report(
        self,
        trial_id: str,
        epoch: int,
        metrics: Mapping[str, float | int | str | None],
        decision: Decision,
        ends_as: str | None = None,
    ) -> None:
        """Record one epoch of a running trial, the decision taken on it, and the trial's end if that was it.

        Args:
            trial_id: a trial that is not finished.
            epoch: 1 for the first report, then one more each time.
            metrics: by name, those of `METRICS` and others; NaN and infinities become null (not measured).
            decision: what was decided, and on which inputs.
            ends_as: one of `STATUSES` if the trial ends here, with the decision's reason.
        """
        where = f"{trial_id}, epoch {epoch}"
        if ends_as is not None and ends_as not in STATUSES:
            raise self._error(f"trial {where}: status {ends_as!r}; expected one of {STATUSES}")
        if decision.action not in ACTIONS:
            raise self._error(f"trial {where}: decision {decision.action!r}; expected one of {ACTIONS}")
        if taken := sorted(RESERVED & set(metrics)):
            raise self._error(f"trial {where}: metrics {taken}; expected other names, the ledger uses these")
        values = {name: self._value(f"{where}: {name}", v, METRICS.get(name)) for name, v in metrics.items()}
        cutoff = self._value(f"{where}: cutoff", decision.cutoff, float)
        judged = (decision.action, decision.rung, cutoff, decision.num_values, as_text(decision.reason))
        with self._writing() as connection:
            trial, status = self._trial(trial_id)
            if status is not None:
                raise self._error(f"trial {where}: the trial is {status}; expected a running one")
            query = "SELECT max(epoch) FROM reports WHERE trial = ?"
            last = connection.execute(query, (trial,)).fetchone()[0] or 0
            if epoch != last + 1:
                raise self._error(f"trial {where}: the last epoch reported is {last}; expected {last + 1}")
            self._write(
                f"INSERT INTO reports (trial, epoch, metrics, {', '.join(DECISION_COLUMNS)})"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (trial, epoch, json.dumps(values), *judged, now()),
            )
            if ends_as is not None:
                self._end(trial, ends_as, decision.reason, None)

    def finish_trial(self, trial_id: str, status: str, stop_reason: str, error: str | None = None) -> None:
        """Record how a running trial ended: one of `STATUSES`, why, and its error's text if it had one."""
        if status not in STATUSES:
            raise self._error(f"trial {trial_id}: status {status!r}; expected one of {STATUSES}")
        with self._writing():
            trial, before = self._trial(trial_id)
            if before is not None:
                raise self._error(f"trial {trial_id}: it is {before}, not running; cannot become {status}")
            self._end(trial, status, stop_reason, error)

    def reopen_trial(self, trial_id: str, max_epochs: int | None = None) -> None:
        """Let an interrupted trial run again; its next report is the one after its last.

        Args:
            trial_id: an interrupted trial; with `max_epochs`, a running or a completed one too.
            max_epochs: its full number of epochs from now on, more than before.
        """
        with self._writing():
            trial, status = self._trial(trial_id)
            if status != "interrupted" and not (status in (None, "completed") and max_epochs is not None):
                raise self._error(f"trial {trial_id} is {status or 'running'}; expected an interrupted one")
            self._write(
                "UPDATE trials SET status = NULL, stop_reason = NULL, error = NULL, finished_at = NULL,"
                " ended_after = NULL, max_epochs = coalesce(?, max_epochs) WHERE seq = ?",
                (max_epochs, trial),
            )

    def retry_trial(self, trial_id: str, error: str) -> None:
        """Record that a running trial's worker raised, died or hung, and that the trial is tried again."""
        with self._writing():
            trial, status = self._trial(trial_id)
            if status is not None:
                raise self._error(f"trial {trial_id}: it is {status}, not running; cannot be tried again")
            self._write("UPDATE trials SET retries = retries + 1 WHERE seq = ?", (trial,))
            self._add_event("retry", {"error": as_text(error)}, trial_id)

    def record_event(self, kind: str, data: Mapping[str, Any] | None = None) -> None:
        """Record what happened to the search as a whole: one of `EVENTS`, with what JSON can hold."""
        if kind not in EVENTS:
            raise self._error(f"event {kind!r}; expected one of {EVENTS}")
        with self._writing():
            self._add_event(kind, data or {}, None)

    def extend(self, job: Mapping[str, Any]) -> None:
        """Record that the search goes on as another job: more trials, epochs or budget."""
        self.record_event("job", {"job": dict(job)})

    def confirm(self, key: str, row: Mapping[str, Any]) -> None:
        """Record one confirmation under a key that is new in this ledger; `row` is what JSON can hold."""
        with self._writing() as connection:
            if connection.execute("SELECT 1 FROM confirmations WHERE key = ?", (key,)).fetchone():
                raise self._error(f"confirmation {key} was recorded before; expected a new one")
            data = as_json(row, f"{self.file}: confirmation {key}")
            self._write("INSERT INTO confirmations (key, data) VALUES (?, ?)", (key, data))

    def store_copy(self) -> None:
        """Store the whole record remotely, if it is kept there and has grown, or never was."""
        if self.record is not None and self.record.is_copy_due:
            self.record.store_copy(self._connection, self.file.with_suffix(".copy"))

    def close(self) -> None:
        """Close the file, and let another process write it; a second call does nothing."""
        if not self.read_only:
            leave_one_file(self._connection)
        self._connection.close()
        unlock(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _write(self, statement: str, values: Sequence[Any]) -> None:
        self._connection.execute(statement, values)
        self._statements.append((statement, values))

    def _end(self, trial: int, status: str, stop_reason: str, error: str | None) -> None:
        self._write(
            "UPDATE trials SET status = ?, stop_reason = ?, error = ?, finished_at = ?, ended_after = ?"
            " WHERE seq = ?",
            (status, as_text(stop_reason), as_text(error), now(), self._last_seq(), trial),
        )

    def _add_event(self, kind: str, data: Mapping[str, Any], trial_id: str | None) -> None:
        self._write(
            f"INSERT INTO events ({', '.join(EVENT_COLUMNS)}) VALUES (?, ?, ?, ?, ?)",
            (self._last_seq(), kind, trial_id, as_json(data, f"{self.file}: {kind}"), now()),
        )

    def _last_seq(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(seq), 0) FROM reports").fetchone()[0])

    def _value(self, where: str, value: object, kind: type | None) -> float | int | str | None:
        known = plain(value, kind)
        if value is not None and known is None and not isinstance(value, Real):
            raise self._error(f"trial {where}: {value!r}; expected a number, a text or None")
        if known is not None and kind is not None and not isinstance(known, kind):
            raise self._error(f"trial {where}: {value!r}; expected {kind.__name__} or None")
        return known

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self.read_only:
            raise self._error("it was opened for reading; expected a ledger opened for writing")
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            self._statements.clear()
            try:
                yield self._connection
                if self.record is not None:
                    self.record.store(self._statements)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
