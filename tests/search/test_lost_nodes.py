"""A lost node is no fault of its trials, unless they lose one after another; and what nodes are called."""

import pytest
from simulated_search import Driver, small_job

from tune_jobs.cluster.ray import unique_name
from tune_jobs.cluster.watch import has_lost_node

ROW = {"val_accuracy": 0.5, "diverged": 0}


@pytest.fixture
def driver(tmp_path):
    job = small_job("methods=[sam]", "search.num_trials=1", "failures.max_retries=1", "asha.enabled=false")
    driver = Driver(job, tmp_path)
    yield driver
    driver.close()


def test_a_trial_whose_node_is_lost_goes_on_and_has_no_retry(driver):
    recorder = driver.recorder
    config = driver.search.suggest("a")
    for epoch, (ray_id, next_id) in enumerate([("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")], 1):
        recorder.report(ray_id, ROW | {"epoch": epoch})
        recorder.move(ray_id, "its node has died")
        assert driver.search.suggest(next_id) == config | {"epoch": epoch}
    (trial,) = driver.ledger.trials()
    assert (trial["status"], trial["retries"]) == (None, 0)
    events = [event for event in driver.ledger.events() if event["kind"] == "move"]
    assert [event["data"] for event in events] == [
        {"trial_id": trial["trial_id"], "error": "its node has died"}
    ] * 4


def test_a_trial_that_loses_nodes_and_trains_nothing_between_is_not_tried_for_ever(driver):
    recorder = driver.recorder
    for ray_id in "abc":
        driver.search.suggest(ray_id)
        recorder.move(ray_id, "its node has died")
    (trial,) = driver.ledger.trials()
    assert (trial["status"], trial["retries"], trial["error"]) == ("failed", 1, "its node has died")


def test_nothing_moves_when_the_search_stops(driver):
    driver.search.suggest("a")
    driver.recorder.wind_down.begin("interrupted by SIGTERM", "signal")
    driver.recorder.move("a", "its node has died")
    assert not driver.recorder.waiting
    assert {event["kind"] for event in driver.ledger.events()} == {"origin"}


def test_an_error_that_names_no_worker_is_not_a_nodes():
    assert not has_lost_node("ValueError: no report for 20 s; its worker was killed")


def test_nodes_with_the_same_name_are_unique_name():
    rows = [("a" * 56, "10.0.0.1", True), ("b" * 56, "10.0.0.1", False), ("c" * 56, "10.0.0.2", True)]
    nodes = [dict(zip(("NodeID", "NodeName", "Alive"), row, strict=True)) for row in rows]
    assert unique_name("a" * 56, nodes) == "10.0.0.1", "the other one is dead"
    assert unique_name("c" * 56, nodes) == "10.0.0.2"
    nodes[1]["Alive"] = True
    assert unique_name("a" * 56, nodes) == "10.0.0.1/aaaaaaaa"
    assert unique_name("b" * 56, nodes) == "10.0.0.1/bbbbbbbb"
