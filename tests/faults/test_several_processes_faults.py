"""Trials of two processes each: one of them, the leader, the driver and a node are killed."""

import time
from contextlib import suppress

import psutil
import pytest
from clusters import SOON, ClusterSearch, cluster_of
from searches import ONE_SLOT, TABLE, Row, Search

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


def test_a_killed_process_costs_its_epoch_and_counts_as_one_retry(begin, whole):
    search = begin("SIGKILL of one of a trial's 2 processes").begin(*PAIRS)
    assert search.wait_for(3)
    (member,) = members(search)
    member.kill()
    assert search.end(300) == 0, search.printed
    search.check(whole)
    assert retries(search) == [0, 0, 1]


def test_with_the_leader_ends_the_other_process(begin, whole):
    search = begin("SIGKILL of the other, which leads").begin(*PAIRS)
    assert search.wait_for(3)
    (member,) = members(search)
    search.worker().kill()
    with suppress(psutil.NoSuchProcess):
        member.wait(20)
    assert search.end(300) == 0, search.printed
    search.check(whole)


def test_a_killed_driver_leaves_no_process_and_the_search_goes_on(begin, whole):
    search = begin("SIGKILL of the driver of such trials").begin(*PAIRS)
    assert search.wait_for(4)
    search.kill()
    search.finish()
    search.check(whole)


def test_winners_are_confirmed_in_as_many_processes(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (row,) = confirm(whole.folder, 1)
    assert row["status"] == "completed" and row["test_accuracy"] > 0.3


def test_a_trial_spans_nodes_and_outlives_a_process_and_a_node(tmp_path, monkeypatch):
    for name, value in SOON.items():
        monkeypatch.setenv(name, value)
    TABLE.append(Row("SIGKILL of a process, then of its node", 2))
    with cluster_of(3, head_gpus=0) as cluster:  # one CPU each: a trial takes two nodes
        search = ClusterSearch(tmp_path / "search", TABLE[-1], cluster)
        try:
            search.begin(*PAIRS, "train.epochs=30", "asha={grace_epochs: 30}", "search.num_trials=2")
            assert search.wait_for(3)
            search.look()
            _, member = node_and_member(cluster)
            member.kill()
            assert search.wait_for(len(search.reports()) + 4)
            search.look()
            node, _ = node_and_member(cluster)
            assert node != search.nodes()[-1], "the leader is on a node of its own"
            cluster.kill(node)
            assert search.end(300) == 0, search.printed
        finally:
            search.give_up()
        search.check(in_flight=2)
        assert retries(search) == [0, 1], "the process counts as one, the node as none"
        assert [event["kind"] for event in search.events()].count("move") == 1
    assert set(read_results(search.folder).trials["status"]) == {"completed"}


def retries(search):
    with Ledger.open(search.folder, read_only=True) as ledger:
        return sorted(trial["retries"] for trial in ledger.trials())


def node_and_member(cluster):
    """The process that trains with a leader, and the name of its node."""
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        for name in set(cluster.pids()) - {"head"}:
            for process in cluster.processes(name):
                with suppress(psutil.NoSuchProcess):
                    if "_Member" in " ".join(process.cmdline()):
                        return name, process
        time.sleep(0.2)
    raise AssertionError("no process trains with a leader")
