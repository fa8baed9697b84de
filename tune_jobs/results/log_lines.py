"""Reads the last lines that a trial has printed, from `logs/` of its search folder."""

import os
import stat
from pathlib import Path

FOLDER_NAME = "logs"
_MOST_BYTES = 1 << 20


def files_of(trial_id: str) -> list[str]:
    """Returns the names of the files with a trial's lines, the newest lines first."""
    return [f"{trial_id}.log", f"{trial_id}.log.1"]


def last_lines(folder: Path, trial_id: str, most: int) -> list[str]:
    """Returns at most so many of the last lines that a trial printed; none if it printed nothing.

    Args:
        folder: A local search folder.
    """
    if trial_id != Path(trial_id).name:  # a ledger from elsewhere may name any file
        return []
    lines: list[str] = []
    for name in files_of(trial_id):
        try:
            text = _text(folder / FOLDER_NAME / name)
        except OSError:
            break
        lines = [*text.splitlines(), *lines]
        if len(lines) >= most:
            break
    return lines[-most:]


def _text(file: Path) -> str:
    """Returns the last part of a file; a folder from elsewhere may have a link or a pipe in its place."""
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as opened:  # noqa: PTH123 (pathlib opens no descriptors)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{file} is no file")
        opened.seek(max(0, status.st_size - _MOST_BYTES))
        return opened.read(_MOST_BYTES).decode("utf-8", errors="replace")
