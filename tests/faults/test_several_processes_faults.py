"""Trials of two processes each: one of them, the leader, the driver and a node are killed."""

import time
from contextlib import suppress

import psutil
import pytest
from clusters import ClusterSearch, cluster_of
from searches import ONE_SLOT, Row, Search

from tune_jobs.confirmation.run import confirm
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import read_results

pytestmark = pytest.mark.faults

PAIRS = (
    *ONE_SLOT,
    *("methods=[zsharp]", "search.num_trials=3", "train.epochs=5"),
    "resources={device: cpu, max_concurrent: 1, workers_per_trial: 2, cpus_per_trial: 2, gpus_per_trial: 0}",
)


def members(search):
    """The processes that train with a leader."""
    search.look()
    found = []
    for process in search.family.values():
        with suppress(psutil.NoSuchProcess):
            if "_Member" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The search that nothing happens to."""
    search = Search(tmp_path_factory.mktemp("pairs") / "search", Row("nothing, two processes a trial"))
    search.begin(*PAIRS)
    try:
        assert search.end(300) == 0, search.printed
    finally:
        search.give_up()
    search.check(is_counted=False)
    return search


@pytest.fixture
def search(tmp_path, request):
    search = Search(tmp_path / "search", Row(request.node.name))
    yield search
    search.give_up()


def test_a_killed_process_costs_its_epoch_and_counts_as_one_retry(search, whole):
    search.begin(*PAIRS)
    assert search.wait_for(3)
    (member,) = members(search)
    member.kill()
    assert search.end(300) == 0, search.printed
    search.check(whole, is_counted=False)
    with Ledger.open(search.folder, read_only=True) as ledger:
        assert sorted(trial["retries"] for trial in ledger.trials()) == [0, 0, 1]


def test_with_the_leader_ends_the_other_process(search, whole):
    search.begin(*PAIRS)
    assert search.wait_for(3)
    (member,) = members(search)
    search.worker().kill()
    with suppress(psutil.NoSuchProcess):
        member.wait(20)
    assert search.end(300) == 0, search.printed
    search.check(whole, is_counted=False)


def test_a_killed_driver_leaves_no_process_and_the_search_goes_on(search, whole):
    search.begin(*PAIRS)
    assert search.wait_for(4)
    search.kill()
    search.finish()
    search.check(whole, is_counted=False)


def test_winners_are_confirmed_in_as_many_processes(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (row,) = confirm(whole.folder, 1)
    assert row["status"] == "completed" and row["test_accuracy"] > 0.3


@pytest.mark.cluster
def test_a_trial_spans_nodes_and_outlives_one(tmp_path):
    with cluster_of(2) as cluster:  # one CPU each: a trial takes two nodes
        search = ClusterSearch(tmp_path / "search", Row("a node of a trial's two"), cluster)
        try:
            search.begin(*PAIRS, "train.epochs=30", "asha={grace_epochs: 30}", "search.num_trials=2")
            assert search.wait_for(3)
            leader = search.nodes()[-1]
            names = {"head", "node1", "node2"} - {leader}
            hurt = next(name for name in sorted(names - {"head"}) if runs_a_member(cluster, name))
            search.look()
            cluster.kill(hurt)
            assert search.end(300) == 0, search.printed
        finally:
            search.give_up()
    search.check(is_counted=False)
    assert set(read_results(search.folder).trials["status"]) == {"completed"}


def runs_a_member(cluster, name):
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        for process in cluster.processes(name):
            with suppress(psutil.NoSuchProcess):
                if "_Member" in " ".join(process.cmdline()):
                    return True
        time.sleep(0.2)
    return False
