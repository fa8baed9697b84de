"""Only one process writes a search to a tracker at a time: two would each write what the other has not yet noted."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tune_jobs.errors import TrackerError

if sys.platform != "win32":
    import fcntl


@contextmanager
def turn(folder: Path, kind: str) -> Iterator[None]:
    """Inside, no other process on this machine writes this search to this kind of tracker.

    Raises:
        TrackerError: If another one does.
    """
    if sys.platform == "win32":
        yield
        return
    try:
        lock = os.open(folder / f".{kind}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # a folder that cannot be written: nobody runs the search there
        yield
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = f"{folder}: another process is writing this search to {kind}, as a running search does; wait for it"
            raise TrackerError(text) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(lock)
