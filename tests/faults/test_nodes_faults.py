"""Nodes that die, freeze, are cut off and come back while a search runs on them; nothing is lost, none is to blame."""

import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from clusters import LONG, SOON, ClusterSearch, cluster_of
from networks import HOST, cabled
from searches import TABLE, Row

from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import read_results

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Makes a cluster and a search on it, not yet begun."""
    for name, value in SOON.items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:

        def make(fault, num_workers, **more):
            cluster = stack.enter_context(cluster_of(num_workers, **more))
            TABLE.append(Row(fault))
            search = ClusterSearch(tmp_path / "search", TABLE[-1], cluster)
            stack.callback(search.give_up)
            return cluster, search

        yield make


def check(search, in_flight):
    search.check(in_flight=in_flight)
    with Ledger.open(search.folder, read_only=True) as ledger:
        assert {one["retries"] for one in ledger.trials()} == {0}, ledger.events()


def num_moves(search):
    return sum(event["kind"] == "move" for event in search.events())


def test_nodes_killed_again_and_again(start, rng):
    """Always the one that reported last, and it comes back under its name."""
    cluster, search = start("SIGKILL of a node, 3 times", 2, head_gpus=0)
    search.row.times = 3
    search.begin(*LONG)
    for _ in range(3):
        assert search.wait_for(len(search.reports()) + rng.randrange(1, 30), rng.uniform(0, 0.2))
        search.look()
        name = search.nodes()[-1]
        cluster.kill(name)
        cluster.add_worker(name)
    assert search.end(200) == 0, search.printed
    check(search, in_flight=6)
    assert 3 <= num_moves(search) <= 6


def test_all_nodes_die_at_once_and_one_returns(start):
    """The head has no room for trials, so the search has to wait."""
    cluster, search = start("SIGKILL of all nodes at once", 2, head_gpus=0)
    search.begin(*LONG)
    for name in ("node1", "node2"):
        search.wait_for_node(name)
    search.look()
    for name in ("node1", "node2"):
        cluster.kill(name)
    cluster.add_worker("node1")
    assert search.end(200) == 0, search.printed
    check(search, in_flight=4)
    assert num_moves(search) == 4


@pytest.mark.parametrize("seconds", [1, 90])
def test_a_node_cut_off_from_the_network(start, seconds):
    """It trains on until its epoch is over, which must not disturb the one that has its trial now."""
    with cabled(2) as (first, second):
        cluster, search = start(f"network of a node cut for {seconds} s", 0, host=HOST)
        cluster.add_worker("node1", host=first.host, prefix=first.prefix)
        cluster.add_worker("node2", host=second.host, prefix=second.prefix)
        search.begin(*LONG)
        for name in ("node1", "node2"):
            search.wait_for_node(name)
        search.look()
        first.cut()
        cut_s = time.monotonic()
        while time.monotonic() < cut_s + seconds and search.driver.poll() is None:
            time.sleep(0.1)
        first.mend()
        assert search.end(200) == 0, search.printed
        check(search, in_flight=4)
        assert num_moves(search) in ((2,) if seconds > 1 else (0, 1, 2))


def test_a_frozen_node_returns_when_its_trials_have_moved(start):
    cluster, search = start("SIGSTOP of all of a node", 2)
    search.begin(*LONG)
    search.wait_for_node("node1")
    search.look()
    frozen = cluster.processes("node1")
    for process in frozen:
        process.suspend()
    while not num_moves(search):
        assert search.driver.poll() is None, search.printed
        time.sleep(0.1)
    for process in frozen:
        process.resume()
    assert search.end(200) == 0, search.printed
    check(search, in_flight=4)


def test_a_confirmation_on_a_node_that_dies(start, monkeypatch):
    """Not one retry is allowed, so the node's end must not count as one."""
    cluster, search = start("SIGKILL of a node that confirms", 1, head_gpus=0)
    short = ("search.num_trials=1", "asha={grace_epochs: 300}", "train.epochs=300", "failures.max_retries=0")
    search.begin(*LONG, *short, "methods=[base]")
    assert search.end(200) == 0, search.printed
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    trained = len(search.epoch_log.read_text().splitlines())
    confirming = subprocess.Popen(
        [sys.executable, "-m", "tune_jobs", "confirm", str(search.folder), "--seeds", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        while len(search.epoch_log.read_text().splitlines()) < trained + 5:
            assert confirming.poll() is None, confirming.communicate()
            time.sleep(0.02)
        cluster.kill("node1")
        cluster.add_worker("node1")
        printed, _ = confirming.communicate(timeout=200)
        assert confirming.returncode == 0, printed
    finally:
        confirming.kill()
        confirming.communicate()
    (row,) = read_results(search.folder).confirmations.to_dict("records")
    assert row["status"] == "completed", printed
    search.row.trained_again = len(search.epoch_log.read_text().splitlines()) - trained - 300
    assert 0 <= search.row.trained_again <= 1
