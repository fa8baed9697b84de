"""The simulated spend of the stopping rule, against the rule run epoch by epoch on other curves."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_jobs.stopping.asha import Rule, Rungs
from tune_jobs.stopping.simulate import epochs_band

RULES = {
    "digits": (Rule(20, 5, 3), 8, 1),
    "many rungs": (Rule(81, 1, 3), 40, 4),
    "halving": (Rule(32, 2, 2), 30, 2),
}


@given(
    max_epochs=st.integers(1, 300),
    grace=st.integers(1, 300),
    factor=st.integers(2, 5),
    num_trials=st.integers(1, 15),
    num_slots=st.integers(1, 50),
    improving=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_band_is_ordered_and_possible(max_epochs, grace, factor, num_trials, num_slots, improving, seed):
    grace = min(grace, max_epochs)
    rule = Rule(max_epochs, grace, factor)
    band = epochs_band(rule, num_trials, num_slots, improving=improving, seed=seed)
    assert num_trials * grace <= band.low <= band.median <= band.high <= num_trials * max_epochs


def test_a_band_depends_on_the_seed_alone():
    bands = [epochs_band(Rule(81, 1, 3), 15, 4, improving=True, seed=seed) for seed in (1, 1, 2)]
    assert bands[0] == bands[1] != bands[2]


@pytest.mark.parametrize("improving", [False, True])
def test_without_early_stopping_all_is_spent(improving):
    band = epochs_band(Rule(50, 5, 3, enabled=False), 12, 4, improving=improving)
    assert band.low == band.median == band.high == 600


def test_one_trial_is_never_stopped():
    assert epochs_band(Rule(50, 5, 3), 1, 4, improving=False).low == 50


@pytest.mark.parametrize("case", RULES)
def test_the_band_holds_what_other_curves_spend_and_rises_with_a_sampler_that_improves(case):
    rule, num_trials, num_slots = RULES[case]
    band = epochs_band(rule, num_trials, num_slots, improving=False)
    improving = epochs_band(rule, num_trials, num_slots, improving=True)
    assert improving.median > band.median
    assert improving.high > band.high
    # The other curves are power laws instead of exponentials, which cross more; no noise; slots take turns.
    spends = [spend(rule, num_trials, num_slots, random.Random(seed)) for seed in range(30)]
    inside = sum(band.low <= spent <= band.high for spent in spends)
    assert inside >= 0.6 * len(spends), (band, sorted(spends))
    assert band.low < np.median(spends) < band.high


def spend(rule, num_trials, num_slots, rng):
    """Epochs of a study, one epoch of one trial after another."""
    rungs, waiting, spent = Rungs(rule), list(range(num_trials)), 0
    curves = [(rng.uniform(0.3, 1), rng.uniform(0.3, 0.9)) for _ in waiting]
    running = {}
    while waiting or running:
        while waiting and len(running) < num_slots:
            running[waiting.pop(0)] = 0
        trial = rng.choice(list(running))
        running[trial] += 1
        spent += 1
        best, power = curves[trial]
        value = best * (1 - (running[trial] + 1) ** -power)
        if rungs.judge(str(trial), running[trial], value).action != "continue":
            del running[trial]
    return spent


def test_of_the_largest_jobs_a_part_is_simulated(monkeypatch):
    monkeypatch.setattr("tune_jobs.stopping.simulate._MOST_IN_ALL", 2_000)
    rule = Rule(1_000_000, 300_000, 3)
    band = epochs_band(rule, 1_000_000, 1_000, improving=True)
    assert 3e11 <= band.low < band.high <= 1e12
    # Of more trials than are simulated, the same share continues.
    monkeypatch.setattr("tune_jobs.stopping.simulate._MOST_TRIALS", 20)
    few, many = (epochs_band(rule, num_trials, 1_000, improving=True) for num_trials in (20, 400))
    assert many.median / 400 == pytest.approx(few.median / 20, rel=1e-6)
