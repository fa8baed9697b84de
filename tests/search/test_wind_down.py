"""A search stops for the reason that counts, no signal is lost, and the advice to resume names the search itself."""

import signal
import subprocess
import sys

import pytest
from simulated_search import Driver, small_job

from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.wind_down import KILLS_WITHIN_S, WIND_DOWN_S, WindDown, stopped_by_signals

TWICE = """
import os, signal, sys
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.wind_down import WindDown, stopped_by_signals
folder = SearchFolder(sys.argv[1], writes=True)
folder.local  # what a remote search works on
with stopped_by_signals(WindDown(), folder):
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_outlives_a_change_of_the_packing(tmp_path):
    driver = Driver(small_job("methods=[sam]"), tmp_path)
    wind_down = driver.recorder.wind_down
    wind_down.begin("out of GPU memory", "repack")
    driver.recorder.repack(0.5)
    assert not wind_down.has_begun
    with stopped_by_signals(wind_down, driver.recorder.folder):
        wind_down.begin("out of GPU memory", "repack")
        signal.raise_signal(signal.SIGINT)
        driver.recorder.repack(1.0)
    assert (wind_down.reason, wind_down.kind) == ("interrupted by SIGINT", "signal")
    driver.close()


def test_only_a_signal_replaces_a_reason():
    wind_down = WindDown()
    assert not wind_down.has_begun
    assert (wind_down.reason, wind_down.kind, wind_down.elapsed_s) == (None, None, 0)
    wind_down.begin("the budget", "budget")
    wind_down.begin("the disk", "error")
    wind_down.end_repack()
    assert (wind_down.reason, wind_down.kind) == ("the budget", "budget")
    wind_down.begin("Ctrl-C", "signal")
    wind_down.begin("the disk", "error")
    assert (wind_down.reason, wind_down.kind) == ("Ctrl-C", "signal")


@pytest.mark.parametrize(
    ("elapsed_s", "num_training", "kills", "is_done"),
    [
        (0, 1, False, False),
        (0, 0, False, True),  # those that are starting have no epoch to end
        (WIND_DOWN_S + 0.1, 1, True, False),
        (WIND_DOWN_S + KILLS_WITHIN_S + 0.1, 1, True, True),
    ],
)
def test_running_epochs_have_their_time(monkeypatch, elapsed_s, num_training, kills, is_done):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    wind_down = WindDown()
    assert not wind_down.is_done(0)
    wind_down.begin("Ctrl-C", "signal")
    now[0] += elapsed_s
    assert (wind_down.is_time_to_kill, wind_down.is_done(num_training)) == (kills, is_done)


@pytest.mark.parametrize("address", ["s3://bucket/a search", "relative/search"])
def test_after_a_second_signal_the_advice_names_the_search_and_not_a_copy(address):
    done = subprocess.run([sys.executable, "-c", TWICE, address], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert SearchFolder(address).resume_hint in done.stderr
    assert "tune-jobs resume" in done.stderr
    assert address in done.stderr.rpartition("tune-jobs resume")[2]
    assert ".cache" not in done.stderr
