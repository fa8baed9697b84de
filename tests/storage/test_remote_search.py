"""A whole search whose folder is in an object store: from one machine to another, through bad weather."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tune_jobs.search.folder import SearchFolder

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent / "tune-jobs"
SETS = (
    "architectures=[resnet8]", "methods=[sam]", "data.max_images=200", "train.batch_size=32", "train.epochs=6",
    "train.warmup_epochs=0", "search.num_trials=4", "asha.grace_epochs=1", "asha.reduction_factor=2",
    "asha.protect_top=1", "resources.max_concurrent=1",
)  # fmt: skip
CLOCKS = {
    "epoch_s",
    "train_s",
    "wall_s",
    "images_per_s",
    "peak_memory_bytes",
    "reported_at",
    "worker_pid",
    "node",
}


def command(verb, *arguments):
    sets = [part for text in SETS for part in ("--set", text)] if verb == "run" else []
    return [str(part) for part in (BIN, verb, *arguments, *sets)]


def rows(folder):
    with folder.open(read_only=True) as ledger:
        return [
            {k: v for k, v in row.items() if k not in CLOCKS} for row in ledger.reports()
        ], ledger.trials()


@pytest.mark.timeout(300)
def test_a_driver_that_dies_is_continued_by_one_on_another_machine(gate, address, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    reference = tmp_path / "reference"
    subprocess.run(command("run", "digits", "--out", reference), check=True, stdout=subprocess.DEVNULL)
    driver = subprocess.Popen(command("run", "digits", "--out", address), stdout=subprocess.DEVNULL)
    folder = SearchFolder(address)
    until = time.monotonic() + 120
    while time.monotonic() < until and len(folder.remote.names("ledger")) < 12:
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert folder.has_search()
    shutil.rmtree(tmp_path / "cache")  # the other machine has none of its files
    gate.fail = gate.cut = 2
    done = subprocess.run(command("resume", address), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reports, trials = rows(SearchFolder(address))
    expected, _ = rows(SearchFolder(reference))
    assert reports == expected
    assert all(trial["status"] in ("completed", "pruned") for trial in trials)
    compared = subprocess.run(command("compare", address), capture_output=True, text=True, check=False)
    assert compared.returncode == 0
    assert "Replaying the rule gives the same decision" in compared.stdout
    assert "testing-secret" not in done.stdout + done.stderr + compared.stdout
    local = SearchFolder(address).results()
    table = pd.read_parquet(local / "parquet" / "trials.parquet")
    assert len(table) == 4
    for name in folder.remote.names("checkpoints"):
        assert name.startswith("resnet8-sam-")
    contents = [folder.remote.read(name) for name in ("job.yaml", "optuna.journal", "parquet/trials.parquet")]
    assert all(contents)
    assert not any(b"testing-secret" in content for content in contents)


@pytest.mark.timeout(200)
def test_storage_that_fails_for_good_ends_the_search_and_says_how_to_go_on(gate, address, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    driver = subprocess.Popen(
        command("run", "digits", "--out", address),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    folder = SearchFolder(address)
    until = time.monotonic() + 120
    while time.monotonic() < until and len(folder.remote.names("ledger")) < 8:
        time.sleep(0.1)
    gate.is_down = True
    said, _ = driver.communicate(timeout=150)
    assert driver.returncode == 1
    assert "Traceback" not in said
    assert f"tune-jobs resume {address}" in said
    gate.heal()
    with SearchFolder(address).open(read_only=True) as ledger:
        epochs = [report["epoch"] for report in ledger.reports("resnet8-sam-0000")]
    assert epochs == list(range(1, len(epochs) + 1))
    silent = subprocess.run(
        command("compare", "s3://no-such-bucket/x"), capture_output=True, text=True, check=False
    )
    assert silent.returncode in (1, 2)
    assert "Traceback" not in silent.stderr
