"""Samplers of search points, without hidden state: the n-th suggestion has a seed of its own."""

import hashlib
import warnings
from typing import TYPE_CHECKING

from tune_jobs.spec import Sampler

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

_MAX_STARTUP = 10


def suggestion_seed(job_seed: int, study: str, number: int) -> int:
    """Returns the seed of suggestion `number` of a study; the same wherever and whenever it is asked."""
    digest = hashlib.sha256(f"{job_seed}/{study}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def num_startup_trials(num_trials: int) -> int:
    """Random points before a model of the study is used: Optuna's 10, or a third of a smaller search."""
    return min(_MAX_STARTUP, max(1, num_trials // 3))


def make_sampler(kind: Sampler, job_seed: int, study: str, number: int, num_trials: int) -> "BaseSampler":
    """Returns the sampler for suggestion `number` of a study.

    A sampler made anew for every suggestion proposes what one kept alive in a resumed or uninterrupted search would
    have: nothing but the told results and the seed goes into a point. The QMC sequence is one sequence, so its
    scrambling seed is the study's.
    """
    from optuna import samplers

    seed = suggestion_seed(job_seed, study, number)
    startup = num_startup_trials(num_trials)
    with warnings.catch_warnings():
        # Optuna marks some samplers as experimental; they are offered by name here.
        warnings.simplefilter("ignore")
        if kind == "random":
            return samplers.RandomSampler(seed=seed)
        if kind == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False)
        if kind == "cmaes":
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
        if kind == "qmc":
            qmc_seed = suggestion_seed(job_seed, study, 0)
            return samplers.QMCSampler(scramble=True, seed=qmc_seed, warn_independent_sampling=False)
        return samplers.TPESampler(seed=seed, n_startup_trials=startup)
