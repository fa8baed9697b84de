"""Reads the last lines that a trial has printed, from `logs/` of its search folder."""

from pathlib import Path

FOLDER_NAME = "logs"


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
            text = (folder / FOLDER_NAME / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            break
        lines = [*text.splitlines(), *lines]
        if len(lines) >= most:
            break
    return lines[-most:]
