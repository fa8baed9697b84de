"""Samplers whose n-th point is a function of the seed, n and the results told so far, and of nothing else.

Optuna's own QMC and CMA-ES samplers keep a counter or a pickled optimizer in the study's storage; a search that is
rebuilt from its ledger has neither.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.trial import TrialState

from tune_jobs.job.space import Choice, Distribution, LogUniform, Uniform, grid_point

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_SIGMA = 1 / 6  # of the unit cube, as Optuna's CmaEsSampler


def grid_sampler(space: Mapping[str, Distribution], number: int) -> BaseSampler:
    """Returns what proposes combination `number` of the choices in the space."""
    choices = {name: values for name, values in space.items() if isinstance(values, Choice)}
    return PartialFixedSampler(grid_point(choices, number), RandomSampler(seed=0))


def sobol_sampler(space: Mapping[str, Distribution], number: int, seed: int) -> BaseSampler:
    """Returns what proposes point `number` of the scrambled Sobol sequence of the seed.

    References:
        Owen, "Scrambling Sobol' and Niederreiter-Xing Points", Journal of Complexity 1998.
    """
    from scipy.stats.qmc import Sobol

    sequence = Sobol(max(1, len(space)), scramble=True, rng=np.random.default_rng(seed))
    if number:  # scipy takes no 0
        sequence.fast_forward(number)
    unit = sequence.random(1)[0]
    point = {name: _place(space[name], float(share)) for name, share in zip(space, unit, strict=False)}
    return PartialFixedSampler(point, RandomSampler(seed=0))


class CmaSampler(BaseSampler):
    """CMA-ES, told all completed trials anew for each suggestion, in the order of their numbers.

    Choices, and a space of one number, are drawn at random: CMA-ES cannot search them.

    Args:
        seed: Of this suggestion.

    References:
        Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: "Study", trial: "FrozenTrial"
    ) -> dict[str, BaseDistribution]:
        """Returns the numbers that every completed trial has; none before the first."""
        completed = _completed(study)
        found = completed[0].distributions if completed else {}
        return {name: kind for name, kind in found.items() if isinstance(kind, FloatDistribution)}

    def sample_relative(
        self, study: "Study", trial: "FrozenTrial", search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns the next point; nothing where there is too little to search."""
        from cmaes import CMA

        if len(search_space) < 2:
            return {}
        size = len(search_space)
        optimizer = CMA(np.full(size, 0.5), _SIGMA, bounds=np.tile((0.0, 1.0), (size, 1)), seed=self._seed)
        told = [
            (np.array([_share(kind, one.params[name]) for name, kind in search_space.items()]), -one.value)
            for one in _completed(study)
            if one.value is not None
        ]
        per_generation = optimizer.population_size
        for begin in range(0, len(told) - per_generation + 1, per_generation):
            optimizer.tell(told[begin : begin + per_generation])
        unit = optimizer.ask()
        return {
            name: _at(kind, float(share))
            for (name, kind), share in zip(search_space.items(), unit, strict=True)
        }

    def sample_independent(
        self, study: "Study", trial: "FrozenTrial", param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Returns a random value."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)


def _completed(study: "Study") -> "Sequence[FrozenTrial]":
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _place(distribution: Distribution, share: float) -> float:
    """Returns the value at a share in [0, 1) of a distribution."""
    match distribution:
        case Uniform(uniform=(low, high)):
            return low + share * (high - low)
        case LogUniform(loguniform=(low, high)):
            return min(high, max(low, math.exp(math.log(low) + share * (math.log(high) - math.log(low)))))
        case Choice(choice=choices):
            return choices[int(share * len(choices))]
    return distribution


def _share(kind: BaseDistribution, value: float) -> float:
    assert isinstance(kind, FloatDistribution)
    scale = math.log if kind.log else float
    return (scale(value) - scale(kind.low)) / (scale(kind.high) - scale(kind.low))


def _at(kind: BaseDistribution, share: float) -> float:
    assert isinstance(kind, FloatDistribution)
    ends = {"loguniform" if kind.log else "uniform": (kind.low, kind.high)}
    return _place(LogUniform(**ends) if kind.log else Uniform(**ends), share)
