"""Keeps a ledger in an object store, which receives each transaction before the local SQLite file commits it.

Below `ledger/` the store holds a copy of the file (`base-N.sqlite`, with the first N transactions) and one small object
for each later transaction (`N.json`, its statements with their values). Objects are written completely or not at all,
so the record has no gaps, whichever process dies when. After many transactions a new copy replaces them.

Object stores have no locks. `writer.json` names the process that writes; a process that reads another name stops.
"""

import json
import os
import re
import shutil
import socket
import sqlite3
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tune_jobs.errors import LedgerError, StorageError
from tune_jobs.ledger.file import FILE_NAME
from tune_jobs.storage import RemoteFolder

Statement = tuple[str, Sequence[Any]]
# A new copy is due after this many transactions, and after this fraction of those in the last copy, so that the
# total size of all copies stays proportional to the ledger.
_MIN_NEW = 200
_MIN_NEW_FRACTION = 0.2
_CHECK_WRITER_EVERY_S = 5.0
_LONGEST_NAME = 200
# What the transactions since the last copy may take. One of ours takes some hundred steps of SQLite's machine, and they
# are at most as many as `is_copy_due` says.
_STEPS_AT_ONCE = 100_000
_MOST_STEPS = 2_000_000_000
_LONGEST_VALUE = 1 << 24  # bytes of one text or row
_MOST_GROWTH = 1 << 28  # bytes
# Other objects, such as copies that somebody keeps beside them, are passed over.
_BASE, _ENTRY = re.compile(r"base-(0|[1-9][0-9]{0,17})\.sqlite"), re.compile(r"([1-9][0-9]{0,17})\.json")

_ALLOWED = {
    *(sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ),
    sqlite3.SQLITE_TRANSACTION,
}


def _allow_rows_only(action: int, *_: str | None) -> int:
    """Lets statements insert and change rows, and nothing else: they may come from a stranger."""
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _limit(connection: sqlite3.Connection, file: Path) -> None:
    """Bounds what statements from a stranger may take: time, memory, and how far the file grows."""
    steps = 0

    def is_too_long() -> bool:
        nonlocal steps
        steps += 1
        return steps > _MOST_STEPS // _STEPS_AT_ONCE

    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    most_bytes = 2 * file.stat().st_size + _MOST_GROWTH
    connection.execute(f"PRAGMA max_page_count = {most_bytes // page_bytes}")
    connection.set_progress_handler(is_too_long, _STEPS_AT_ONCE)


class RemoteRecord:
    """The objects of one ledger."""

    def __init__(self, remote: RemoteFolder) -> None:
        self._remote = remote
        self._name = json.dumps(f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex}").encode()
        self._count = 0  # number of stored transactions
        self._base = -1  # how many of them the copy holds; -1 without a copy
        self._checked_writer_s = 0.0
        self.failure: str | None = None  # why nothing can be stored any more

    @property
    def exists(self) -> bool:
        """Whether the store holds a ledger."""
        return bool(self._listed()[0])

    def pull(self, folder: Path) -> None:
        """Creates the ledger's file in `folder` from the stored objects, which must exist.

        A file that an earlier call created, and that has not been written to, is updated.
        """
        bases, entries = self._listed()
        file = folder / FILE_NAME
        # An earlier file can be updated only if the transactions after it have not been replaced by a newer copy.
        can_update = self._base >= 0 and max(bases) <= self._count and file.exists()
        if not can_update:
            shutil.rmtree(folder, ignore_errors=True)
            self._base = self._count = max(bases)
            if not self._remote.pull(f"ledger/base-{self._base}.sqlite", file):
                raise LedgerError(
                    f"{self._remote.address}: base-{self._base}.sqlite vanished while it was read; try again"
                )
        self._base = max(bases)
        later = sorted(number for number in entries if number > self._count)
        if later != list(range(self._count + 1, self._count + 1 + len(later))):
            raise LedgerError(
                f"{self._remote.address}: transactions are missing among {later[:3]}...{later[-3:]}"
            )
        contents = self._remote.read_all(f"ledger/{number}.json" for number in later)
        with closing(sqlite3.connect(file)) as connection:
            _limit(connection, file)
            connection.set_authorizer(_allow_rows_only)
            for number, content in zip(later, contents, strict=True):
                name = f"{self._remote.address}: {number}.json"
                if content is None:
                    raise LedgerError(f"{name} vanished while the ledger was read; try again")
                try:
                    for statement, values in json.loads(content):
                        connection.execute(statement, values)
                except (sqlite3.Error, ValueError, TypeError, OverflowError, RecursionError) as problem:
                    raise LedgerError(f"{name} is no transaction of a ledger: {problem}") from problem
            connection.commit()
        self._count += len(later)

    def take_over(self) -> None:
        """Makes this process the writer. The previous writer stops when it next checks."""
        self._remote.write("ledger/writer.json", self._name)
        self._checked_writer_s = time.monotonic()

    def store(self, statements: Sequence[Statement]) -> None:
        """Stores one transaction, which is durable once this returns.

        Raises:
            LedgerError: If it could not be stored, or another process has become the writer.
        """
        try:
            self._store(statements)
        except (StorageError, LedgerError) as error:
            self.failure = str(error)
            raise LedgerError(self.failure) from error

    def _store(self, statements: Sequence[Statement]) -> None:
        # Not before every transaction: it costs a request. A second writer goes unnoticed for at most these seconds.
        if time.monotonic() - self._checked_writer_s > _CHECK_WRITER_EVERY_S:
            writer = self._remote.read("ledger/writer.json")
            if writer is not None and writer != self._name:
                other = writer[:_LONGEST_NAME].decode(errors="replace").strip('"')
                raise LedgerError(
                    f"{self._remote.address}: {other} is writing this ledger now; this search stops"
                )
            self._checked_writer_s = time.monotonic()
        self._remote.write(f"ledger/{self._count + 1}.json", json.dumps(statements).encode())
        self._count += 1

    @property
    def is_copy_due(self) -> bool:
        """Whether there are enough transactions since the last copy to make a new one."""
        return self._base < 0 or self._count - self._base > max(_MIN_NEW, _MIN_NEW_FRACTION * self._base)

    def store_copy(self, connection: sqlite3.Connection, scratch: Path) -> None:
        """Stores the whole ledger, then deletes the old copy and its transactions."""
        scratch.unlink(missing_ok=True)
        copy = sqlite3.connect(scratch)
        with copy:
            connection.backup(copy)
        copy.close()
        # Only once the new copy is stored may the old objects go: until then they are the record.
        self._remote.push(scratch, f"ledger/base-{self._count}.sqlite")
        scratch.unlink()
        self._base = self._count
        bases, entries = self._listed()
        old = [f"ledger/base-{number}.sqlite" for number in bases if number < self._base]
        self._remote.delete([*old, *(f"ledger/{number}.json" for number in entries if number <= self._base)])

    def _listed(self) -> tuple[list[int], list[int]]:
        """Returns the numbers in the names of the stored copies and transactions."""
        names = self._remote.names("ledger")
        bases = [int(match[1]) for match in map(_BASE.fullmatch, names) if match]
        return bases, [int(match[1]) for match in map(_ENTRY.fullmatch, names) if match]
