"""Beside a search whose process is killed again and again, trackers end with each report once, and hold nothing up."""

import json
import logging
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow_server import mlflow_server
from ports import free_port
from tracked import grow, in_mlflow, in_tensorboard, in_wandb, recorded

from tune_jobs.trackers import follow
from tune_jobs.trackers.export import export_to

NUM_TRIALS, NUM_KILLS = 6, 5
TESTS = Path(__file__).parents[1]

SESSION = """
import json, sys, time
from pathlib import Path
sys.path[:0] = [{support!r}, {root!r}]
from tracked import grow
from tune_jobs.trackers import follow
follow._EVERY_S = 0.02
track, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
grow(folder, 1, num_trials={num_trials}, track=track)
with follow.followed({{"track": track}}, folder, str(folder)):
    print("began", flush=True)
    while True:
        time.sleep(0.05)
        grow(folder, 1, num_trials={num_trials}, end=False)
"""

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trackers' own clients


def kill_sessions(folder, track, num_kills, rng):
    """Runs sessions that record and are tracked, and kills each at a moment of its own."""
    root, support = (str(path) for path in (TESTS.parent, TESTS / "support"))
    script = SESSION.format(support=support, root=root, num_trials=NUM_TRIALS)
    for _ in range(num_kills):
        command = [sys.executable, "-c", script, json.dumps(track), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as session:
            assert session.stdout is not None
            assert session.stdout.readline() == b"began\n"
            time.sleep(rng.uniform(1, 4))
            session.kill()


@pytest.mark.slow
def test_a_real_mlflow_server_has_the_ledgers_counts_after_five_kills(tmp_path):
    port, folder = free_port(), tmp_path / "search"
    uri, rng = f"http://127.0.0.1:{port}", random.Random(0)
    kill_sessions(folder, {"mlflow": uri}, 1, rng)  # nobody answers yet
    with mlflow_server(tmp_path, port):
        kill_sessions(folder, {"mlflow": uri}, NUM_KILLS, rng)
        grow(folder, 1000, num_trials=NUM_TRIALS)
        page = tmp_path / "report.html"
        page.write_text("<html>", encoding="utf-8")
        export_to("mlflow", uri, folder, page)
        assert export_to("mlflow", uri, folder).num_trials == 0
        points, statuses, parent = in_mlflow(uri)
        assert (points, statuses) == recorded(folder)
        assert len(statuses) == NUM_TRIALS
        assert parent.info.status == "FINISHED"
        assert list((tmp_path / "files").rglob("report.html"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "target", "shown"), [("tensorboard", True, in_tensorboard), ("wandb", "p", in_wandb)]
)
def test_files_have_the_ledgers_counts_after_five_kills(tmp_path, monkeypatch, kind, target, shown):
    monkeypatch.setenv("WANDB_MODE", "offline")
    kill_sessions(tmp_path, {kind: target}, NUM_KILLS, random.Random(1))
    grow(tmp_path, 1000, num_trials=NUM_TRIALS)
    export_to(kind, "p", tmp_path)
    assert shown(tmp_path) == recorded(tmp_path)


@pytest.mark.slow
def test_a_tracker_that_is_down_is_told_once_and_holds_nothing_up(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(follow, "_EVERY_S", 0.02)
    track = {"mlflow": f"http://127.0.0.1:{free_port()}", "tensorboard": True}
    grow(tmp_path, 5, track=track)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING), follow.followed({"track": track}, tmp_path, "DIR") as shown:
        grow(tmp_path, 100)
        recorded_in = time.monotonic() - started
        time.sleep(0.5)
        shown.write_page = write_page
    told = [record.getMessage() for record in caplog.records if record.name == follow.__name__]
    assert recorded_in < 5
    assert len(told) == 2  # that it is down, and at the end what to do
    assert track["mlflow"] in told[0]
    assert "tune-jobs export DIR --to mlflow" in told[1]
    assert in_tensorboard(tmp_path) == recorded(tmp_path)
    assert (tmp_path / "tensorboard" / "search" / "report.html").read_text() == "DIR"


def write_page(folders, page, addresses):
    page.write_text(*addresses)
    return page
