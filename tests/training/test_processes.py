"""Two and four real processes that train one model: equal to what one process computes for the parts of each batch."""

import pytest
import torch
import trainers
from processes import run_in_group
from trainers import METHODS, Regression, image_spec, task_spec

from zsharp.optim import SharpnessAware
from zsharp.training import Training
from zsharp.training.processes import Processes


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    """The folder of checkpoints, and what each process returned, by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_in_group(trainers.run, request.param, folder)


def in_one_process(spec, size):
    """Trains the parts of each batch one after the other: the gradient is their mean, each at its own w + e."""
    training = Training(spec, task=Regression if spec.task else None)
    task, step = training.task, 0
    for epoch in range(2):
        training._to_train_mode()
        for batch in task.batches(epoch):
            batch = task.prepare(batch) if hasattr(task, "prepare") else batch
            for group in training.optimizer.param_groups:
                group["lr"].copy_(training._device_rates[step])
            closures = [closure_for(training, *Processes(rank, size).part(batch)) for rank in range(size)]
            if isinstance(training.optimizer, SharpnessAware):
                training.optimizer.step_groups(closures, model=training.model)
            else:
                training.optimizer.zero_grad()
                for closure in closures:
                    (closure(zero=False) / 1).detach()
                for param in training.model.parameters():
                    param.grad.div_(size)
                training.optimizer.step()
            step += 1
    return training.model.state_dict()


def closure_for(training, part, weight):
    def closure(zero=True):
        if zero:
            training.optimizer.zero_grad()
        loss = training.task.loss(part) * weight
        loss.backward()
        return loss

    return closure


def assert_close(actual, expected, rtol):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        # Running statistics are means over processes, which the other way does not take.
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(actual[name], value, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("method", METHODS)
def test_a_task_trains_as_its_parts_do_in_one_process(ranks, method):
    _, results = ranks
    expected = in_one_process(task_spec(method), len(results))
    for result in results:
        assert_close(result["task"][method][0], expected, rtol=1e-9)


def test_images_train_as_their_parts_do_in_one_process(ranks):
    _, results = ranks
    expected = in_one_process(image_spec(), len(results))
    for result in results:
        assert_close(result["images"][0], expected, rtol=1e-3)


def test_a_synchronised_ascent_is_that_of_the_whole_batch(ranks):
    _, results = ranks
    expected = in_one_process(task_spec("zsharp"), 1)
    for result in results:
        for way in ("synchronised", "sharded"):
            assert_close(result[way][0], expected, rtol=1e-9)


def test_all_processes_are_in_one_state_and_report_the_same(ranks):
    _, results = ranks
    first = results[0]
    for result in results[1:]:
        for way in ("images", "sharded images", "synchronised", "sharded"):
            state, rows = result[way]
            assert rows == first[way][1]
            assert all(
                torch.equal(value, first[way][0][name])
                for name, value in state.items()
                if "tracked" not in name
            )


def test_what_is_reported_is_that_of_the_whole_batch(ranks):
    _, results = ranks
    training = Training(task_spec("zsharp", sync_ascent=True), task=Regression)
    for row in results[0]["synchronised"][1]:
        alone = training.run_epoch()
        for name in ("train_loss", "val_loss", "grad_norm", "perturbation_norm", "lr"):
            assert row[name] == pytest.approx(alone[name], rel=0.05), name
        assert row["gradient_evaluations"] == alone["gradient_evaluations"]


def test_a_checkpoint_goes_on_in_any_number_of_processes_sharded_or_not(ranks):
    folder, results = ranks
    for resumed in (result["resumed"] for result in results):
        for sharding in ("none", "full"):
            assert_close(resumed[f"{sharding} to {sharding}"], resumed[sharding], rtol=1e-9)
    alone = Training(task_spec("friendly_sam", ema_decay=0.9), task=Regression)
    alone.load(folder / "full.ckpt")
    assert alone.run_epoch()["epoch"] == 2


def test_a_batch_is_divided_without_gaps_or_duplicates():
    batch = {"x": torch.arange(11), "y": [torch.arange(11) * 2, torch.ones(3)], "n": 5}
    parts = [Processes(rank, 4).part(batch) for rank in range(4)]
    assert torch.cat([part["x"] for part, _ in parts]).equal(batch["x"])
    assert torch.cat([part["y"][0] for part, _ in parts]).equal(batch["y"][0])
    assert all(part["y"][1] is batch["y"][1] and part["n"] == 5 for part, _ in parts)
    assert sum(weight for _, weight in parts) == pytest.approx(4)
    with pytest.raises(ValueError, match="3 examples for 4 processes"):
        Processes(0, 4).part(torch.ones(3, 2))
