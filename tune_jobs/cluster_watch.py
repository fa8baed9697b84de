"""Notices that a Ray of our own has died below a search: Ray itself needs a minute for that, then ends the process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray

_LOOK_EVERY_S = 0.5
_NEEDED = ("raylet", "gcs_server")


def dead_process() -> str | None:
    """Returns the name of a process that the Ray of this process cannot do without, and that is dead.

    Returns:
        None if all live, or if the Ray is not one that this process started.
    """
    node = ray._private.worker._global_node
    dead: list[tuple[str, Any]] = [] if node is None else node.dead_processes()
    return next((name for name, _ in dead if name in _NEEDED), None)


def kill_children() -> None:
    """Kills all processes below this one, which would outlive it for a while."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def watched(on_death: Callable[[str], None]) -> Iterator[None]:
    """Calls `on_death` from a thread with the name of a dead process of our own Ray, if one dies inside."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_LOOK_EVERY_S):
            if (name := dead_process()) is not None:
                on_death(name)
                return

    thread = threading.Thread(target=watch, name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
