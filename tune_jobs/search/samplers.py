"""Samplers without hidden state: suggestion n depends on the seed, on n and on the results told so far.

Optuna's own grid sampler keeps a list of what it visited in the study's storage. A search that is rebuilt from its
ledger has no such list, so the grid's order follows from n alone.
"""

import hashlib
import warnings
from typing import TYPE_CHECKING

from tune_jobs.job.space import as_choices, condition, grid_point, to_optuna
from tune_jobs.job.spec import JobSpec, Study

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

_MAX_STARTUP = 10


def sampler_of(job: JobSpec, study: Study, number: int) -> "BaseSampler":
    """Returns the sampler for trial `number` of a study.

    A new sampler is made for every suggestion. It proposes what a long-lived one would have proposed, whether or not
    the search was resumed in between, because only the told results and the seed go into a point. Trials that repeat
    a configuration with another seed get the sampler of its first trial. Studies that share their configurations get
    the same samplers.
    """
    from optuna import samplers

    from tune_jobs.search.large_studies import PartialTPESampler

    search = job.search
    seeded_by = study.method if search.shared_configurations else study.name
    if search.seeds > 1 or search.sampler == "grid":
        number %= search.num_configurations
    seed = suggestion_seed(search.seed, seeded_by, number)
    startup = num_startup_trials(search.num_trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns that some samplers are experimental
        match search.sampler:
            case "random":
                return samplers.RandomSampler(seed=seed)
            case "grid":
                choices = as_choices(job.space_of(study.method, study.architecture))
                point = grid_point(choices, number, job.outside_values(study))
                return samplers.PartialFixedSampler(point, samplers.RandomSampler(seed=0))
            case "gp":
                return samplers.GPSampler(
                    seed=seed,
                    n_startup_trials=startup,
                    deterministic_objective=False,
                    warn_independent_sampling=False,  # as parameters with a condition are
                )
            case "tpe":
                always = [name for name in study.parameters if not condition(job.space[name])]
                distributions = {name: to_optuna(job.space[name]) for name in always}
                return PartialTPESampler(
                    distributions, seed=seed, n_startup_trials=startup, warn_independent_sampling=False
                )


def suggestion_seed(job_seed: int, study: str, number: int) -> int:
    """Returns the seed of suggestion `number` of a study. It depends on nothing else."""
    digest = hashlib.sha256(f"{job_seed}/{study}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def num_startup_trials(num_trials: int) -> int:
    """Returns how many random points come before a model is used: Optuna's 10, or a third of a smaller search."""
    return min(_MAX_STARTUP, max(1, num_trials // 3))
