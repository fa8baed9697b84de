"""A run that starts from a trunk: what it takes from there, and what is its own."""

from dataclasses import replace

import pytest
import torch
from small_runs import is_same, measured, small_spec

from zsharp.training import Training

SETTINGS = {"max_images": 150, "epochs": 3, "ema_decay": 0.9, "base_optimizer": "sgd"}


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """Two of three epochs of the base method, and their checkpoint."""
    training = Training(small_spec("base", **SETTINGS))
    training.run_epoch(), training.run_epoch()
    file = tmp_path_factory.mktemp("trunk") / "trunk.pt"
    training.save(file)
    return training, file


def fork(trunk, method, params=None):
    """A run at the end of the trunk."""
    training, file = trunk
    forked = Training(small_spec(method, params=params, **SETTINGS))
    torch.manual_seed(99)
    forked.load(file, training.spec)
    return forked


def base_state(training):
    """What every method has."""
    return {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict()["state"],
        "average": training._average,
        "batches": training.task.generators[0].get_state(),
        "global": torch.get_rng_state(),
        "epoch": training.epoch,
    }


@pytest.mark.parametrize("method", ["base", "zsharp", "random_sam", "friendly_sam"])
def test_at_the_fork_all_methods_are_where_the_trunk_ended(trunk, method):
    rng = torch.get_rng_state()
    torch.set_rng_state(torch.load(trunk[1], weights_only=True)["state"]["rng"]["cpu"])
    expected = {**base_state(trunk[0])}
    torch.set_rng_state(rng)
    forked = fork(trunk, method)
    assert is_same(base_state(forked), expected)
    assert forked.last_report is None


def test_a_fork_that_changes_nothing_is_the_uninterrupted_run(trunk):
    whole = Training(trunk[0].spec)
    expected = [whole.run_epoch() for _ in range(3)][-1]
    row = fork(trunk, "base").run_epoch()
    totals = {"gradient_evaluations": expected["gradient_evaluations"] // 3}
    assert measured([row]) == measured([expected | totals])


def test_settings_are_the_forks_own(trunk):
    forked = fork(trunk, "zsharp", {"lr": 0.02, "weight_decay": 0.3, "momentum": 0.5, "rho": 0.2})
    groups = forked.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    assert {group["momentum"] for group in groups} == {0.5}
    assert {float(group["rho"]) for group in groups} == {0.2}
    row = forked.run_epoch()
    # the same position in the schedule, at twice the rate
    assert row["lr"] == pytest.approx(2 * fork(trunk, "zsharp").run_epoch()["lr"])
    assert row["epoch"] == 3
    assert row["gradient_evaluations"] == 2 * forked.task.steps_per_epoch


def test_a_forks_own_checkpoint_continues_it(trunk, tmp_path):
    spec = replace(small_spec("zsharp", **SETTINGS), train=replace(trunk[0].spec.train, epochs=4))
    base = Training(replace(spec, method="base"))
    base.run_epoch()
    base.save(tmp_path / "trunk.pt")
    forked = Training(spec)
    forked.load(tmp_path / "trunk.pt", base.spec)
    forked.run_epoch()
    forked.save(tmp_path / "fork.pt")
    expected = [forked.run_epoch(), forked.run_epoch()]
    again = Training(spec)
    again.load(tmp_path / "fork.pt")
    assert measured([again.run_epoch(), again.run_epoch()]) == measured(expected)


def test_another_runs_checkpoint_is_no_trunk(trunk):
    training, file = trunk
    other = replace(training.spec, train=replace(training.spec.train, seed=1))
    with pytest.raises(ValueError, match="seed"):
        Training(replace(other, method="sam")).load(file, other)
