"""The Ray that a search runs on: one already there, or one started on this machine."""

import logging
import os
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from tune_jobs.cluster.slots import Slots
from tune_jobs.errors import JobError, Problem

_ANSWERS_WITHIN_S = 5

# Ray Tune reads these when a run starts. Nothing depends on its own files, loggers and snapshots.
_TUNE_ENV = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",  # of a worker that does not end when told to
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}

# What these say at these levels is about files we switched off, or said at every start.
_CHATTER = {
    "ray.tune.analysis.experiment_analysis": logging.ERROR,
    "ray.tune.tune": logging.CRITICAL,
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
}


@dataclass(frozen=True)
class Totals:
    """What there is to run trials on.

    Attributes:
        cpus: Cores.
        gpus: GPUs, as many as Ray counts.
        gpus_per_node: GPUs of the machine that has most; None where there are none.
        gpu_names: Their makes where they are this machine's, else none.
    """

    cpus: float
    gpus: float
    gpus_per_node: int | None
    gpu_names: tuple[str, ...] = ()


def is_remote() -> bool:
    """Whether there is a Ray to connect to: started by the caller, or named by `RAY_ADDRESS`."""
    return bool(ray.is_initialized() or os.environ.get("RAY_ADDRESS"))


def connect() -> None:
    """Connects to the Ray that `RAY_ADDRESS` names, unless the caller has.

    Raises:
        JobError: If none answers there.
    """
    if ray.is_initialized():
        return
    address = os.environ["RAY_ADDRESS"]
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():  # Ray itself would try for minutes, and log all the while
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN_S).close()
        with _without_future_warnings():
            ray.init(logging_level=logging.WARNING)
    except (OSError, OverflowError, ValueError) as error:
        message = f"no Ray answers there ({error}); expected host:port of a running one, or no RAY_ADDRESS"
        raise JobError([Problem("RAY_ADDRESS", address, message)]) from error


def local_totals() -> Totals:
    """Counts this machine's cores (those this process may use) and GPUs, without starting Ray."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = tuple(torch.cuda.get_device_name(i) for i in range(gpus))
    return Totals(_num_cpus(), gpus, gpus or None, names)


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows have no affinities


def cluster_totals() -> Totals:
    """Counts what the connected Ray has."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    per_node = max((node["Resources"].get("GPU", 0) for node in all_nodes() if node["Alive"]), default=0)
    return Totals(resources.get("CPU", 0), resources.get("GPU", 0), int(per_node) or None)


def all_nodes() -> list[dict[str, Any]]:
    """Returns what Ray knows of its nodes, dead ones too."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def node_name() -> str:
    """Returns what the node of this process is called: its address, unless it was given a name.

    Nodes that share a name, such as several on one machine, are told apart by the start of Ray's id.
    """
    return told_apart(ray.get_runtime_context().get_node_id(), all_nodes())


def told_apart(node_id: str, nodes: Sequence[Mapping[str, Any]]) -> str:
    """Returns the name of one of some nodes, with the start of its id if another living one has the same."""
    names = {node["NodeID"]: str(node["NodeName"]) for node in nodes if node["Alive"]}
    name = names[node_id]
    return name if list(names.values()).count(name) == 1 else f"{name}/{node_id[:8]}"


def start_local(totals: Totals, threads_per_trial: int) -> None:
    """Starts Ray on this machine, with workers that have torch loaded before a trial needs it."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_trial))
    # Threads that spin while they wait take the cores that other trials need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("RAY_preload_python_modules", "torch,zsharp.training.training")
    # Otherwise Ray starts a worker for each core at once, and again one for each trial: twice the imports of torch.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # Metrics and usage reports are for clusters; here they are processes and threads nobody looks at.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    with _without_future_warnings():
        ray.init(
            num_cpus=int(totals.cpus),
            num_gpus=int(totals.gpus),
            include_dashboard=False,
            logging_level=logging.WARNING,
        )


@contextmanager
def ray_session(slots: Slots, totals: Totals) -> Iterator[None]:
    """The environment that Tune reads, and a Ray of our own if there is none."""
    before = {name: os.environ.get(name) for name in _TUNE_ENV}
    levels = {name: logging.getLogger(name).level for name in _CHATTER}
    os.environ.update(_TUNE_ENV)
    for name, level in _CHATTER.items():
        logging.getLogger(name).setLevel(level)
    owned = not is_remote()
    try:
        if owned:
            start_local(totals, max(1, int(slots.cpus_per_trial)))
        yield
    finally:
        if owned:
            ray.shutdown()
        for name, logger_level in levels.items():
            logging.getLogger(name).setLevel(logger_level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _without_future_warnings() -> Iterator[None]:
    """Ray announces changes of its defaults at every start, to whoever uses this program."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        yield
