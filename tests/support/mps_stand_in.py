"""A stand-in for NVIDIA's MPS control daemon, which needs a GPU: a real process with pipes of its own."""

import sys
import time

import psutil

from tune_jobs.cluster import mps

_PROGRAM = f"""#!{sys.executable}
import os, sys
from pathlib import Path
pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/none"))
if "-f" in sys.argv:
    if os.environ.get("BROKEN"):
        sys.exit("no devices")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    (pipes / "pid").write_text(str(os.getpid()))
    os.mkfifo(pipes / "control")
    while "quit" not in (pipes / "control").read_text():
        pass
else:
    words = sys.stdin.read()
    if os.environ.get("DEAF"):
        sys.exit("nobody listens")
    (pipes / "control").write_text(words)
"""


def install(folder):
    """Puts the program into a new folder."""
    folder.mkdir()
    program = folder / mps.PROGRAM
    program.write_text(_PROGRAM)
    program.chmod(0o755)


def daemon_of(folder):
    """The daemon whose pipes are below a folder."""
    return psutil.Process(int((folder / "pipes" / "pid").read_text()))


def has_ended(process, within_s=10.0):
    """Whether a process ends in time."""
    until = time.monotonic() + within_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.05)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
