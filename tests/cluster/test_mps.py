"""A daemon of the search's own: started by who needs it first, shared, ended with its last user, never another's.

The program is a stand-in for NVIDIA's, which needs a GPU.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from mps_stand_in import daemon_of, has_ended, install

from tune_jobs.cluster import mps
from tune_jobs.cluster.slots import plan_slots
from tune_jobs.errors import ClusterError
from tune_jobs.job.spec import ResourcesModel

# Joins, says where the daemon is, and lives until it is told to end or killed.
USER = "import sys; from tune_jobs.cluster import mps; print(mps.join(sys.argv[1]), flush=True); sys.stdin.read()"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """One with the program on PATH and a temporary folder of its own."""
    (tmp_path / "tmp").mkdir()
    install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(mps, "_USUAL_PIPES", str(tmp_path / "usual"))
    return tmp_path


@pytest.fixture
def user(machine):
    """Starts a process that uses the daemon of a search; ends it with the test."""
    with ExitStack() as started:

        def start(search="results/one"):
            command = [sys.executable, "-c", USER, search]
            process = started.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            started.callback(process.kill)
            return process, Path(process.stdout.readline().strip())

        yield start


@pytest.mark.parametrize("is_deaf", [False, True], ids=["quits", "has to be killed"])
def test_users_share_one_daemon_which_ends_after_the_last_of_them(machine, user, monkeypatch, is_deaf):
    if is_deaf:
        monkeypatch.setenv("DEAF", "1")
    (first, folder), (second, same) = user(), user()
    assert folder == same and folder.parent == machine / "tmp"
    daemon = daemon_of(folder)
    first.send_signal(signal.SIGTERM)
    first.wait()
    time.sleep(0.7)
    assert daemon.is_running() and mps.is_running(folder), "one uses it still"
    second.kill()  # as a driver or worker may be
    second.wait()
    assert has_ended(daemon)
    third, _ = user()  # what resumes the search
    assert daemon_of(folder).pid != daemon.pid
    third.kill()
    assert has_ended(daemon_of(folder))


def test_a_daemon_that_was_killed_is_started_again_for_the_next(user):
    one, folder = user()
    killed = daemon_of(folder)
    killed.kill()
    assert has_ended(killed)
    until = time.monotonic() + 10
    while mps.is_running(folder) and time.monotonic() < until:
        time.sleep(0.05)
    other, _ = user()
    daemon = daemon_of(folder)
    assert daemon.pid != killed.pid and daemon.is_running()
    one.kill()
    other.kill()
    assert has_ended(daemon)


def test_another_daemon_keeps_auto_away_and_is_left_alone(machine, user, monkeypatch):
    assert mps.problem() is None
    foreign = machine / "foreign"
    foreign.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    daemon = subprocess.Popen(
        [mps.PROGRAM, "-f"], env=environment | {"CUDA_MPS_PIPE_DIRECTORY": str(foreign)}
    )
    try:
        while not (foreign / "pid").exists():
            time.sleep(0.02)
        assert str(daemon.pid) in str(mps.problem())
        assert not mps.share_gpu("auto", "search")
        process, folder = user()  # a job that says `mps`
        ours = daemon_of(folder)
        process.kill()
        assert has_ended(ours)
        assert daemon.poll() is None
    finally:
        daemon.kill()
        daemon.wait()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(foreign))
    assert str(foreign) in str(mps.problem())
    monkeypatch.setenv("PATH", "/nowhere")
    assert mps.PROGRAM in str(mps.problem())


def test_a_search_on_this_machine_says_so(machine):
    slots = plan_slots(ResourcesModel.model_validate({"gpus_per_trial": 0.5}), 4, 1)
    assert slots.sharing == "mps" and "MPS" in slots.sharing_line


def test_a_daemon_that_does_not_start_is_told(machine, monkeypatch):
    monkeypatch.setenv("BROKEN", "1")
    monkeypatch.setattr(mps, "_STARTS_WITHIN_S", 1.0)
    monkeypatch.setattr(mps, "_held", {})
    with pytest.raises(ClusterError, match="no devices"):
        mps.share_gpu("mps", "search")
    assert not mps.share_gpu("auto", "search") and not mps.share_gpu("time", "search")
    for number in mps._held.values():
        os.close(number)
