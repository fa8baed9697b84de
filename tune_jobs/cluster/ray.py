"""Connects to a running Ray, or starts one on this machine, for a search to run on."""

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
from zsharp.cpu import num_cpus

_ANSWERS_WITHIN_S = 5

# Ray Tune reads these when a run starts. They switch off its own files, loggers and snapshots: the ledger has it all.
_TUNE_ENV = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",  # for workers that do not end when told to
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}

# Below these levels, these loggers complain about files that we switched off, or repeat themselves at every start.
_LOG_LEVELS = {
    "ray.tune.analysis.experiment_analysis": logging.ERROR,
    "ray.tune.tune": logging.CRITICAL,
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
}


@dataclass(frozen=True)
class Totals:
    """The resources that trials can use."""

    cpus: float
    gpus: float  # GPUs, as Ray counts them
    gpu_names: tuple[str, ...] = ()  # the models of this machine's GPUs; empty for a cluster


def is_running_elsewhere() -> bool:
    """Returns whether to use a Ray that is running: the caller has connected to it, or `RAY_ADDRESS` names it."""
    return bool(ray.is_initialized() or os.environ.get("RAY_ADDRESS"))


def connect() -> None:
    """Connects to the Ray that `RAY_ADDRESS` names, unless the caller has connected already.

    Raises:
        JobError: If no Ray answers there.
    """
    if ray.is_initialized():
        return
    address = os.environ["RAY_ADDRESS"]
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():  # Ray itself would retry and log for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN_S).close()
        with _without_future_warnings():
            ray.init(logging_level=logging.WARNING)
    except (OSError, OverflowError, ValueError) as error:
        message = f"no Ray answers there ({error}); expected host:port of a running Ray, or no RAY_ADDRESS"
        raise JobError([Problem("RAY_ADDRESS", address, message)]) from error


def local_totals() -> Totals:
    """Counts this machine's cores (those this process may use) and GPUs, without starting Ray."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = tuple(torch.cuda.get_device_name(i) for i in range(gpus))
    return Totals(num_cpus(), gpus, names)


def cluster_totals() -> Totals:
    """Counts the resources of the connected Ray."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return Totals(resources.get("CPU", 0), resources.get("GPU", 0))


def all_nodes() -> list[dict[str, Any]]:
    """Returns Ray's records of all its nodes, including dead ones."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return nodes


def node_name() -> str:
    """Returns the name of this process's node: the name it was given, else its address.

    If nodes share a name, as several on one machine may, the start of Ray's id is added.
    """
    return unique_name(ray.get_runtime_context().get_node_id(), all_nodes())


def unique_name(node_id: str, nodes: Sequence[Mapping[str, Any]]) -> str:
    """Returns a node's name, with the start of its id if another living node has the same name."""
    names = {node["NodeID"]: str(node["NodeName"]) for node in nodes if node["Alive"]}
    name = names[node_id]
    return name if list(names.values()).count(name) == 1 else f"{name}/{node_id[:8]}"


def start_local(totals: Totals, threads_per_trial: int) -> None:
    """Starts Ray on this machine; its workers import torch before a trial needs it."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_trial))
    # Threads that spin while they wait would take cores from other trials.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("RAY_preload_python_modules", "torch,zsharp.training.training")
    # Otherwise Ray starts one worker per core at once, and then another per trial: torch is imported twice as often.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # On one machine nobody looks at metrics and usage reports, which cost processes and threads.
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
    """Sets the environment that Ray Tune reads, and runs a Ray on this machine inside unless there is one to use."""
    before = {name: os.environ.get(name) for name in _TUNE_ENV}
    levels = {name: logging.getLogger(name).level for name in _LOG_LEVELS}
    os.environ.update(_TUNE_ENV)
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    owned = not is_running_elsewhere()
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
    """Hides Ray's announcements of new defaults, which it repeats at every start."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        yield
