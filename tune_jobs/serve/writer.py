"""Tells whether a process is writing a search, and which: it holds the lock of the ledger."""

import os
import sys
from pathlib import Path

from tune_jobs.ledger.file import FILE_NAME

if sys.platform != "win32":
    import fcntl

_LOCKS = Path("/proc/locks")


def writer_of(folder: Path) -> int | None:
    """Returns the process id of a search's driver on this machine.

    Returns:
        The id; None if nobody writes; 0 if somebody does who cannot be named: on another machine, or on a system
        without `/proc`.
    """
    held = _listed(folder)
    if held is not None:
        return held
    return 0 if _is_locked(folder) else None


def _listed(folder: Path) -> int | None:
    """Returns who holds the lock as the kernel lists it; looking there disturbs nobody."""
    inodes = {}
    for path in (folder, folder / f".{FILE_NAME}.lock"):  # as `tune_jobs.ledger.file` locks
        try:
            inodes[path.stat().st_ino] = path.resolve()
        except OSError:
            continue
    try:
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()  # 1: FLOCK ADVISORY WRITE 4711 00:2f:1234 0 EOF
        if len(fields) < 6 or fields[1] == "->" or fields[3] != "WRITE":
            continue
        inode = int(fields[5].rpartition(":")[2])
        pid = int(fields[4])
        # Inodes repeat on other file systems, and the device listed is not always the one that `stat` returns.
        if inode in inodes and pid > 0 and _has_open(pid, inodes[inode]):
            return pid
    return None


def _has_open(pid: int, path: Path) -> bool:
    try:
        return any(entry.readlink() == path for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # somebody else's process, or one that has just ended
        return False


def _is_locked(folder: Path) -> bool:
    """Tries the lock for a moment, shared: it is held on another machine, or where locks are not listed."""
    if sys.platform == "win32":
        return False
    for path, lock in ((folder, fcntl.flock), (folder / f".{FILE_NAME}.lock", fcntl.lockf)):
        try:
            opened = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            lock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            continue
        finally:
            os.close(opened)
    return False
