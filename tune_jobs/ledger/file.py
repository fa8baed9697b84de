"""Makes, checks and opens the SQLite file under a ledger, for its one writer or for reading."""

import os
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from tune_jobs.errors import LedgerError
from zsharp.atomic import atomic_write

if sys.platform != "win32":
    import fcntl

FILE_NAME = "ledger.sqlite"
APPLICATION_ID = 0x5A534850  # "ZSHP", in the file's header
VERSION = 2

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (
    seq INTEGER PRIMARY KEY, trial_id TEXT NOT NULL UNIQUE, study TEXT NOT NULL, number INTEGER NOT NULL,
    dataset TEXT NOT NULL, architecture TEXT NOT NULL, method TEXT NOT NULL, variant TEXT,
    seed INTEGER NOT NULL, params TEXT NOT NULL, max_epochs INTEGER NOT NULL,
    status TEXT, stop_reason TEXT, error TEXT, started_at TEXT NOT NULL, finished_at TEXT,
    ended_after INTEGER, retries INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE reports (
    seq INTEGER PRIMARY KEY, trial INTEGER NOT NULL REFERENCES trials (seq), epoch INTEGER NOT NULL,
    metrics TEXT NOT NULL, decision TEXT NOT NULL, rung INTEGER, cutoff REAL, num_values INTEGER,
    reason TEXT NOT NULL, reported_at TEXT NOT NULL, UNIQUE (trial, epoch)
);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, after INTEGER NOT NULL, kind TEXT NOT NULL, trial_id TEXT, data TEXT NOT NULL,
    happened_at TEXT NOT NULL
);
CREATE TABLE confirmations (seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, data TEXT NOT NULL);
"""


def make_file(file: Path, meta: Mapping[str, str]) -> None:
    """Writes an empty ledger, whole or not at all.

    Raises:
        LedgerError: There is a ledger already, or its folder cannot be made or is in use by another process.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise LedgerError(f"{file}: its folder cannot be made: {problem.strerror}") from problem
    lock = lock_for_writing(file)
    try:
        if file.exists():
            raise LedgerError(
                f"{file}: there is a ledger already; expected a folder without one, or resume it"
            )
        for left in file.parent.glob(f".{file.name}.*"):  # by processes that died here
            left.unlink()
        with (
            atomic_write(file) as unfinished,
            closing(sqlite3.connect(unfinished, isolation_level=None)) as connection,
        ):
            # No journal: if anything fails here, the file is removed.
            connection.executescript(f"PRAGMA journal_mode = OFF; BEGIN; {_TABLES}")
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        _sync_folder(file.parent)
    finally:
        unlock(lock)


def open_file(file: Path, *, read_only: bool) -> sqlite3.Connection:
    """Checks a ledger and returns a connection to it, in autocommit mode. The writer's commits are synced.

    Raises:
        LedgerError: the file is missing, truncated, another program's, or of another version.
    """
    if not is_there(file):
        raise LedgerError(f"{file}: no such file; expected a search folder, as `tune-jobs run` writes it")
    try:
        address = f"{file.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=30)
        try:
            _check(file, connection)
            if not read_only:
                keep_durably(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as problem:
        _check_length(file)  # SQLite says no more than "malformed"
        raise LedgerError(f"{file}: expected a ledger (version {VERSION}), found: {problem}") from problem
    return connection


def is_there(file: Path) -> bool:
    """Whether a file exists. False also for names that no file can have."""
    try:
        return file.is_file()
    except OSError:  # the name is too long
        return False


def lock_for_writing(file: Path) -> int | None:
    """Locks the file's folder until `unlock` or the end of the process, however it ends.

    Returns:
        What `unlock` takes; None where the file system has no locks. Then only SQLite's own locks protect the file.
    """
    if sys.platform == "win32":
        return None
    # Not the file itself: closing any descriptor of it would drop SQLite's own locks in this process.
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(folder)
        if isinstance(problem, BlockingIOError):
            raise LedgerError(f"{file}: another process is writing this ledger") from problem
        return None
    return folder


def unlock(lock: int | None) -> None:
    """Releases what `lock_for_writing` returned."""
    if lock is not None:
        os.close(lock)


def keep_durably(connection: sqlite3.Connection) -> str:
    """Makes every commit durable. Returns the journal in use: "wal", or "delete" where WAL is impossible."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    try:
        return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
    except sqlite3.OperationalError:  # a file system without shared memory refuses, or answers "delete"
        return str(connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0])


def leave_one_file(connection: sqlite3.Connection) -> None:
    """Moves the write-ahead log into the file and removes it, unless another process is reading."""
    with suppress(sqlite3.Error):  # a log that stays does no harm: the next process to open the file uses it
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA journal_mode = DELETE")


def _check(file: Path, connection: sqlite3.Connection) -> None:
    def pragma(name: str) -> int:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

    application, version = pragma("application_id"), pragma("user_version")
    size = file.stat().st_size
    if size < 512:  # less than any database; SQLite would take it for an empty one
        raise LedgerError(f"{file}: expected a ledger (version {VERSION}), found a file of {size} bytes")
    if application != APPLICATION_ID:
        raise LedgerError(
            f"{file}: not a ledger: expected application_id {APPLICATION_ID:#x}, found {application:#x}"
        )
    if version != VERSION:
        advice = "; a newer zsharp-tune wrote it: update to read it" if version > VERSION else ""
        raise LedgerError(f"{file}: expected ledger version {VERSION}, found version {version}{advice}")
    _check_length(file)


def _check_length(file: Path) -> None:
    """Raises LedgerError if the header promises more pages than the file has."""
    log = file.with_name(f"{file.name}-wal")
    if log.exists() and log.stat().st_size > 0:  # some pages are only in the log yet
        return
    with file.open("rb") as opened:
        header = opened.read(100)
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    expected = page_bytes * int.from_bytes(header[28:32], "big")
    if header[24:28] != header[92:96]:  # the header's number of pages is out of date
        return
    # The header first, then the size: the file only grows meanwhile.
    if header.startswith(b"SQLite format 3\0") and (size := file.stat().st_size) < expected:
        raise LedgerError(f"{file}: truncated: expected {expected} bytes, found {size}")


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the new name survives power loss too
    finally:
        os.close(descriptor)
