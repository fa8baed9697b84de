"""What the stopping rule is likely to spend: the rule itself, run over made-up learning curves."""

import heapq
from dataclasses import dataclass

import numpy as np

from tune_jobs.asha import Rule, Rungs

_NUM_SIMULATIONS = 100
_NOISE = 0.01


@dataclass(frozen=True)
class Band:
    """Epochs a study is likely to train: 5th percentile, median and 95th over simulations."""

    low: int
    median: int
    high: int


def epochs_band(rule: Rule, num_trials: int, num_slots: int, *, improving: bool, seed: int = 0) -> Band:
    """Returns the band of epochs that one study trains in all.

    Curves rise exponentially to a final accuracy drawn uniformly, at speeds that differ, with noise of one percent.

    Args:
        rule: The stopping rule.
        num_trials: Trials of the study.
        num_slots: Trials of the study that run at once.
        improving: Whether later trials are drawn better than earlier ones, as a model-based sampler proposes
            them; stopping then saves less, since they beat the cutoffs that earlier ones left.
        seed: Seed of the simulations.
    """
    rng = np.random.default_rng(seed)
    spent = [_spend(rule, num_trials, num_slots, improving, rng) for _ in range(_NUM_SIMULATIONS)]
    low, median, high = np.percentile(spent, (5, 50, 95))
    return Band(round(low), round(median), round(high))


def _spend(rule: Rule, num_trials: int, num_slots: int, improving: bool, rng: np.random.Generator) -> int:
    final = rng.uniform(0.5, 0.95, num_trials)
    if improving:
        final += np.linspace(0, 0.15, num_trials)
    half_life = rng.uniform(0.02, 0.15, num_trials) * rule.max_epochs
    rungs = Rungs(rule)
    clock = [(0.0, slot, -1, 0) for slot in range(min(num_slots, num_trials))]
    started, spent = 0, 0
    while clock:
        now, slot, trial, epoch = heapq.heappop(clock)
        if trial < 0:
            if started == num_trials:
                continue
            trial, epoch, started = started, 0, started + 1
        epoch += 1
        spent += 1
        value = final[trial] * (1 - 0.5 ** (epoch / half_life[trial])) + rng.normal(0, _NOISE)
        decision = rungs.judge(str(trial), epoch, float(value))
        # Slots drift apart as real ones do.
        later = now + rng.uniform(0.9, 1.1)
        heapq.heappush(clock, (later, slot, trial if decision.action == "continue" else -1, epoch))
    return spent
