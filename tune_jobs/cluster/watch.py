"""Notices dead processes and nodes sooner than Ray does, which takes 15 seconds for a node and a minute for itself."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray

from tune_jobs.cluster.ray import all_nodes

_LOOK_EVERY_S = 0.5
_NEEDED = ("raylet", "gcs_server")
_ANSWERS_WITHIN_S = 2.0
_ACTOR_ID = re.compile(r"\b[0-9a-f]{32}\b")


def dead_process() -> str | None:
    """Returns the name of a dead process that Ray needs; None if all are alive, or this process did not start Ray."""
    node = ray._private.worker._global_node
    dead: list[tuple[str, Any]] = [] if node is None else node.dead_processes()
    return next((name for name, _ in dead if name in _NEEDED), None)


def has_lost_node(error: str) -> bool:
    """Returns whether a node of the actor that an error names, or of one that it started, is dead or does not answer.

    The error itself does not say so: when a node dies, Ray first calls its actors "unavailable", and the process that
    leads a trial on several nodes may only know that a connection broke.
    """
    actor_id = _ACTOR_ID.search(error)
    if actor_id is None:
        return False
    actors = ray._private.state.actors()
    address = actors.get(actor_id[0], {}).get("Address")
    if address is None:
        return False
    # The worker's address names its process; an actor that is not yet on a node has none.
    team = [address, *(other["Address"] for other in actors.values() if other["OwnerAddress"] == address)]
    nodes = {part["NodeID"] for part in team}
    return any(_is_lost(node) for node in all_nodes() if node["NodeID"] in nodes)


def _is_lost(node: dict[str, Any]) -> bool:
    if not node["Alive"]:
        return True
    try:
        manager = (node["NodeManagerAddress"], node["NodeManagerPort"])
        socket.create_connection(manager, timeout=_ANSWERS_WITHIN_S).close()
    except OSError:
        return True
    return False


def kill_children() -> None:
    """Kills all processes started below this one, which would outlive it for a while."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def watched(on_death: Callable[[str], None]) -> Iterator[None]:
    """Calls `on_death` from a thread with a process's name if one that our own Ray needs dies inside."""
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
