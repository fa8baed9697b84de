"""CUDA's Multi-Process Service for the processes of one search that share a GPU: a daemon of the search's own a node.

Without it, processes take turns on a GPU. The daemon has its pipes and logs in a folder of its own, so that only
processes that `join` use it. As long as they live they hold a lock on a file there, which the kernel releases however
they end. A keeper, which belongs to none of them, waits for that lock, then ends its own daemon, and no other.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAM = "nvidia-cuda-mps-control"
_PIPES = "CUDA_MPS_PIPE_DIRECTORY"
_USUAL_PIPES = "/tmp/nvidia-mps"
_OURS = f"tune-jobs-mps-{os.getuid()}-"
_LOOK_EVERY_S = 0.5
_STARTS_WITHIN_S = 20.0
_ENDS_WITHIN_S = 5.0

_logger = logging.getLogger(__name__)
_held: dict[Path, int] = {}  # this process's lock on each folder that it uses; never released


def share_gpu(sharing: str, search: str) -> bool:
    """Lets this process, which must not have used CUDA yet, share a GPU as `resources.sharing` says.

    Args:
        sharing: `mps`; `time`; or `auto`, which is MPS where the node has it and no other daemon.
        search: The search's address.

    Returns:
        Whether it uses MPS.

    Raises:
        ClusterError: If `sharing` is `mps` and the daemon does not start.
    """
    if sharing == "time" or (sharing == "auto" and problem() is not None):
        return False
    try:
        join(search)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        if sharing == "mps":
            raise
        _logger.warning("trials on one GPU take turns: %s", error)
        return False
    return True


def is_installed() -> bool:
    """Whether the daemon's program is on this machine."""
    return shutil.which(PROGRAM) is not None


def problem() -> str | None:
    """Returns why MPS should not be used on this machine unless a job insists; None if it can be."""
    if not is_installed():
        return f"{PROGRAM} is not on PATH"
    if not _is_ours(pipes := os.environ.get(_PIPES, "")) and pipes:
        return f"{_PIPES} names another daemon ({pipes})"
    if (Path(_USUAL_PIPES) / "control").exists():
        return f"another daemon runs here ({_USUAL_PIPES})"
    for process in psutil.process_iter(["name", "environ", "status"]):
        # The name of a process has 15 characters. Only its owner can read its environment.
        is_daemon = (process.info["name"] or "").startswith(PROGRAM[:15])
        has_ended = process.info["status"] == psutil.STATUS_ZOMBIE  # and nobody took note
        if is_daemon and not has_ended and not _is_ours((process.info["environ"] or {}).get(_PIPES, "")):
            return f"another daemon runs here (process {process.pid})"
    return None


def join(search: str) -> Path:
    """Has this process use the daemon of a search, and starts that if it does not run; returns its folder.

    Raises:
        ClusterError: If it does not start.
    """
    folder = _folder(search)
    if folder not in _held:
        _held[folder] = _lock(folder / "users", fcntl.LOCK_SH)  # a daemon that is just ending is waited for
    starting = _lock(folder / "starting", fcntl.LOCK_EX)
    try:
        if not is_running(folder):
            _start(folder)
    finally:
        os.close(starting)
    os.environ.update(_settings(folder))
    return folder


def is_running(folder: Path) -> bool:
    """Whether the folder's daemon has a keeper."""
    try:
        os.close(_lock(folder / "keeper", fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    return False


def keep(folder: Path) -> None:
    """Runs the folder's daemon until no process uses it any more; what the keeper's process does."""
    keeper = _lock(folder / "keeper", fcntl.LOCK_EX)
    # Not only the GPU of the worker that happened to be first.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= _settings(folder)
    daemon = subprocess.Popen([PROGRAM, "-f"], env=environment, stdin=subprocess.DEVNULL)
    users = None
    while users is None and daemon.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(_LOOK_EVERY_S)
        with suppress(BlockingIOError):
            users = _lock(folder / "users", fcntl.LOCK_EX | fcntl.LOCK_NB)
    _end(daemon, environment)
    os.close(keeper)  # before the other, which somebody may wait for who looks at this one next
    if users is not None:
        os.close(users)


def _end(daemon: "subprocess.Popen[bytes]", environment: Mapping[str, str]) -> None:
    """Asks the daemon to quit, and kills it and its servers if they do not."""
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(daemon.pid)
        processes = [leader, *leader.children(recursive=True)]
        try:
            subprocess.run([PROGRAM], input=b"quit\n", env=environment, timeout=_ENDS_WITHIN_S, check=True)
            processes = psutil.wait_procs(processes, timeout=_ENDS_WITHIN_S)[1]
        except (OSError, subprocess.SubprocessError):
            pass  # it does not listen
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    daemon.wait()


def _start(folder: Path) -> None:
    for name in ("pipes", "log"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    for left in (folder / "pipes").iterdir():  # by a daemon that was killed
        left.unlink()
    log = folder / "log" / "keeper"
    # By way of another process, so that it is nobody's child: Ray kills the children of a worker that ends.
    detach = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
    command = [sys.executable, "-c", detach, sys.executable, "-P", str(Path(__file__)), str(folder)]
    with log.open("wb") as said:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=True)
    until = time.monotonic() + _STARTS_WITHIN_S
    while not (folder / "pipes" / "control").exists():
        if time.monotonic() > until:
            words = " ".join(log.read_text(errors="replace").split())[-300:]
            raise _error(f"{PROGRAM} does not start in {folder}: {words or 'it says nothing'}")
        time.sleep(0.05)


def _error(text: str) -> Exception:
    from tune_jobs.errors import ClusterError  # the keeper runs this file by itself

    return ClusterError(text)


def _settings(folder: Path) -> dict[str, str]:
    return {_PIPES: str(folder / "pipes"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}


def _is_ours(pipes: str) -> bool:
    return Path(pipes).parent.name.startswith(_OURS)


def _folder(search: str) -> Path:
    """Returns a folder of this user's alone, with a path short enough for the daemon's sockets."""
    folder = Path(tempfile.gettempdir()) / f"{_OURS}{hashlib.sha256(search.encode()).hexdigest()[:16]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise _error(f"{folder} belongs to somebody else; expected a folder of this user's, or none")
    return folder


def _lock(path: Path, kind: int) -> int:
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(number, kind)
    except OSError:
        os.close(number)
        raise
    return number


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
