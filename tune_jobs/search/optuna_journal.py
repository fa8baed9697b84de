"""A search's Optuna studies in a file that `optuna-dashboard` opens, also while the search runs."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

FILE_NAME = "optuna.journal"


class _OneWriter(BaseJournalBackend):
    """Optuna's journal format without its locks and syncs.

    One process writes, and the file can be made again from the ledger at any time: each report would cost a lock file
    and two syncs for nothing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._unread: list[tuple[int, dict[str, Any]]] = []
        self._count = 0

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Returns the entries from a number on; it only grows from call to call."""
        self._unread = [entry for entry in self._unread if entry[0] >= log_number_from]
        return [log for _, log in self._unread]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds entries, each a line of JSON."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._file.write(("\n".join(lines) + "\n").encode())
        for line in lines:
            self._unread.append((self._count, json.loads(line)))
            self._count += 1


@contextmanager
def new_journal(folder: Path) -> Iterator[JournalStorage]:
    """Yields an empty storage whose file in `folder` takes the place of the one before; at the end it is closed."""
    (folder / FILE_NAME).unlink(missing_ok=True)  # a dashboard that has it open keeps seeing the old one
    with (folder / FILE_NAME).open("wb", buffering=0) as file:
        yield JournalStorage(_OneWriter(file))
