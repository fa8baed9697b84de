"""A search on three nodes: it takes up one that comes later, uses all, and outlives one."""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import pytest
from clusters import LONG, ClusterSearch, LocalCluster, cluster_of
from searches import Row

from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import read_results

pytestmark = pytest.mark.cluster

NODES = {"head", "node1", "node2"}


@pytest.fixture(scope="module")
def cluster():
    with cluster_of(1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def searched(cluster, tmp_path_factory):
    """A search on two nodes that was given a third and lost the second when all had reported."""
    search = ClusterSearch(tmp_path_factory.mktemp("nodes") / "search", Row("nodes"), cluster)
    try:
        search.begin(*LONG, "train.epochs=12", "asha.grace_epochs=12", "search.num_trials=3")
        paused = {}  # workers, so that trials are left for the node that comes
        while len(paused) < 4:
            assert search.driver.poll() is None, search.printed
            for pid in {one["worker_pid"] for one in search.reports()} - set(paused):
                paused[pid] = psutil.Process(pid)
                paused[pid].suspend()
        cluster.add_worker("node2")
        search.wait_for_node("node2")
        for worker in paused.values():
            worker.resume()
        search.look()
        cluster.kill("node1")
        assert search.end(120) == 0, search.printed
    finally:
        search.give_up()
    return search


def test_a_node_that_comes_later_is_used(searched):
    slots = [event["data"]["slots"] for event in searched.events() if event["kind"] in ("start", "slots")]
    assert slots == [4, 6], "two trials share a GPU"
    assert set(searched.nodes()) == NODES


def test_a_lost_node_costs_nothing_and_its_trials_go_on_elsewhere(searched):
    searched.check(in_flight=2)
    moved = {event["data"]["trial_id"] for event in searched.events() if event["kind"] == "move"}
    assert len(moved) == 2
    assert not [event for event in searched.events() if event["kind"] == "retry"], "it was no trial's fault"
    with Ledger.open(searched.folder, read_only=True) as ledger:
        assert {one["retries"] for one in ledger.trials()} == {0}
    results = read_results(searched.folder)
    assert set(results.trials["status"]) == {"completed"}
    assert set(results.trials.set_index("trial_id").loc[list(moved), "node"]) <= {"head", "node2"}
    assert set(results.trials["gpu_ids"]) == {"0"}


def test_each_node_reads_and_decodes_the_data_once(cluster, searched):
    """Two trials at a time started on each; every node has a home of its own, as a machine has."""
    seen = Counter((cluster.folder / "data").read_text().splitlines())
    for name in NODES:
        home = cluster.folder / "homes" / name
        assert seen[f"{home} decoded"] == 1
        assert seen[f"{home} read"] == 2, "once for its checksum, once for its images"


def test_the_script_ends_its_own_processes_and_no_others(cluster, searched):
    before = cluster.processes("head")
    folder = Path(tempfile.mkdtemp(prefix="nodes", dir="/tmp"))
    script = Path(__file__).parents[2] / "deploy" / "local_cluster.py"
    command = [sys.executable, str(script), "start", f"--folder={folder}", "--workers=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        printed = []
        while not printed or "Ctrl-C" not in printed[-1]:
            printed.append(started.stdout.readline())
            assert printed[-1], printed
        own = LocalCluster(folder).processes("head")
        started.send_signal(signal.SIGTERM)
        assert started.wait(60) == 0
    assert f"head  pid {own[0].pid}\n" in printed
    assert len(own) > 3
    assert not psutil.wait_procs(own, timeout=10)[1]
    assert all(process.is_running() for process in before)
    assert (folder / "token").stat().st_mode & 0o077 == 0
    shutil.rmtree(folder)
