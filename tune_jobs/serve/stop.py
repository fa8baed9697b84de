"""Stops a search from its page: its driver gets the signal that Ctrl-C sends."""

import os
import signal

from tune_jobs.serve.searches import Search
from tune_jobs.serve.writer import writer_of


def can_stop(search: Search) -> bool:
    """Returns whether the search's driver runs on this machine and can be named."""
    return bool(search.pid)


def stop(search: Search) -> str | None:
    """Sends SIGINT to the driver of a search.

    Returns:
        None if it was sent, otherwise the reason.
    """
    # Not the id of the last look: another process may have it by now.
    pid = writer_of(search.live.folder) if can_stop(search) else None
    if not pid:
        return "Its driver does not run on this machine, or cannot be named here."
    try:
        os.kill(pid, signal.SIGINT)
    except OSError as problem:
        return f"Its driver, process {pid}, cannot be signalled: {problem.strerror}."
    return None
