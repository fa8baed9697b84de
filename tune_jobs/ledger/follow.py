"""Follows a ledger that another process writes: each look reads only the rows that are new or changed.

The file is open during a look only, so that the writer can put its log away when it ends.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.checks import check_metrics, checked
from tune_jobs.ledger.checksums import COLUMNS, has_checksums, matching_rows
from tune_jobs.ledger.file import FILE_NAME, open_file
from tune_jobs.ledger.rows import OWN_METRICS

_MOST_REPORTS = 5_000  # in one look


@dataclass
class News:
    """What a look found. Rows are as `LedgerReader` returns them.

    Attributes:
        is_another: Whether the file was replaced since the last look: everything read before is void.
        trials: Trials that are new or have changed.
        has_more: Whether there are more reports than one look reads.
    """

    is_another: bool = False
    meta: dict[str, dict[str, Any]] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    confirmations: dict[str, dict[str, Any]] = field(default_factory=dict)
    has_more: bool = False


class Follower:
    """Reads the ledger of a local search folder, again and again; use it in one thread at a time."""

    _inode: int | None
    _seen: tuple[int, ...]
    _has_more: bool

    def __init__(self, folder: Path) -> None:
        self.file = Path(folder) / FILE_NAME
        self._forget()

    def look(self) -> News | None:
        """Returns what is new since the last look; None if nothing is.

        Each row is checked by itself. That rows are missing is noticed by `Ledger`, which reads the entire file.

        Raises:
            LedgerError: If there is no ledger that can be used.
        """
        stamp = self._stamp()
        if stamp == self._seen and not self._has_more:
            return None
        news = News(is_another=self._inode is not None and stamp[0] != self._inode)
        if news.is_another:
            self._forget()
        try:
            with closing(open_file(self.file, read_only=True)) as connection:
                connection.execute("BEGIN")
                self._read(connection, news)
        except LedgerError:
            raise
        except (sqlite3.Error, ValueError) as problem:
            raise LedgerError(f"{self.file}: the ledger cannot be used: {problem}") from problem
        self._inode, self._seen, self._has_more = stamp[0], stamp, news.has_more
        return news

    def _forget(self) -> None:
        self._inode = None
        self._seen = ()
        self._has_more = False
        self._last = {"reports": 0, "events": 0, "confirmations": 0}
        self._trial_ids: dict[int, str] = {}
        self._checksums: dict[int, int | None] = {}

    def _stamp(self) -> tuple[int, ...]:
        try:
            status = self.file.stat()
        except OSError as problem:
            raise LedgerError(f"{self.file}: cannot be read: {problem.strerror}") from problem
        stamp = [status.st_ino, status.st_size, status.st_mtime_ns]
        try:
            log = self.file.with_name(f"{self.file.name}-wal").stat()
            stamp += [log.st_size, log.st_mtime_ns]
        except OSError:
            pass
        return tuple(stamp)

    def _read(self, connection: sqlite3.Connection, news: News) -> None:
        if not self._trial_ids:
            news.meta = {row["key"]: row["value"] for _, row in self._rows(connection, "meta", "1", ())}
        self._read_trials(connection, news)
        is_sealed = has_checksums(connection)
        for seq, row in self._rows(connection, "reports", "rowid > ? AND rowid <= ?", self._next_reports()):
            metrics, trial = row.pop("metrics"), row.pop("trial")
            check_metrics(metrics, is_sealed=is_sealed)
            if trial not in self._trial_ids:
                raise LedgerError(f"{self.file}: row {seq} of reports is of no trial that started")
            report = {"seq": seq, "trial_id": self._trial_ids[trial], "val_accuracy": None, OWN_METRICS: {}}
            news.reports.append({**report, **metrics, **row})
            self._last["reports"] = seq
        news.has_more = len(news.reports) == _MOST_REPORTS
        for table in ("events", "confirmations"):
            for seq, row in self._rows(connection, table, "rowid > ?", (self._last[table],)):
                self._last[table] = seq
                if table == "events":
                    news.events.append(row)
                else:
                    news.confirmations[row["key"]] = row["data"]

    def _next_reports(self) -> tuple[int, int]:
        return self._last["reports"], self._last["reports"] + _MOST_REPORTS

    def _read_trials(self, connection: sqlite3.Connection, news: News) -> None:
        """Reads the trials whose checksum is not the one they had; all of them in a ledger without checksums."""
        checksum = "checksum" if has_checksums(connection) else "NULL"
        checksums = dict(connection.execute(f"SELECT rowid, {checksum} FROM trials").fetchall())
        changed = [seq for seq, now in checksums.items() if now is None or self._checksums.get(seq) != now]
        if not changed:
            return
        numbers = range(min(changed), max(changed) + 1)
        wanted = set(changed)
        rows = self._rows(connection, "trials", "rowid BETWEEN ? AND ?", (numbers[0], numbers[-1]))
        for seq, row in rows:
            if seq in wanted:
                self._trial_ids[seq] = row["trial_id"]
                self._checksums[seq] = checksums[seq]
                news.trials.append(row)

    def _rows(
        self, connection: sqlite3.Connection, table: str, condition: str, values: tuple[Any, ...]
    ) -> Any:
        for seq, row in matching_rows(connection, table, f"{condition} ORDER BY rowid", values):
            try:
                yield seq, checked(table, COLUMNS[table], row)
            except ValueError as problem:
                raise LedgerError(f"{self.file}: row {seq} of {table} cannot be used: {problem}") from problem
