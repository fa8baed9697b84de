"""A search in a container whose /dev/shm is too small for Ray's object store."""

import os
import shutil
import subprocess
import sys

import pytest

from tune_jobs.results.read import read_results

MOUNT = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh")
IS_ALLOWED = shutil.which("unshare") and subprocess.run([*MOUNT, "true"], capture_output=True).returncode == 0
SETS = ("architectures=[resnet8]", "methods=[base]", "search.num_trials=1", "train.epochs=1")


@pytest.mark.slow
@pytest.mark.skipif(not IS_ALLOWED, reason="only root can mount a small /dev/shm of its own")
def test_a_search_tells_it_in_one_line_and_runs(tmp_path):
    changes = [f"--set={change}" for change in (*SETS, "train.warmup_epochs=0", "data.max_images=200")]
    run = subprocess.run(
        [*MOUNT, sys.executable, "-m", "tune_jobs", "run", "digits", *changes, f"--out={tmp_path / 'search'}"],
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [line for line in (run.stdout + run.stderr).splitlines() if "shm" in line]
    assert len(lines) == 1, lines
    assert list(read_results(tmp_path / "search").trials["status"]) == ["completed"]
