"""The stopping rule: Ray's own, decision for decision, plus what Ray lacks."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tune_jobs.job.metric import Metric
from tune_jobs.stopping.asha import Rule, Rungs


@given(
    max_epochs=st.integers(1, 40),
    grace=st.integers(1, 40),
    factor=st.integers(2, 4),
    num_trials=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
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
    assert rungs.judge("a", 3, 0.1).rung == 3
    assert rungs.judge("a", 9, 0.1).action == "complete"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), float("-inf")])
def test_a_diverged_trial_ends_and_counts_as_worst_where_it_was_heading(value):
    rungs = Rungs(Rule(27, 3, 3))
    for trial in ("a", "b"):
        rungs.judge(trial, 3, 0.5)
    decision = rungs.judge("a", 4, value)
    assert decision.action == "diverge"
    assert rungs.values == {3: {"a": 0.5, "b": 0.5}, 9: {"a": 0.0}}
    assert rungs.judge("b", 9, 0.01).action == "continue"


def test_a_crash_at_the_start_counts_in_the_first_rung():
    rungs = Rungs(Rule(27, 3, 3))
    rungs.record_worst("a")
    assert rungs.values == {3: {"a": 0.0}, 9: {}}
    decision = rungs.judge("b", 3, 0.1)
    assert (decision.action, decision.num_values) == ("continue", 1)


def test_switched_off_it_never_stops_a_trial_early():
    rungs = Rungs(Rule(4, 1, 2, enabled=False))
    actions = [rungs.judge(trial, epoch, 1 / trial).action for trial in (1, 2, 3) for epoch in (1, 2, 3, 4)]
    assert actions == ["continue", "continue", "continue", "complete"] * 3


@given(
    values=st.lists(st.integers(0, 8), min_size=1, max_size=40),
    factor=st.integers(2, 5),
    protect_top=st.integers(0, 5),
)
def test_who_is_among_the_best_of_a_rung_goes_on_and_others_as_before(values, factor, protect_top):
    """A table of two rules side by side: what protection changes, and nothing else."""
    plain, protecting = Rungs(Rule(9, 1, factor)), Rungs(Rule(9, 1, factor, protect_top=protect_top))
    for number, value in enumerate(values):
        trial, others = str(number), values[:number]
        place = sum(other > value for other in others) + 1
        without, given_ = plain.judge(trial, 1, value / 10), protecting.judge(trial, 1, value / 10)
        if without.action == "stop" and place <= protect_top:
            assert given_.action == "continue"
            assert f"number {place} of this rung is protected" in given_.reason
        else:
            assert given_ == without
        assert (given_.cutoff, given_.num_values) == (without.cutoff, without.num_values)


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), other=st.floats(0, 1))
def test_about_the_share_asked_for_is_immortal_by_id_and_seed(seed, share, other):
    ids = [f"resnet8-sam-{number:04d}" for number in range(1000)]
    immortal = {
        trial for trial in ids if Rule(9, 1, 3, immortal_fraction=share, seed=seed).is_immortal(trial)
    }
    assert abs(len(immortal) / len(ids) - share) < 0.08  # over 5 standard errors
    low, high = sorted((share, other))
    chosen = [
        {trial for trial in ids if Rule(27, 3, 2, True, 4, one, seed).is_immortal(trial)}
        for one in (low, high)
    ]
    assert immortal in chosen  # whatever else the rule says
    assert chosen[0] <= chosen[1]


def test_immortals_are_others_with_another_seed_and_all_or_none_at_the_ends():
    ids = [f"resnet8-sam-{number:04d}" for number in range(200)]
    drawn = [
        {i for i in ids if Rule(9, 1, 3, immortal_fraction=0.5, seed=seed).is_immortal(i)} for seed in (0, 1)
    ]
    assert 50 < len(drawn[0] ^ drawn[1]) < 150
    assert all(Rule(9, 1, 3, immortal_fraction=1.0).is_immortal(trial) for trial in ids)
    assert not any(Rule(9, 1, 3, immortal_fraction=0.0).is_immortal(trial) for trial in ids)


@given(values=st.lists(st.integers(0, 8), min_size=2, max_size=40), seed=st.integers(0, 99))
def test_an_immortal_trial_is_never_stopped_and_says_so_where_it_would_have_been(values, seed):
    rule = Rule(9, 1, 3, immortal_fraction=0.5, seed=seed)
    plain, rungs = Rungs(Rule(9, 1, 3)), Rungs(rule)
    for number, value in enumerate(values):
        without = plain.judge(str(number), 1, value / 10)
        decision = rungs.judge(str(number), 1, value / 10)
        if without.action == "stop" and rule.is_immortal(str(number)):
            assert decision.action == "continue"
            assert "immortal" in decision.reason
        else:
            assert decision == without


@pytest.mark.parametrize("epoch", [4, 9, 27])
def test_a_skipped_milestone_is_an_error_and_is_not_recorded(epoch):
    rungs = Rungs(Rule(27, 3, 3))
    rungs.judge("b", 3, 0.5)
    with pytest.raises(ValueError, match=f"trial a reports epoch {epoch} and did not report epoch 3"):
        rungs.judge("a", epoch, 0.5)
    assert rungs.values == {3: {"b": 0.5}, 9: {}}


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20) | st.none(), st.booleans()), max_size=60),
    st.integers(1, 9),
    st.integers(2, 4),
)
def test_recorded_reports_leave_the_rungs_that_judging_left(steps, grace, factor):
    rule = Rule(9, grace, factor, protect_top=1)
    judged, recorded = Rungs(rule), Rungs(rule)
    epochs = dict.fromkeys(map(str, range(6)), 0)
    for number, value, fails in steps:
        trial = str(number)
        if trial not in epochs:
            continue
        if fails and value == 0:
            judged.record_worst(trial)
            recorded.record_worst(trial)
            del epochs[trial]
            continue
        epochs[trial] += 1
        reported = None if value is None else value / 20
        decision = judged.judge(trial, epochs[trial], reported)
        recorded.record(trial, epochs[trial], reported)
        assert judged == recorded
        if decision.action != "continue":
            del epochs[trial]


def test_a_job_of_before_there_was_protection_has_the_rule_of_then():
    job = {"train": {"epochs": 9}, "search": {"seed": 5}}
    job["asha"] = {"grace_epochs": 1, "reduction_factor": 3, "enabled": True}
    assert Rule.of_job(job) == Rule(9, 1, 3, seed=5)
    job["asha"] |= {"protect_top": 2, "immortal_fraction": 0.1}
    assert Rule.of_job(job) == Rule(9, 1, 3, True, 2, 0.1, 5)


LOWER, HIGHER = Metric("score", "min"), Metric("score", "max")


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8) | st.none()), max_size=60),
    st.integers(1, 9),
    st.integers(2, 4),
    st.integers(0, 2),
)
def test_lower_is_better_decides_as_its_mirror_image(steps, grace, factor, protect_top):
    """The same values negated: the same actions at mirrored cutoffs, diverged trials included."""
    lower, higher = (
        Rungs(Rule(9, grace, factor, protect_top=protect_top, metric=m)) for m in (LOWER, HIGHER)
    )
    epochs = dict.fromkeys(map(str, range(6)), 0)
    for number, value in steps:
        trial = str(number)
        if trial not in epochs:
            continue
        epochs[trial] += 1
        down = lower.judge(trial, epochs[trial], None if value is None else -value / 8)
        up = higher.judge(trial, epochs[trial], None if value is None else value / 8)
        assert (down.action, down.rung, down.num_values) == (up.action, up.rung, up.num_values)
        assert down.cutoff == (None if up.cutoff is None else pytest.approx(-up.cutoff))
        if down.action != "continue":
            del epochs[trial]


@pytest.mark.parametrize(
    ("metric", "others", "value", "action", "cutoff", "words"),
    [
        (Metric("val_loss", "min"), [0.398], 0.412, "stop", 0.398, "0.412 is above the cutoff 0.398"),
        (Metric("val_loss", "min"), [0.398], 0.3, "continue", 0.398, "0.3 reaches the cutoff 0.398"),
        (Metric("auc", "max"), [12345.678], 0.5, "stop", 12345.678, "0.5 is below the cutoff 1.235e+04"),
        (Metric(), [0.398], 0.412, "continue", 0.398, "0.4120 reaches the cutoff 0.3980"),
        (Metric(), [None], 0.01, "continue", 0.0, "0.0100 reaches the cutoff 0.0000"),
        (Metric("val_loss", "min"), [None], 1e9, "continue", None, "1e+09 is better than a trial that div"),
        (Metric("val_loss", "min"), [None, None, 0.3], 5.0, "continue", None, "5 is better than a trial"),
        (Metric("auc", "max"), [None, 0.3, 0.6], 0.2, "stop", 0.4, "0.2 is below the cutoff 0.4"),
        (Metric("auc", "max"), [None, -3.0], -9.0, "continue", None, "-9 is better than a trial"),
    ],
)
def test_a_cutoff_is_told_in_the_metrics_own_numbers_and_an_infinite_one_stops_nobody(
    metric, others, value, action, cutoff, words
):
    rungs = Rungs(Rule(9, 1, 3, metric=metric))
    for number, other in enumerate(others):
        if other is None:
            rungs.record_worst(str(number))
        else:
            rungs.judge(str(number), 1, other)
    decision = rungs.judge("last", 1, value)
    assert (decision.action, decision.num_values) == (action, len(others))
    assert decision.cutoff == (None if cutoff is None else pytest.approx(cutoff))
    assert decision.reason.startswith(words)
