"""The stopping rule: Ray's own, decision for decision, plus what Ray lacks."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tune_jobs.asha import WORST, Rule, Rungs


@given(
    max_epochs=st.integers(1, 40),
    grace=st.integers(1, 40),
    factor=st.integers(2, 4),
    num_trials=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=200, deadline=None)
def test_it_decides_as_rays_scheduler_does(max_epochs, grace, factor, num_trials, seed):
    """Trials in random interleaving, values with ties; the same reports go to both."""
    grace = min(grace, max_epochs)
    ray = ASHAScheduler(
        "epoch", "value", "max", max_t=max_epochs, grace_period=grace, reduction_factor=factor
    )
    rungs = Rungs(Rule(max_epochs, grace, factor))
    rng = np.random.default_rng(seed)
    epochs = dict.fromkeys(range(num_trials), 0)
    for trial in epochs:
        ray.on_trial_add(None, SimpleNamespace(trial_id=str(trial)))
    while epochs:
        trial = int(rng.choice(list(epochs)))
        epochs[trial] += 1
        value = float(rng.integers(0, 20)) / 20
        theirs = ray.on_trial_result(
            None, SimpleNamespace(trial_id=str(trial)), {"epoch": epochs[trial], "value": value}
        )
        ours = rungs.judge(str(trial), epochs[trial], value)
        assert (ours.action == "continue") == (theirs == TrialScheduler.CONTINUE)
        assert (ours.action == "complete") == (epochs[trial] == max_epochs)
        if ours.action != "continue":
            del epochs[trial]


def test_a_decision_carries_its_inputs():
    rungs = Rungs(Rule(9, 1, 3))
    assert rungs.rule.milestones == (1, 3)
    first = rungs.judge("a", 1, 0.5)
    assert (first.action, first.rung, first.cutoff, first.num_values) == ("continue", 1, None, 0)
    second = rungs.judge("b", 1, 0.4)
    assert (second.action, second.rung, second.cutoff, second.num_values) == ("stop", 1, 0.5, 1)
    third = rungs.judge("c", 1, 0.49)
    assert third.cutoff == pytest.approx(np.percentile([0.5, 0.4], 100 * 2 / 3))
    assert (third.action, third.num_values) == ("continue", 2)
    assert rungs.judge("a", 2, 0.1).rung is None
    assert rungs.judge("a", 9, 0.1).action == "complete"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf")])
def test_a_diverged_trial_ends_and_counts_as_worst_where_it_was_heading(value):
    rungs = Rungs(Rule(27, 3, 3))
    for trial in ("a", "b"):
        rungs.judge(trial, 3, 0.5)
    decision = rungs.judge("a", 4, value)
    assert decision.action == "diverge"
    assert rungs.values == {3: {"a": 0.5, "b": 0.5}, 9: {"a": WORST}}
    assert rungs.judge("b", 9, 0.01).action == "continue"


def test_a_crash_at_the_start_counts_in_the_first_rung():
    rungs = Rungs(Rule(27, 3, 3))
    rungs.record_worst("a")
    assert rungs.values[3] == {"a": WORST}
    decision = rungs.judge("b", 3, 0.1)
    assert (decision.action, decision.num_values) == ("continue", 1)


def test_switched_off_it_never_stops_a_trial_early():
    rungs = Rungs(Rule(4, 1, 2, enabled=False))
    actions = [rungs.judge(trial, epoch, 1 / trial).action for trial in (1, 2, 3) for epoch in (1, 2, 3, 4)]
    assert actions == ["continue", "continue", "continue", "complete"] * 3
