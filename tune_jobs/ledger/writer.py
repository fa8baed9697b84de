"""Writes the durable record of a search: its trials, their reports, and the decision on each report.

The record is one SQLite file, `ledger.sqlite`, in the search folder. One process writes it (the driver; a second writer
is refused) while any number of processes read it. Each call is one transaction: it takes effect as a whole or not at
all.

- `kill -9` of the writer loses nothing: calls that have returned are recorded.
- Neither does power loss or a kernel panic, if the disk honours fsync: every commit is synced (`synchronous=FULL`;
  0.1 ms per report on an idle local disk, 0.7 ms on a busy one).
- While the write-ahead log (`ledger.sqlite-wal`) exists it is part of the record, so copy it too. Closing leaves one
  file, which can be read on read-only storage. File systems that cannot keep such a log get SQLite's rollback
  journal, which is slower but as durable.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tune_jobs.errors import LedgerError, LedgerLostError
from tune_jobs.ledger.checksums import seal_statements
from tune_jobs.ledger.file import (
    FILE_NAME,
    identity,
    is_there,
    keep_durably,
    leave_one_file,
    lock_for_writing,
    make_file,
    open_file,
    unlock,
    upgrade,
)
from tune_jobs.ledger.reader import LedgerReader
from tune_jobs.ledger.rows import (
    ACTIONS,
    DECISION_COLUMNS,
    EVENT_COLUMNS,
    EVENTS,
    METRICS,
    OWN_METRICS,
    RESERVED,
    START_COLUMNS,
    STATUSES,
    Clock,
    Decision,
    Fork,
    as_json,
    as_text,
    plain,
)

if TYPE_CHECKING:
    from tune_jobs.ledger.mirror import RemoteRecord


class Ledger(LedgerReader):
    """An open ledger, from `create` or `open`; close it, or use it as a context manager.

    It belongs to the thread that opened it. Every method raises `LedgerError` and changes nothing if the file is not
    usable, or the call contradicts the record.
    """

    def __init__(self, file: Path, *, read_only: bool) -> None:
        self.file = file
        self.read_only = read_only
        self.record: RemoteRecord | None = None  # stores each transaction remotely before it is committed
        self._statements: list[tuple[str, Sequence[Any]]] = []
        self._is_prepared = False  # for writing
        self._clock = Clock()
        self._lock = lock_for_writing(file) if is_there(file) and not read_only else None
        try:
            self._connection = open_file(file, read_only=read_only)
            self._identity = identity(file)
        except BaseException:
            unlock(self._lock)
            raise

    @classmethod
    def create(cls, folder: Path, job: Mapping[str, Any], provenance: Mapping[str, Any]) -> Self:
        """Creates the record of a search.

        Args:
            folder: The search folder, created if missing; must not have a ledger.
            job: The resolved job as JSON types, with a "name".
            provenance: Versions, commit and hardware, as `tune_jobs.provenance.provenance` collects them.
        """
        file = Path(folder) / FILE_NAME
        if not job.get("name"):
            raise LedgerError(f"{file}: expected a job with a 'name', found the keys {sorted(job)}")
        meta = {"job": as_json(job, f"{file}: job"), "provenance": as_json(provenance, f"{file}: provenance")}
        make_file(file, meta)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, *, read_only: bool = False) -> Self:
        """Opens the record of a search as its only writer, or for reading, even while another process writes."""
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
        params: Mapping[str, bool | int | float | str],
        max_epochs: int,
        origin: str | None = None,
        fork: Fork | None = None,
    ) -> None:
        """Records the start of a trial; `trial_id` must be new in this ledger, and numbers in `params` finite.

        Args:
            origin: Who proposed the configuration.
            fork: Which trial's epochs it continues from; its first report is of the epoch after them.
        """
        values = {
            name: value if isinstance(value, bool) else plain(value, None) for name, value in params.items()
        }
        if None in values.values():
            raise self._error(
                f"trial {trial_id}: params {dict(params)}; expected finite numbers, text or booleans"
            )
        start = (trial_id, study, number, dataset, architecture, method, variant, seed)
        with self._writing() as connection:
            if connection.execute("SELECT 1 FROM trials WHERE trial_id = ?", (trial_id,)).fetchone():
                raise self._error(f"trial {trial_id} has started before; expected a new trial_id")
            row = dict(zip(START_COLUMNS, start, strict=True))
            row |= {"params": json.dumps(values), "max_epochs": max_epochs, "started_at": self._clock.now()}
            self._insert("trials", row)
            if origin is not None:
                self._add_event("origin", {"origin": as_text(origin)}, trial_id)
            if fork is not None:
                self._add_event("fork", {"trunk": fork.trunk, "epoch": fork.epoch}, trial_id)

    def report(
        self,
        trial_id: str,
        epoch: int,
        metrics: Mapping[str, float | int | str | Mapping[str, float | None] | None],
        decision: Decision,
        ends_as: str | None = None,
    ) -> None:
        """Records an epoch of a running trial, the decision on it, and the trial's end if it ends here.

        Args:
            epoch: 1 for the first report, or the one after its trunk's last, then one more each time.
            metrics: Values by name, those of `METRICS` and others, and under `metrics` the numbers of a task of the
                user's own. NaN and infinities become null (not measured).
            ends_as: One of `STATUSES` if the trial ends here, for the decision's reason.
        """
        where = f"{trial_id}, epoch {epoch}"
        if ends_as is not None and ends_as not in STATUSES:
            raise self._error(f"trial {where}: status {ends_as!r}; expected one of {STATUSES}")
        if decision.action not in ACTIONS:
            raise self._error(f"trial {where}: decision {decision.action!r}; expected one of {ACTIONS}")
        if taken := sorted(RESERVED & set(metrics)):
            raise self._error(
                f"trial {where}: metrics {taken}; expected other names; these are the ledger's own"
            )
        values: dict[str, Any] = {
            name: self._value(f"{where}: {name}", v, METRICS.get(name))
            for name, v in metrics.items()
            if name != OWN_METRICS
        }
        if own := metrics.get(OWN_METRICS):
            values[OWN_METRICS] = self._numbers(where, own)
        cutoff = self._value(f"{where}: cutoff", decision.cutoff, float)
        judged = (decision.action, decision.rung, cutoff, decision.num_values, as_text(decision.reason))
        with self._writing() as connection:
            trial, status = self._trial(trial_id)
            if status is not None:
                raise self._error(f"trial {where}: the trial is {status}; expected a running one")
            query = "SELECT max(epoch) FROM reports WHERE trial = ?"
            last = connection.execute(query, (trial,)).fetchone()[0]
            if last is None:
                last = self._fork_epoch(trial_id)
            if epoch != last + 1:
                raise self._error(f"trial {where}: the last epoch reported is {last}; expected {last + 1}")
            row = {"trial": trial, "epoch": epoch, "metrics": json.dumps(values)}
            self._insert(
                "reports", row | dict(zip(DECISION_COLUMNS, (*judged, self._clock.now()), strict=True))
            )
            if ends_as is not None:
                self._end(trial, ends_as, decision.reason, None)

    def finish_trial(self, trial_id: str, status: str, stop_reason: str, error: str | None = None) -> None:
        """Records the end of a running trial: one of `STATUSES`, the reason, and the error's text if there is one."""
        if status not in STATUSES:
            raise self._error(f"trial {trial_id}: status {status!r}; expected one of {STATUSES}")
        with self._writing():
            trial, before = self._trial(trial_id)
            if before is not None:
                raise self._error(f"trial {trial_id}: it is {before}, not running; cannot become {status}")
            self._end(trial, status, stop_reason, error)

    def reopen_trial(self, trial_id: str, max_epochs: int | None = None) -> None:
        """Lets an interrupted trial run again; its next report follows its last.

        Args:
            trial_id: An interrupted trial; with `max_epochs`, also a running or completed one.
            max_epochs: Its new full number of epochs, more than before.
        """
        with self._writing():
            trial, status = self._trial(trial_id)
            if status != "interrupted" and not (status in (None, "completed") and max_epochs is not None):
                raise self._error(f"trial {trial_id} is {status or 'running'}; expected an interrupted one")
            changes = dict.fromkeys(("status", "stop_reason", "error", "finished_at", "ended_after"))
            self._change(trial, changes if max_epochs is None else changes | {"max_epochs": max_epochs})

    def retry_trial(self, trial_id: str, error: str) -> None:
        """Records that a running trial's worker raised, died or hung, and that the trial is retried."""
        with self._writing() as connection:
            trial, status = self._trial(trial_id)
            if status is not None:
                raise self._error(f"trial {trial_id}: it is {status}, not running; cannot be retried")
            query = "SELECT retries FROM trials WHERE seq = ?"
            self._change(trial, {"retries": connection.execute(query, (trial,)).fetchone()[0] + 1})
            self._add_event("retry", {"error": as_text(error)}, trial_id)

    def record_event(self, kind: str, data: Mapping[str, Any] | None = None) -> None:
        """Records an event of the search: one of `EVENTS`, with data of JSON types."""
        if kind not in EVENTS:
            raise self._error(f"event {kind!r}; expected one of {EVENTS}")
        with self._writing():
            self._add_event(kind, data or {}, None)

    def extend(self, job: Mapping[str, Any]) -> None:
        """Records that the search continues as a changed job, with more trials, epochs or budget."""
        self.record_event("job", {"job": dict(job)})

    def confirm(self, key: str, row: Mapping[str, Any]) -> None:
        """Records a confirmation under a key that is new in this ledger; `row` has JSON types."""
        with self._writing() as connection:
            if connection.execute("SELECT 1 FROM confirmations WHERE key = ?", (key,)).fetchone():
                raise self._error(f"confirmation {key} was recorded before; expected a new one")
            data = as_json(row, f"{self.file}: confirmation {key}")
            self._insert("confirmations", {"key": key, "data": data})

    def store_copy(self) -> None:
        """Stores a copy of the entire record remotely, if it is kept remotely and a new copy is due."""
        if self.record is not None and self.record.is_copy_due:
            self._store_copy()

    @property
    def loss(self) -> str | None:
        """How the file was lost since it was opened; None if it is there."""
        now = identity(self.file)
        if now == self._identity:
            return None
        change = "vanished" if now is None else "was replaced"
        return f"{self.file}: the search folder {change} while it was in use, so nothing can be recorded"

    def close(self) -> None:
        """Closes the file, so that another process may write it; a second call does nothing."""
        if self._is_prepared and self.loss is None:  # else the log of that name may be another ledger's
            leave_one_file(self._connection)
        self._connection.close()
        unlock(self._lock)
        self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _store_copy(self) -> None:
        assert self.record is not None, "a ledger that is kept only here"
        self.record.store_copy(self._connection, self.file.with_suffix(".copy"))

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        seq = self._write(statement, tuple(row.values()))
        assert seq is not None, "an insertion without a row"
        self._seal(table, seq)

    def _change(self, trial: int, changes: Mapping[str, Any]) -> None:
        settings = ", ".join(f"{name} = ?" for name in changes)
        self._write(f"UPDATE trials SET {settings} WHERE seq = ?", (*changes.values(), trial))
        self._seal("trials", trial)

    def _seal(self, table: str, seq: int) -> None:
        for statement, values in seal_statements(self._connection, table, seq):
            self._write(statement, values)

    def _write(self, statement: str, values: Sequence[Any]) -> int | None:
        self._statements.append((statement, values))
        return self._connection.execute(statement, values).lastrowid

    def _end(self, trial: int, status: str, stop_reason: str, error: str | None) -> None:
        ended = {"status": status, "stop_reason": as_text(stop_reason), "error": as_text(error)}
        query = "SELECT started_at FROM trials WHERE seq = ?"
        (started_at,) = self._connection.execute(query, (trial,)).fetchone()
        # The clock may have been set back since an earlier session started it.
        finished_at = max(started_at, self._clock.now())
        self._change(trial, ended | {"finished_at": finished_at, "ended_after": self._last_seq()})

    def _add_event(self, kind: str, data: Mapping[str, Any], trial_id: str | None) -> None:
        row = (self._last_seq(), kind, trial_id, as_json(data, f"{self.file}: {kind}"), self._clock.now())
        self._insert("events", dict(zip(EVENT_COLUMNS, row, strict=True)))

    def _last_seq(self) -> int:
        return int(self._connection.execute("SELECT coalesce(max(seq), 0) FROM reports").fetchone()[0])

    def _value(self, where: str, value: object, kind: type | None) -> float | int | str | None:
        """Returns a value as a JSON type, or None if it is not finite; refuses values of other kinds."""
        known = plain(value, kind)
        if value is not None and known is None and not isinstance(value, Real):
            raise self._error(f"trial {where}: {value!r}; expected a number, a text or None")
        if known is not None and kind is not None and not isinstance(known, kind):
            raise self._error(f"trial {where}: {value!r}; expected {kind.__name__} or None")
        return known

    def _numbers(self, where: str, numbers: object) -> dict[str, float | int | str | None]:
        if not isinstance(numbers, Mapping):
            raise self._error(f"trial {where}: {OWN_METRICS}: {numbers!r}; expected numbers by name")
        return {name: self._value(f"{where}: {OWN_METRICS}.{name}", v, float) for name, v in numbers.items()}

    def _prepare(self) -> None:
        """Before the first transaction: only then is anything in the file changed."""
        if self._is_prepared:
            return
        keep_durably(self._connection)
        if upgrade(self._connection) and self.record is not None:
            # What is stored remotely are statements, which need the new columns in the copy that they follow.
            self._store_copy()
        self._is_prepared = True

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Makes what is written inside one transaction, which an exception rolls back."""
        if self.read_only:
            raise self._error("it was opened for reading; expected a ledger opened for writing")
        with self._translated():
            # SQLite would write on into a file that has no name any more.
            if (loss := self.loss) is not None:
                raise LedgerLostError(loss)
            self._prepare()
            self._connection.execute("BEGIN IMMEDIATE")
            self._statements.clear()
            try:
                yield self._connection
                # Remotely first: a process that dies in between leaves the store ahead of this file, which is then
                # rebuilt from the store. The other way round, a later process would not see the transaction.
                if self.record is not None:
                    self.record.store(self._statements)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
