"""Searches in processes of their own, as users start them: run, killed after so many reports, and read."""

import os
import signal
import subprocess
import sys
import time

from tune_jobs.ledger.writer import Ledger

TIMES = {
    "epoch_s",
    "train_s",
    "wall_s",
    "images_per_s",
    "peak_memory_bytes",
    "reported_at",
    "worker_pid",
    "gpu_ids",
}
"""What no two runs agree on."""


def start(folder, *arguments, **environment):
    keep = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "tune_jobs", *map(str, arguments)],
        env=keep | {"HOME": str(folder)} | environment,
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def call(folder, *arguments, **environment):
    process = start(folder, *arguments, **environment)
    printed, _ = process.communicate(timeout=240)
    return process.returncode, printed


def reports(search):
    with Ledger.open(search, read_only=True) as ledger:
        rows = sorted(ledger.reports(), key=lambda row: (row["trial_id"], row["epoch"]))
        return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def num_reports(search):
    if not (search / "ledger.sqlite").exists():
        return 0
    try:
        with Ledger.open(search, read_only=True) as ledger:
            return len(ledger.reports())
    except ValueError:  # half made
        return 0


def kill_after(least, search, folder, *arguments):
    """Kills a command, with all its processes, as soon as the search has so many reports."""
    process = start(folder, *arguments)
    while num_reports(search) < least:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
