"""Samplers of search points, without hidden state: the n-th suggestion has a seed of its own."""

import hashlib
import warnings
from typing import TYPE_CHECKING

from tune_jobs.job.spec import JobSpec, Study

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


def sampler_of(job: JobSpec, study: Study, number: int) -> "BaseSampler":
    """Returns the sampler for trial `number` of a study of the job.

    A sampler made anew for every suggestion proposes what one kept alive in a resumed or uninterrupted search would
    have: nothing but the told results and the seed goes into a point. Trials that repeat a configuration with another
    seed get the sampler of the first one; studies that share their configurations get one another's.
    """
    from optuna import samplers

    from tune_jobs.job.space import to_optuna
    from tune_jobs.search.large_studies import PartialTPESampler
    from tune_jobs.search.pure_samplers import CmaSampler, grid_sampler, sobol_sampler

    search = job.search
    place = study.method if search.shared_configurations else study.name
    if search.seeds > 1 or search.sampler == "grid":
        number %= search.num_configurations
    seed = suggestion_seed(search.seed, place, number)
    startup = num_startup_trials(search.num_trials)
    space = {name: job.space[name] for name in study.parameters}
    with warnings.catch_warnings():
        # Optuna marks some samplers as experimental; they are offered by name here.
        warnings.simplefilter("ignore")
        match search.sampler:
            case "random":
                return samplers.RandomSampler(seed=seed)
            case "grid":
                return grid_sampler(space, number)
            case "qmc":  # one sequence, so its seed is the study's
                return sobol_sampler(space, number, suggestion_seed(search.seed, place, 0))
            case "cmaes":
                return CmaSampler(seed)
            case "gp":
                return samplers.GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False)
        distributions = {name: to_optuna(kind) for name, kind in space.items()}
        return PartialTPESampler(distributions, seed=seed, n_startup_trials=startup)
