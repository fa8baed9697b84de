"""Checksums of a ledger's rows, so that damage is refused by name and never read as a result.

Each row has one. For each table the ledger also keeps the number of its rows and the sum (exclusive or) of their
checksums, which shows rows that are missing, or old, though each by itself is fine. Ledgers of 0.1 have neither, and
get them when they are next written.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from tune_jobs.ledger.rows import DECISION_COLUMNS, EVENT_COLUMNS, TRIAL_COLUMNS

COLUMNS: dict[str, tuple[str, ...]] = {
    "meta": ("key", "value"),
    "trials": TRIAL_COLUMNS,
    "reports": ("trial", "epoch", "metrics", *DECISION_COLUMNS),
    "events": EVENT_COLUMNS,
    "confirmations": ("key", "data"),
}
"""The columns of each table, without `seq` and `checksum`."""


def has_checksums(connection: sqlite3.Connection) -> bool:
    """Whether the ledger's rows have checksums."""
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'checksums'").fetchone())


def add_checksums(connection: sqlite3.Connection) -> None:
    """Adds checksums to a ledger without them, inside a transaction."""
    connection.execute(
        "CREATE TABLE checksums (name TEXT PRIMARY KEY, num_rows INTEGER NOT NULL, digest INTEGER NOT NULL)"
    )
    for table in COLUMNS:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN checksum INTEGER")
        rows = connection.execute(f"SELECT rowid, {', '.join(COLUMNS[table])} FROM {table}").fetchall()
        digest = 0
        for seq, *row in rows:
            checksum = _checksum(table, seq, row)
            connection.execute(f"UPDATE {table} SET checksum = ? WHERE rowid = ?", (checksum, seq))
            digest ^= checksum
        connection.execute("INSERT INTO checksums VALUES (?, ?, ?)", (table, len(rows), digest))


def seal_statements(
    connection: sqlite3.Connection, table: str, seq: int
) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yields the statements that bring the checksums up to date after a row was inserted or changed."""
    query = f"SELECT checksum, {', '.join(COLUMNS[table])} FROM {table} WHERE rowid = ?"
    before, *row = connection.execute(query, (seq,)).fetchone()
    checksum = _checksum(table, seq, row)
    yield f"UPDATE {table} SET checksum = ? WHERE rowid = ?", (checksum, seq)
    num_rows, digest = connection.execute(
        "SELECT num_rows, digest FROM checksums WHERE name = ?", (table,)
    ).fetchone()
    totals = (num_rows + (before is None), digest ^ checksum ^ (before or 0), table)
    yield "UPDATE checksums SET num_rows = ?, digest = ? WHERE name = ?", totals


def checked_rows(connection: sqlite3.Connection, table: str) -> Iterator[tuple[int, list[Any]]]:
    """Yields each row of a table with its `seq`, in order; its checksum is checked first, if the ledger has them.

    Raises:
        sqlite3.DatabaseError: If a row does not match its checksum, or the rows do not match those of the table.
    """
    columns = ", ".join(COLUMNS[table])
    if not has_checksums(connection):
        for seq, *row in connection.execute(f"SELECT rowid, {columns} FROM {table} ORDER BY rowid"):
            yield seq, row
        return
    # One statement, so that rows and totals are those of one moment even while another process writes.
    rows = connection.execute(
        f"SELECT num_rows, digest, r.rowid, checksum, {columns} FROM checksums c LEFT JOIN {table} r"
        " WHERE c.name = ? ORDER BY r.rowid",
        (table,),
    )
    count = total = 0
    expected: tuple[Any, Any] | None = None
    for num_rows, digest, seq, checksum, *row in rows:
        expected = (num_rows, digest)
        if seq is None:  # the table is empty
            continue
        if checksum != _checksum(table, seq, row):
            raise sqlite3.DatabaseError(f"row {seq} of {table} is damaged: it does not match its checksum")
        count, total = count + 1, total ^ checksum
        yield seq, row
    if expected != (count, total):
        raise sqlite3.DatabaseError(
            f"rows of {table} are damaged: read {count}, which do not match their checksum"
        )


def matching_rows(
    connection: sqlite3.Connection, table: str, condition: str, values: Sequence[Any]
) -> Iterator[tuple[int, list[Any]]]:
    """Yields the rows of a table for which an SQL condition holds, each checked against its own checksum only.

    Raises:
        sqlite3.DatabaseError: If a row does not match its checksum.
    """
    sealed = has_checksums(connection)
    columns = ", ".join(COLUMNS[table])
    query = f"SELECT rowid, {'checksum' if sealed else 'NULL'}, {columns} FROM {table} WHERE {condition}"
    for seq, checksum, *row in connection.execute(query, values):
        if sealed and checksum != _checksum(table, seq, row):
            raise sqlite3.DatabaseError(f"row {seq} of {table} is damaged: it does not match its checksum")
        yield seq, row


def _checksum(table: str, seq: int, row: Sequence[Any]) -> int:
    """Returns 64 bits as SQLite's signed integers; of a value that no row of ours has, those of its description."""
    text = json.dumps([table, seq, row], default=repr)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
