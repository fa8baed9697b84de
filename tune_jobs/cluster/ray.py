"""Connects to a running Ray, or starts one on this machine, for a search to run on."""

import logging
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

from tune_jobs.cluster.listener import what_listens
from tune_jobs.cluster.slots import Slots
from tune_jobs.errors import ClusterError, JobError, Problem
from tune_jobs.wording import last_line
from zsharp.cpu import may_have_gpu, num_cpus

_ANSWERS_WITHIN_S = 5
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # what `ray health-check` asks
# Of 107 bytes that the name of a socket may have, Ray takes 68: /ray/session_DATE_TIME_PID/sockets/plasma_store.
_LONGEST_TMPDIR = 39
# Ray's object store: searches hardly use it, so it takes less than Ray would, and as much as Ray needs at least.
_OBJECT_STORE_BYTES = 1_000_000_000
_SMALLEST_OBJECT_STORE_BYTES = 100_000_000

# Threads that the driver, Ray's processes and a worker have at least, each worker included that trains; measured.
_LEAST_THREADS = 200

_logger = logging.getLogger(__name__)

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
    nodes: tuple[tuple[float, float], ...] = ()  # CPUs and GPUs of each node; empty for this machine alone


def end_at_sigterm() -> None:
    """Makes this worker end at once, and quietly, when Ray sends it SIGTERM; only in the main thread.

    Ray's own handler raises SystemExit wherever the worker happens to be. Inside a weak reference's callback or a
    `__del__`, Python prints that instead of ending, and Ray shows it to the user.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(1))


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
    try:
        if address not in ("auto", "local"):  # Ray itself would retry and log for minutes
            _check_speaks_ray(address)
        with _without_future_warnings():
            ray.init(logging_level=logging.WARNING)
    except (OSError, OverflowError, ValueError, RuntimeError, ray.exceptions.RayError, ImportError) as error:
        reason = last_line(str(error)) or type(error).__name__
        expected = "host:port of a running Ray's head, 6379 by default, or no RAY_ADDRESS"
        message = f"no Ray answers there ({reason}); expected {expected}"
        raise JobError([Problem("RAY_ADDRESS", address, message)]) from error


def _check_speaks_ray(address: str) -> None:
    """Raises OSError unless a Ray answers within seconds, where Ray itself would retry and log for minutes."""
    host, port = _host_and_port(address)
    socket.create_connection((host, port), timeout=_ANSWERS_WITHIN_S).close()
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return
    import grpc  # type: ignore[import-untyped]

    # Ray's client server has other calls than its head, but either says so in gRPC.
    is_client = address.startswith("ray://")
    with grpc.insecure_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=_ANSWERS_WITHIN_S)
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ConnectionError(f"there is {what_listens(host, port).value}") from error
            if code is grpc.StatusCode.UNIMPLEMENTED and not is_client:
                raise ConnectionError("there is a gRPC server, but not that of a Ray's head") from error


def _host_and_port(address: str) -> tuple[str, int]:
    if "://" in address and not address.startswith("ray://"):
        raise ValueError("it is not an address of Ray's own port")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or re.fullmatch("[0-9]{1,5}", port) is None:
        raise ValueError("it has no host and port")
    return host.strip("[]"), int(port)


def local_totals() -> Totals:
    """Counts this machine's cores (those this process may use) and GPUs, without starting Ray."""
    if not may_have_gpu():
        return Totals(num_cpus(), 0)
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = tuple(torch.cuda.get_device_name(i) for i in range(gpus))
    return Totals(num_cpus(), gpus, names)


def cluster_totals() -> Totals:
    """Counts the resources of the connected Ray."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    nodes = tuple(
        (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in all_nodes()
        if node["Alive"]
    )
    return Totals(resources.get("CPU", 0), resources.get("GPU", 0), nodes=nodes)


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
    make_token()
    try:
        with _without_future_warnings():
            ray.init(
                address="local",  # else Ray would connect to one that runs on this machine already
                num_cpus=int(totals.cpus),
                num_gpus=int(totals.gpus),
                include_dashboard=False,
                logging_level=logging.WARNING,
                **_object_store(Path("/dev/shm")),
            )
    except Exception as error:  # a machine too busy for Ray's patience is a plain one
        raise ClusterError(f"Ray does not start: {last_line(str(error))}") from error


def _object_store(shared_memory: Path) -> dict[str, Any]:
    """Returns the arguments of `ray.init` for an object store that fits into shared memory (64 MiB in Docker).

    By itself, Ray asks for a third of the memory and prints a long warning, or does not start, where that does not fit.
    """
    if not shared_memory.is_dir():  # not a Linux
        return {}
    size = min(_OBJECT_STORE_BYTES, int(0.9 * shutil.disk_usage(shared_memory).free))
    if size >= _SMALLEST_OBJECT_STORE_BYTES:
        return {"object_store_memory": size}
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    _logger.warning(
        "%s has room for %d MB only, so Ray's object store is in %s instead; in Docker, --shm-size=1g gives it more",
        shared_memory, size // 10**6, folder,
    )  # fmt: skip
    return {"object_store_memory": _SMALLEST_OBJECT_STORE_BYTES, "_plasma_directory": folder}


def check_threads() -> None:
    """Checks that this user may start the threads that Ray needs, whose processes would die or hang without.

    Comes first of all, as libraries end the process if they may start none.

    Raises:
        JobError: If there are too few.
    """
    if is_running_elsewhere():
        return
    # Elsewhere the limit is on processes; root has none.
    if not sys.platform.startswith("linux") or os.getuid() == 0:
        return
    import resource  # Windows has none

    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY:
        return
    processes = psutil.process_iter(["uids", "num_threads"])
    num_used = sum(
        process.info["num_threads"] or 0
        for process in processes
        if process.info["uids"] is not None and process.info["uids"].real == os.getuid()
    )
    if limit - num_used < _LEAST_THREADS:
        message = (
            f"too few threads for Ray: {num_used} of this user's run already, and it takes {_LEAST_THREADS} more; "
            f"expected at least {num_used + _LEAST_THREADS}"
        )
        raise JobError([Problem("ulimit -u", limit, message)])


def check_can_start() -> None:
    """Checks what Ray needs to start on this machine and would not say, or only after something was written.

    Where nobody chose a folder for its sockets and the temporary folder's path is too long, it gets /tmp.

    Raises:
        JobError: If Ray could not start.
    """
    if is_running_elsewhere():
        return
    # Ray splits the command line of its workers at spaces; they never start, and nobody says so.
    for path in (sys.executable, str(Path(ray.__file__).parent)):
        if any(char.isspace() or char in "'\"\\" for char in path):
            message = (
                "Ray cannot start workers from a path with spaces or quotes; expected another environment"
            )
            raise JobError([Problem("Python", path, message)])
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if "RAY_TMPDIR" not in os.environ and len(os.fsencode(folder)) > _LONGEST_TMPDIR:
        folder = os.environ["RAY_TMPDIR"] = "/tmp"
    problem = None
    if len(os.fsencode(folder)) > _LONGEST_TMPDIR:
        problem = f"too long for Ray's sockets; expected a path of at most {_LONGEST_TMPDIR} bytes"
    elif not folder.isprintable() or not folder.startswith(
        "/"
    ):  # nor are halves of surrogate pairs printable
        problem = "expected an absolute path in UTF-8"
    else:
        above = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            problem = f"{above} cannot be written; expected a folder for Ray's sockets and logs"
    if problem is not None:
        name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
        raise JobError([Problem(name, folder, problem)])


def make_token() -> None:
    """Makes the token of a Ray on this machine, if there is none, readable by its owner only; Ray's is by all."""
    given = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or any(map(os.environ.get, given)):
        return
    token = secrets.token_hex(32)
    file = Path.home() / ".ray" / "auth_token"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(number, "w") as opened:  # noqa: PTH123
                opened.write(token)
        except OSError:
            file.unlink()  # empty, it would keep Ray from starting from then on
            raise
    except FileExistsError:
        with suppress(OSError):  # somebody else has made it, or it is mounted read-only
            if file.stat().st_mode & 0o077:  # an earlier version, or Ray itself, has made it
                file.chmod(0o600)
    except OSError:  # the home cannot be written: Ray's processes inherit the token instead
        os.environ["RAY_AUTH_TOKEN"] = token


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
