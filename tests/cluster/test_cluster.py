"""What there is to run on: this machine, and a Ray that does not answer."""

import os
import subprocess
import sys

import torch
from ports import free_port

from tune_jobs.cluster import ray as cluster


def test_local_totals_are_the_cores_this_process_may_use():
    totals = cluster.local_totals()
    assert totals.cpus == len(os.sched_getaffinity(0))
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert totals.gpus == num_gpus
    assert len(totals.gpu_names) == num_gpus


def test_cores_that_are_taken_away_do_not_count_and_counting_starts_nothing():
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os, ray; os.sched_setaffinity(0, [{core}]); from tune_jobs.cluster.ray import local_totals; "
        "print(local_totals().cpus, ray.is_initialized())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["1", "False"]


def test_a_system_without_affinities_has_its_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cluster.local_totals().cpus == os.cpu_count()


def test_a_worker_that_is_told_to_end_says_nothing_wherever_it_is():
    # In a weak reference's callback, an exception is printed and passed over: the worker would stay.
    code = """
import os, signal, time, weakref
from ray._private.utils import set_sigterm_handler
from ray._private.worker import raise_sys_exit_with_custom_error_message
from tune_jobs.cluster.ray import end_at_sigterm
set_sigterm_handler(lambda *_: raise_sys_exit_with_custom_error_message("told to end", exit_code=1))
end_at_sigterm()
class Held: pass
held = Held()
reference = weakref.ref(held, lambda _: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(1)))
del held
print("still here")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")


def test_a_ray_that_does_not_answer_is_a_problem_of_one_line_and_soon():
    """In a process of its own, where no other test has started Ray; Ray itself would try for minutes."""
    port = free_port()
    addresses = [f"{host}:{port}" for host in ("127.0.0.1", "ray://127.0.0.1", "[::1]")]
    addresses += [
        "127.0.0.1:99999",
        "127.0.0.1:-1",
        "nonsense",
        "ray://",
        "ray://localhost",
        f"ray://localhost:{port}?x",
    ]
    code = (
        "import os, sys\n"
        "from tune_jobs.cluster import ray as cluster\n"
        "from tune_jobs.errors import JobError\n"
        "assert not cluster.is_running_elsewhere()\n"
        "for address in sys.argv[1:]:\n"
        "    os.environ['RAY_ADDRESS'] = address\n"
        "    assert cluster.is_running_elsewhere()\n"
        "    try:\n"
        "        cluster.connect()\n"
        "    except JobError as error:\n"
        "        print(error)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, "-c", code, *addresses],
        env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert len(lines) == len(addresses)
    for address, line in zip(addresses, lines, strict=True):
        assert line.startswith(f"RAY_ADDRESS: '{address}' is not valid: no Ray answers there (")
