"""The real optuna-dashboard on a search's journal, in a real browser, while the search runs and after it."""

import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import optuna
import psutil
import pytest
from command_line_searches import num_reports
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ports import free_port

from tune_jobs.ledger.writer import Ledger

pytestmark = pytest.mark.slow

SETS = (
    "architectures=[resnet8]", "methods=[zsharp]", "data.max_images=200", "train.batch_size=32",
    "train.warmup_epochs=0", "search.num_trials=2", "asha.enabled=false", "resources.max_concurrent=1",
)  # fmt: skip
BIN = Path(sys.executable).parent


@contextmanager
def running(command):
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


@contextmanager
def dashboard(journal):
    port = free_port()
    command = [BIN / "optuna-dashboard", journal, "--host", "127.0.0.1", "--port", port]
    with running(command) as process:
        address = f"http://127.0.0.1:{port}"
        for _ in range(150):
            assert process.poll() is None, process.stderr.read().decode()
            try:
                urllib.request.urlopen(address, timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address


def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen in time")


def command(folder, epochs):
    sets = [part for text in (*SETS, f"train.epochs={epochs}") for part in ("--set", text)]
    return [BIN / "tune-jobs", "run", "digits", "--out", folder, *sets]


def open_trials(page, address):
    page.goto(f"{address}/dashboard")
    page.get_by_text("digits/resnet8-zsharp").first.click()
    page.wait_for_url("**/studies/**")
    page.goto(page.url.rstrip("/") + "/trials")


def test_the_dashboard_shows_a_search_while_it_runs_and_after_its_end(browser, tmp_path):
    folder = tmp_path / "search"
    journal = folder / "optuna.journal"
    page = browser.new_page()
    with running(command(folder, 5)) as search:
        wait_for(lambda: num_reports(folder) > 1)
        with Ledger.open(folder, read_only=True) as ledger:
            worker = psutil.Process(ledger.reports()[-1]["worker_pid"])
        worker.suspend()  # so that the search still runs when the page has been drawn
        with dashboard(journal) as address:
            open_trials(page, address)
            page.get_by_text("Running").first.wait_for(timeout=60_000)
        worker.resume()
        assert search.wait(200) == 0
    with dashboard(journal) as address:
        open_trials(page, address)
        page.get_by_text("Complete").first.wait_for(timeout=60_000)
        assert page.get_by_text("Running").count() == 0
    study = optuna.load_study(
        study_name="digits/resnet8-zsharp", storage=JournalStorage(JournalFileBackend(str(journal)))
    )
    with Ledger.open(folder, read_only=True) as ledger:
        for row, trial in zip(ledger.trials(), study.trials, strict=True):
            values = {report["epoch"]: report["val_accuracy"] for report in ledger.reports(row["trial_id"])}
            assert trial.intermediate_values == values
            assert trial.params == row["params"]
