"""Learning-rate schedules: exact values, bounds, and that the optimizer follows them."""

import math
from itertools import cycle, pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import small_spec

from zsharp.training import Training
from zsharp.training.schedule import learning_rate_factors
from zsharp.training.spec import Schedule

SCHEDULES = get_args(Schedule)


@given(
    schedule=st.sampled_from(SCHEDULES),
    epochs=st.integers(1, 60),
    steps_per_epoch=st.integers(1, 40),
    warmup_epochs=st.floats(0, 80),
)
def test_factors_are_positive_shares_and_fall_after_the_warm_up(
    schedule, epochs, steps_per_epoch, warmup_epochs
):
    num_steps = epochs * steps_per_epoch
    factors = learning_rate_factors(schedule, num_steps, steps_per_epoch, warmup_epochs).tolist()
    assert len(factors) == num_steps
    assert all(0 < factor <= 1 for factor in factors)
    warmup = round(warmup_epochs * steps_per_epoch)
    rising, falling = factors[:warmup], factors[warmup:]
    assert rising == [(step + 1) / warmup for step in range(len(rising))]
    assert all(a >= b for a, b in pairwise(falling))
    if falling and schedule in ("cosine", "constant"):
        assert falling[0] == 1


PAPER = [1.0] * 30 + [0.75] * 30 + [0.75**2] * 30 + [0.75**3] * 15


@pytest.mark.parametrize(
    ("schedule", "steps_per_epoch", "warmup_epochs", "expected"),
    [
        ("constant", 2, 1, [0.5, 1, 1, 1, 1, 1]),
        ("multistep", 2, 0, [1.0] * 40 + [0.1] * 20 + [0.01] * 20),
        ("paper", 3, 0, PAPER),
        ("paper", 3, 5, [(step + 1) / 15 for step in range(15)] + PAPER[15:]),
    ],
)
def test_factors_by_hand(schedule, steps_per_epoch, warmup_epochs, expected):
    factors = learning_rate_factors(schedule, len(expected), steps_per_epoch, warmup_epochs)
    assert factors.tolist() == expected


def test_warm_up_of_the_default_job():
    """5 epochs of 4 steps: a twentieth more each step, full at step 19; no epoch is lost to a rate of zero."""
    factors = learning_rate_factors("cosine", 40, 4, 5).tolist()
    assert factors[:4] == [0.05, 0.1, 0.15, 0.2]
    assert factors[19] == factors[20] == 1
    assert factors[30] == pytest.approx(0.5)
    assert factors[39] == pytest.approx(0.5 * (1 - math.cos(math.pi / 20)))


@pytest.mark.parametrize(
    ("schedule", "method"), list(zip(SCHEDULES, cycle(["base", "zsharp"]), strict=False))
)
def test_training_follows_the_schedule(schedule, method):
    settings = {"max_images": 100, "batch_size": 45, "epochs": 4, "warmup_epochs": 1.5}
    training = Training(small_spec(method, params={"lr": 0.02}, schedule=schedule, **settings))
    factors = learning_rate_factors(schedule, 8, 2, 1.5)
    for epoch in range(4):
        row = training.run_epoch()
        expected = 0.02 * float(factors[2 * epoch + 1])
        assert row["lr"] == expected
        for group in training.optimizer.param_groups:
            assert float(group["lr"]) == pytest.approx(expected, rel=1e-6)


def test_the_rate_of_every_step_reaches_the_weights():
    """SGD without momentum on a constant gradient: the ratio of the steps is the ratio of the rates."""
    spec = small_spec(
        "base", params={"lr": 0.1}, base_optimizer="sgd", momentum=0.0, weight_decay=0.0, epochs=4
    )
    training = Training(spec)
    factors = learning_rate_factors("cosine", 20, 5, 1.0)
    weight = training.model.classifier.bias
    rows = next(training.task.batches(0))
    for index in (0, 4, 12, 19):
        before = weight.detach().clone()
        training._step(training._device_rates[index], rows)
        taken = (before - weight.detach()) / weight.grad
        assert taken == pytest.approx(0.1 * float(factors[index]), rel=1e-2)
