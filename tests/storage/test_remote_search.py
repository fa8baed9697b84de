"""A whole search whose folder is in an object store: storage fails, its driver is killed, another machine resumes."""

import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
from searches import TIMES

from tune_jobs.search.folder import SearchFolder

pytestmark = pytest.mark.slow

COMMAND = ("-m", "tune_jobs")
# Gives up a request after seconds instead of after more than a minute.
IMPATIENT = ("-c", "import runpy, tune_jobs.storage as s; s._ATTEMPTS = 3; runpy.run_module('tune_jobs')")
SETS = (
    "architectures=[resnet8]", "methods=[sam]", "data.max_images=200", "train.batch_size=32", "train.epochs=9",
    "train.warmup_epochs=0", "search.num_trials=2", "asha.grace_epochs=1", "asha.reduction_factor=2",
    "asha.protect_top=1", "resources.max_concurrent=1",
)  # fmt: skip
CLOCKS = {*TIMES, "node"}


def begin(verb, *arguments, program=COMMAND):
    sets = [part for text in SETS for part in ("--set", text)] if verb == "run" else []
    command = [sys.executable, *program, verb, *map(str, arguments), *sets]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def rows(folder):
    with folder.open(read_only=True) as ledger:
        reports = [{name: row[name] for name in row.keys() - CLOCKS} for row in ledger.reports()]
        return reports, [trial["status"] for trial in ledger.trials()]


def wait_for_transactions(folder, driver, number):
    until = time.monotonic() + 120
    while len(folder.remote.names("ledger")) < number:
        assert time.monotonic() < until and driver.poll() is None, driver.communicate()
        time.sleep(0.1)


def test_a_search_outlives_its_storage_its_driver_and_its_machine(gate, address, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    reference, folder = tmp_path / "reference", SearchFolder(address)
    undisturbed = begin("run", "digits", "--out", reference)
    driver = begin("run", "digits", "--out", address, program=IMPATIENT)
    wait_for_transactions(folder, driver, 6)
    gate.is_down = True
    printed, _ = driver.communicate(timeout=150)
    assert driver.returncode == 1
    assert "Traceback" not in printed
    assert f"tune-jobs resume {address}" in printed
    gate.heal()

    driver = begin("resume", address)
    wait_for_transactions(folder, driver, len(folder.remote.names("ledger")) + 4)
    driver.kill()
    driver.communicate()
    _, statuses = rows(SearchFolder(address))
    assert len(statuses) < 2 or None in statuses, "the search was already over"
    shutil.rmtree(tmp_path / "cache")  # another machine has none of its files
    gate.fail = gate.cut = 2
    outputs = [printed]
    for verb, expected in (("resume", "Best on digits"), ("compare", "the same decision")):
        process = begin(verb, address)
        outputs += process.communicate()[:1]
        assert process.returncode == 0, outputs[-1]
        assert expected in outputs[-1]
    undisturbed.communicate()
    assert rows(SearchFolder(address)) == rows(SearchFolder(reference))
    local = SearchFolder(address).results()
    assert len(pd.read_parquet(local / "parquet" / "trials.parquet")) == 2
    assert all(name.startswith("resnet8-sam-") for name in folder.remote.names("checkpoints"))
    contents = [folder.remote.read(name) for name in ("job.yaml", "optuna.journal", "parquet/trials.parquet")]
    assert all(contents)
    assert not any(b"testing-secret" in content for content in (*contents, "".join(outputs).encode()))


def test_a_missing_bucket_is_an_error_in_plain_words(gate):
    process = begin("compare", "s3://no-such-bucket/x")
    printed, _ = process.communicate()
    assert process.returncode in (1, 2)
    assert printed.startswith("s3://no-such-bucket/x")
    assert "Traceback" not in printed
