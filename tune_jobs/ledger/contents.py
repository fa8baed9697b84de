"""Checks that a search folder, which may be a stranger's, holds files and folders of its own, no links or pipes."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tune_jobs.errors import LedgerError

_FILES = ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "ledger.sqlite-journal", "job.yaml")
_FOLDERS = ("checkpoints", "parquet", "logs", "tensorboard", "report_files")


def check_contents(folder: Path) -> None:
    """Checks what is read, replaced and deleted in a search folder. The folder itself may be a link.

    Raises:
        LedgerError: If something there leads elsewhere, where a search would read, write or delete, or is a pipe or a
            device, which would be read for ever.
    """
    for path, mode in _entries(folder):
        if stat.S_ISLNK(mode):
            raise LedgerError(f"{path}: a link; a search folder holds its own files: put what it names there")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise LedgerError(f"{path}: neither a file nor a folder; remove it")


def _entries(folder: Path) -> Iterator[tuple[Path, int]]:
    for name in _FILES:
        yield from _entry(folder / name)
    for name in _FOLDERS:
        yield from _entry(folder / name)
        try:
            with os.scandir(folder / name) as inside:
                for entry in inside:
                    if not entry.is_file(follow_symlinks=False):
                        yield from _entry(Path(entry.path))
        except OSError:  # missing, or a file; whoever needs it says so
            continue


def _entry(path: Path) -> Iterator[tuple[Path, int]]:
    try:
        yield path, path.lstat().st_mode
    except (OSError, ValueError):  # missing
        return
