"""What a trial takes and how many run at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_jobs.cluster.slots import Slots, plan_slots
from tune_jobs.errors import JobError
from tune_jobs.job.spec import ResourcesModel


def plan(cpus: float = 16, gpus: float = 0, **section: object) -> Slots:
    return plan_slots(ResourcesModel.model_validate(section), cpus, gpus)


@pytest.mark.parametrize(
    ("cpus", "gpus", "section", "num_slots", "gpus_per_trial"),
    [
        (2, 0, {}, 2, 0),
        (16, 0, {"cpus_per_trial": 3}, 5, 0),
        (2, 0, {"cpus_per_trial": 0.5}, 4, 0),
        (16, 4, {}, 4, 1),
        (2, 4, {}, 2, 1),
        (16, 4, {"device": "cpu"}, 16, 0),
        (16, 4, {"gpus_per_trial": 0}, 16, 0),
        (16, 1, {"gpus_per_trial": 0.25}, 4, 0.25),
        (16, 2, {"gpus_per_trial": 0.25}, 8, 0.25),
        (16, 2, {"gpus_per_trial": 0.3}, 6, 0.3),
        (16, 2, {"gpus_per_trial": 0.6}, 2, 0.6),
        (16, 1, {"gpus_per_trial": 0.3333}, 3, 0.3333),
        (16, 1, {"gpus_per_trial": 1 / 3}, 3, 1 / 3),
        (16, 1, {"gpus_per_trial": 0.3334}, 3, 0.3334),  # Ray cuts it to 0.3333
        (16, 1, {"gpus_per_trial": 0.3335}, 2, 0.3335),
        (3, 2, {"gpus_per_trial": 0.25, "cpus_per_trial": 2}, 1, 0.25),
        (16, 4, {"max_concurrent": 2}, 2, 1),
        (16, 4, {"max_concurrent": 9}, 4, 1),
        (1, 0, {"max_concurrent": 1}, 1, 0),
        (8, 0, {"workers_per_trial": 2, "cpus_per_trial": 4}, 2, 0),
        (16, 5, {"workers_per_trial": 2, "cpus_per_trial": 2}, 2, 2),
        (16, 4, {"workers_per_trial": 4, "gpus_per_trial": 1, "cpus_per_trial": 4}, 4, 1),
        (16, 1, {"workers_per_trial": 2, "gpus_per_trial": 0.5, "cpus_per_trial": 2}, 2, 0.5),
    ],
)
def test_slots(cpus: float, gpus: float, section: dict, num_slots: int, gpus_per_trial: float):
    slots = plan(cpus, gpus, **section)
    assert (slots.num_slots, slots.gpus_per_trial) == (num_slots, gpus_per_trial)
    assert slots.cpus_per_trial == section.get("cpus_per_trial", 1)
    assert slots.explanation[-1] == f"{num_slots} trial{'' if num_slots == 1 else 's'} at once"


@pytest.mark.parametrize(
    ("cpus", "gpus", "section", "value", "words"),
    [
        (4, 0, {"gpus_per_trial": 0.5}, 0.5, "no GPU here; valid: auto, 0"),
        (4, 0, {"device": "cuda"}, "cuda", "no GPU here; valid: auto, cpu"),
        (4, 2, {"gpus_per_trial": 0, "device": "cuda"}, 0.0, "needs a share of a GPU"),
        (4, 2, {"gpus_per_trial": 1, "device": "cpu"}, 1.0, "valid: auto, 0"),
        (4, 2, {"gpus_per_trial": 0.00005}, 0.00005, "valid: at least 0.0001"),
        (4, 0, {"cpus_per_trial": 0.00005}, 0.00005, "valid: at least 0.0001"),
        (4, 0, {"cpus_per_trial": 1e308}, 1e308, "more than the 4 CPUs here; valid: at most 4"),
        (4, 0, {"cpus_per_trial": 5}, 5.0, "more than the 4 CPUs here; valid: at most 4"),
        (1, 0, {"cpus_per_trial": 2}, 2.0, "more than the 1 CPU here; valid: at most 1"),
        (8, 1, {"workers_per_trial": 2}, 2, "more than the 1 GPU here"),
    ],
)
def test_what_cannot_be(cpus, gpus, section: dict, value: object, words: str):
    with pytest.raises(JobError) as caught:
        plan(cpus, gpus, **section)
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == (f"resources.{next(iter(section))}", value)
    assert words in problem.message


@pytest.mark.parametrize(
    ("cpus", "gpus", "section", "line"),
    [
        (16, 0, {}, "no GPU here"),
        (16, 4, {"device": "cpu"}, "device is cpu, so trials take no GPU"),
        (16, 4, {"gpus_per_trial": 0}, "gpus_per_trial is 0, which leaves 4 GPUs idle"),
        (16, 1, {"gpus_per_trial": 0.3}, "0.1 of each GPU stays unused; 0.3333 or 0.25 would use it fully"),
        (16, 1, {"gpus_per_trial": 0.6}, "0.4 of each GPU stays unused; 1 or 0.5 would use it fully"),
        (16, 1, {"gpus_per_trial": 0.3}, "1 GPU, 0.3 for each trial: 3 on each GPU, room for 3"),
        (3, 4, {}, "3 CPUs, 1 for each trial: room for 3"),
        (16, 4, {}, "4 GPUs, 1 for each trial: room for 4"),
        (16, 4, {"max_concurrent": 9}, "max_concurrent is 9, but only 4 fit"),
        (16, 4, {"max_concurrent": 2}, "max_concurrent limits them to 2"),
    ],
)
def test_explanations(cpus: float, gpus: float, section: dict, line: str):
    assert line in plan(cpus, gpus, **section).explanation


@pytest.mark.parametrize(
    ("section", "nodes", "sharing"),
    [
        ({"gpus_per_trial": 0.5}, (), "time"),  # not installed here
        ({"gpus_per_trial": 0.5, "sharing": "time"}, (), "time"),
        ({}, (), "time"),
        ({"gpus_per_trial": 0.5}, ((8, 1), (8, 1)), "auto"),  # each node decides for itself
        ({"gpus_per_trial": 0.5, "sharing": "mps"}, ((8, 1), (8, 1)), "mps"),
    ],
)
def test_how_trials_share_a_gpu_is_told(monkeypatch, section: dict, nodes: tuple, sharing: str):
    monkeypatch.setenv("PATH", "/nowhere")
    slots = plan_slots(ResourcesModel.model_validate(section), 16, 2, nodes)
    assert slots.sharing == sharing and slots.sharing_line and slots.sharing_line in slots.explanation


def test_what_shares_no_gpu_is_told_nothing_of_it():
    for gpus, section in ((0, {}), (2, {"gpus_per_trial": 1}), (4, {"workers_per_trial": 2})):
        assert plan(16, gpus, **section).sharing_line == ""


def test_mps_where_it_is_not_installed(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(JobError) as caught:
        plan(16, 1, gpus_per_trial=0.5, sharing="mps")
    assert [problem.path for problem in caught.value.problems] == ["resources.sharing"]


@pytest.mark.parametrize("share", [1, 0.5, 0.3333, 1 / 3, 0.25, 0.2, 0.1666, 0.1])
def test_a_share_that_uses_a_gpu_fully_is_not_blamed(share: float):
    assert not any("unused" in line for line in plan(16, 1, gpus_per_trial=share).explanation)


@given(st.floats(0.001, 64), st.integers(0, 16), st.floats(0.001, 4), st.just("auto") | st.floats(0, 1))
def test_never_more_than_there_is(cpus: float, gpus: int, cpus_per_trial: float, gpus_per_trial: object):
    try:
        slots = plan(cpus, gpus, cpus_per_trial=cpus_per_trial, gpus_per_trial=gpus_per_trial)
    except JobError:
        return
    rounding = slots.num_slots * 1e-4
    assert slots.num_slots >= 1
    assert slots.num_slots * slots.cpus_per_trial <= cpus + rounding
    assert slots.num_slots * slots.gpus_per_trial <= gpus + rounding


def test_each_process_of_a_trial_has_a_cpu_unless_told_otherwise():
    assert ResourcesModel.model_validate({"workers_per_trial": 3}).cpus_per_trial == 3
    slots = plan(8, 4, workers_per_trial=4)
    assert slots.bundles == [{"CPU": 1, "GPU": 1}] * 4
    assert "4 processes train each trial together" in slots.explanation


@pytest.mark.parametrize(
    ("section", "nodes", "num_slots"),
    [
        ({}, [(2, 0), (1, 0), (0, 0)], 3),
        ({"cpus_per_trial": 2}, [(3, 0), (1, 0), (4, 0)], 3),  # 4 by the sum, but no trial spans nodes
        ({"workers_per_trial": 2}, [(1, 0), (1, 0), (1, 0)], 1),
        ({"workers_per_trial": 4, "cpus_per_trial": 8}, [(5, 0), (5, 0), (6, 0)], 1),
        ({"workers_per_trial": 2}, [(4, 1), (4, 2), (8, 0)], 1),
        ({"gpus_per_trial": 0.5}, [(4, 1), (1, 2)], 3),
        ({"gpus_per_trial": 0.25, "cpus_per_trial": 0.5}, [(8, 8), (4, 2), (2, 1), (16, 0)], 28),
        ({"cpus_per_trial": 4}, [(8, 8), (16, 2), (2, 1)], 4),  # GPUs idle for want of CPUs beside them
        ({"workers_per_trial": 4}, [(8, 2), (8, 1), (8, 1)], 1),  # over three nodes of different size
    ],
)
def test_no_process_spans_two_nodes(section, nodes, num_slots):
    cpus, gpus = map(sum, zip(*nodes, strict=True))
    slots = plan_slots(ResourcesModel.model_validate(section), cpus, gpus, nodes)
    assert slots.num_slots == num_slots


def test_nodes_that_cannot_hold_a_trial_are_told():
    resources = ResourcesModel.model_validate({"cpus_per_trial": 3})
    slots = plan_slots(resources, 7, 0, [(2, 0), (5, 0)])
    assert any("1 of 2 nodes cannot hold a trial" in line and "2 CPU" in line for line in slots.explanation)
    with pytest.raises(JobError, match="needs 3 CPU on one node"):
        plan_slots(resources, 4, 0, [(2, 0), (2, 0)])
