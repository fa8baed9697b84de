"""Creates, checks, opens and locks the SQLite file of a ledger."""

import os
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.checksums import add_checksums, has_checksums
from tune_jobs.ledger.contents import check_contents
from tune_jobs.ledger.log import check_log
from zsharp.atomic import atomic_write

if sys.platform != "win32":
    import fcntl

FILE_NAME = "ledger.sqlite"
APPLICATION_ID = 0x5A534850  # "ZSHP", in the file's header
VERSION = 3
_WITHOUT_CHECKSUMS = 2  # as 0.1 wrote them
_LOCK_SUFFIX = ".lock"

_written_here: dict[int, Path] = {}
"""The files that this process has locked for writing, by their locks."""

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
    """Creates an empty ledger, completely or not at all.

    Raises:
        LedgerError: If there is a ledger already, or its folder cannot be created or another process is writing there.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise LedgerError(f"{file}: its folder cannot be created: {problem.strerror}") from problem
    lock = lock_for_writing(file)
    try:
        if file.exists():
            raise LedgerError(f"{file}: there is a ledger already; resume it, or give a folder without one")
        for left in file.parent.glob(f".{file.name}.*"):  # unfinished files of processes that died here
            if left.suffix != _LOCK_SUFFIX:
                left.unlink()
        with (
            atomic_write(file) as unfinished,
            closing(sqlite3.connect(unfinished, isolation_level=None)) as connection,
        ):
            # A journal is not needed: if anything fails, `atomic_write` removes the file.
            connection.executescript(f"PRAGMA journal_mode = OFF; BEGIN; {_TABLES}")
            connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            add_checksums(connection)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        _sync_folder(file.parent)
    finally:
        unlock(lock)


def open_file(file: Path, *, read_only: bool) -> sqlite3.Connection:
    """Checks a ledger and returns a connection in autocommit mode; the writer's commits are synced to disk.

    Raises:
        LedgerError: If the file is missing, truncated, not a ledger, or a ledger of another version.
    """
    if not is_there(file):
        raise LedgerError(f"{file}: no such file; expected a search folder, as `tune-jobs run` writes it")
    # Closing any descriptor of the file, or of SQLite's index beside it, would release the locks that a connection of
    # this process holds: another process would then take the log for left behind and cut off what is being read.
    is_own = read_only and file.resolve() in list(_written_here.values())
    if not is_own:
        check_contents(file.parent)
        _check_log(file, read_only=read_only)
    try:
        address = f"{file.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}"
        connection = sqlite3.connect(address, uri=True, isolation_level=None, timeout=30)
        try:
            # Whatever is wrong in an index or a schema from elsewhere stays data.
            connection.execute("PRAGMA trusted_schema = OFF")
            _check(file, connection, is_own=is_own)
            if not read_only:
                connection.execute("BEGIN IMMEDIATE")  # raises where the file cannot be written
                connection.execute("ROLLBACK")
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, UnicodeDecodeError) as problem:  # text of a damaged schema is not UTF-8
        if not is_own:
            _check_length(file)  # SQLite's own message would only be "malformed"
        raise LedgerError(f"{file}: expected a ledger (version {VERSION}), found: {problem}") from problem
    return connection


def upgrade(connection: sqlite3.Connection) -> bool:
    """Adds checksums to a ledger without them, in one transaction; returns whether it had none."""
    if has_checksums(connection):
        return False
    connection.execute("BEGIN IMMEDIATE")
    try:
        add_checksums(connection)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return True


def is_there(file: Path) -> bool:
    """Returns whether a file exists; False if no file can have this name."""
    try:
        return file.is_file()
    except OSError:  # the name is too long
        return False


def identity(file: Path) -> tuple[int, int] | None:
    """Returns a file's device and inode, which another file of the same name does not have; None if it is missing."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def lock_for_writing(file: Path) -> int | None:
    """Locks the file's folder until `unlock` is called or the process ends, however it ends.

    Returns:
        The lock for `unlock`; None on Windows, where only SQLite's own locks protect the file.

    Raises:
        LedgerError: If another process holds the lock, or the file system has no locks.
    """
    if sys.platform == "win32":
        return None
    # Not the file itself: closing any of its descriptors would release SQLite's own locks in this process.
    try:
        folder = os.open(file.parent, os.O_RDONLY)
    except OSError as problem:
        raise LedgerError(f"{file.parent}: cannot be opened: {problem.strerror}") from problem
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(folder)
        if isinstance(problem, BlockingIOError):
            raise LedgerError(f"{file}: another process is writing this ledger") from problem
        folder = _lock_beside(file)
    _written_here[folder] = file.resolve()
    return folder


def _lock_beside(file: Path) -> int:
    """Locks a file beside the ledger, as SQLite locks: on some network file systems nothing else can be locked."""
    beside = file.with_name(f".{file.name}{_LOCK_SUFFIX}")
    try:
        lock = os.open(beside, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as problem:
        raise LedgerError(f"{beside}: cannot be opened: {problem.strerror}") from problem
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        os.close(lock)
        if isinstance(problem, BlockingIOError | PermissionError):
            raise LedgerError(f"{file}: another process is writing this ledger") from problem
        raise LedgerError(
            f"{file}: its file system cannot lock files ({problem.strerror}), so two processes could write at once;"
            " expected a search folder on another one"
        ) from problem
    return lock


def unlock(lock: int | None) -> None:
    """Releases what `lock_for_writing` returned."""
    if lock is not None:
        _written_here.pop(lock, None)
        os.close(lock)


def keep_durably(connection: sqlite3.Connection) -> str:
    """Makes every commit durable and returns the journal in use: "wal", or "delete" if WAL is impossible."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    try:
        return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
    except sqlite3.OperationalError:  # file systems without shared memory refuse, or answer "delete"
        return str(connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0])


def leave_one_file(connection: sqlite3.Connection) -> None:
    """Moves the write-ahead log into the file and removes it, unless another process is reading."""
    # A log that stays is harmless: the next process that opens the file reads it.
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA journal_mode = DELETE")


def _check_log(file: Path, *, read_only: bool) -> None:
    try:
        check_log(file)
    except LedgerError:
        # A process that writes at this moment changes the log while it is read here. It checked what it opened.
        if not (read_only and _is_being_written(file)):
            check_log(file)


def _is_being_written(file: Path) -> bool:
    try:
        unlock(lock_for_writing(file))
    except LedgerError as problem:
        # A file system without locks says nothing about writers, so damage must not be passed over.
        return isinstance(problem.__cause__, BlockingIOError)
    return False


def _check(file: Path, connection: sqlite3.Connection, *, is_own: bool) -> None:
    def pragma(name: str) -> int:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

    application, version = pragma("application_id"), pragma("user_version")
    size = file.stat().st_size
    if size < 512:  # no database is that small, but SQLite would treat it as an empty one
        raise LedgerError(f"{file}: expected a ledger (version {VERSION}), found a file of {size} bytes")
    if application != APPLICATION_ID:
        raise LedgerError(
            f"{file}: not a ledger: expected application_id {APPLICATION_ID:#x}, found {application:#x}"
        )
    if version not in (VERSION, _WITHOUT_CHECKSUMS):
        advice = "; a newer zsharp-tune wrote it: update zsharp-tune to read it" if version > VERSION else ""
        raise LedgerError(f"{file}: expected ledger version {VERSION}, found version {version}{advice}")
    if not is_own:
        _check_length(file)
    _check_schema(file, connection, version)


def _check_schema(file: Path, connection: sqlite3.Connection, version: int) -> None:
    """Raises LedgerError if the file has other tables than a ledger, or anything that runs code, as triggers do."""
    # SQLite's own names begin with `sqlite_`.
    query = r"SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'"
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(_TABLES)
        if version != _WITHOUT_CHECKSUMS:
            add_checksums(empty)
        expected = dict(empty.execute(query).fetchall())
    tables = dict(connection.execute(query).fetchall())
    if wrong := sorted(
        str(name) for name in expected.keys() | tables.keys() if expected.get(name) != tables.get(name)
    ):
        raise LedgerError(f"{file}: not a ledger, or damaged: found other tables than a ledger's: {wrong}")


def _check_length(file: Path) -> None:
    """Raises LedgerError if the header promises more pages than the file has."""
    log = file.with_name(f"{file.name}-wal")
    if log.exists() and log.stat().st_size > 0:  # some pages are still in the log only
        return
    with file.open("rb") as opened:
        header = opened.read(100)
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    expected = page_bytes * int.from_bytes(header[28:32], "big")
    if header[24:28] != header[92:96]:  # the header's number of pages is out of date
        return
    # Read the header before the size: the file may grow in between, but never shrinks.
    if header.startswith(b"SQLite format 3\0") and (size := file.stat().st_size) < expected:
        raise LedgerError(f"{file}: truncated: expected {expected} bytes, found {size}")


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # without it, the new name may not survive a power loss
    finally:
        os.close(descriptor)
