"""Estimates how many epochs a search will train, by running the stopping rule over made-up learning curves."""

import heapq
from dataclasses import dataclass, replace

import numpy as np

from tune_jobs.job.metric import VAL_ACCURACY
from tune_jobs.stopping.asha import Rule, Rungs

_NUM_SIMULATIONS = 100
_MOST_TRIALS = 1_000  # of one simulation; with more, the share that continues is the same
_MOST_IN_ALL = 10_000  # trials of all simulations, to bound the run time
_NOISE = 0.01


@dataclass(frozen=True)
class Band:
    """Epochs that a study is likely to train: 5th, 50th and 95th percentile over simulations."""

    low: int
    median: int
    high: int


def epochs_band(rule: Rule, num_trials: int, num_slots: int, *, improving: bool, seed: int = 0) -> Band:
    """Returns the range of epochs that one study is likely to train in all.

    Curves rise exponentially to a final accuracy drawn uniformly, at speeds that differ, with noise of one percent.

    Args:
        improving: Whether later trials are better than earlier ones, as with a model-based sampler. Stopping then
            saves less, because later trials beat the cutoffs of earlier ones.
    """
    rule = replace(rule, metric=VAL_ACCURACY)
    rng = np.random.default_rng(seed)
    simulated = min(num_trials, _MOST_TRIALS)
    num_simulations = min(_NUM_SIMULATIONS, _MOST_IN_ALL // simulated)
    spent = [_spend(rule, simulated, num_slots, improving, rng) for _ in range(num_simulations)]
    low, median, high = np.percentile(spent, (5, 50, 95)) * (num_trials / simulated)
    return Band(round(low), round(median), round(high))


def _spend(rule: Rule, num_trials: int, num_slots: int, improving: bool, rng: np.random.Generator) -> int:
    """Returns the epochs of one simulated study. It jumps between milestones: no trial stops in between."""
    final = rng.uniform(0.5, 0.95, num_trials)
    if improving:
        final += np.linspace(0, 0.15, num_trials)
    half_life = rng.uniform(0.02, 0.15, num_trials) * rule.max_epochs
    stations = (*rule.milestones, rule.max_epochs)
    rungs = Rungs(rule)
    free = [(0.0, slot) for slot in range(min(num_slots, num_trials))]
    arrivals: list[tuple[float, int, int, int]] = []  # time, slot, trial, index of the station
    started, spent = 0, 0
    while arrivals or started < num_trials:
        if free and started < num_trials:
            now, slot = free.pop()
            trial, station, last_epoch, started = started, 0, rule.fork_epoch, started + 1
        else:
            now, slot, trial, station = heapq.heappop(arrivals)
            epoch = stations[station]
            value = final[trial] * (1 - 0.5 ** (epoch / half_life[trial])) + rng.normal(0, _NOISE)
            if rungs.judge(str(trial), epoch, float(value)).action != "continue":
                spent += epoch - rule.fork_epoch
                free.append((now, slot))
                continue
            last_epoch, station = epoch, station + 1
        # Slots drift apart as real ones do.
        later = now + (stations[station] - last_epoch) * rng.uniform(0.95, 1.05)
        heapq.heappush(arrivals, (later, slot, trial, station))
    return spent
