"""What TPE is told of a study that has grown large: all that is good or running, and a part of the rest.

Optuna's TPE goes through all trials for each suggestion: 16 ms at 1,000 trials, 150 ms at 10,000 (one core of a Xeon),
so that a search costs the square of its size. It models two groups, at most 25 best trials and all others; of the
others a part as evenly spread over time says the same.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

MOST_TOLD = 1000
_BEST = 100  # several times what TPE takes for good


def some_of(trials: Sequence[FrozenTrial], most: int = MOST_TOLD) -> list[FrozenTrial]:
    """Returns at most `most` trials that ended, by their numbers: the best completed ones, and every n-th of the rest.

    Running ones come on top; failed ones, which TPE leaves out, are left out. Larger values are better.
    """
    ended = [one for one in trials if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    running = [one for one in trials if one.state is TrialState.RUNNING]
    if len(ended) > most:
        completed = [one for one in ended if one.state is TrialState.COMPLETE]
        completed.sort(key=lambda one: (-(one.value or 0.0), one.number))
        best = {one.number for one in completed[: min(_BEST, most // 2)]}
        others = [one for one in ended if one.number not in best]
        room = most - len(best)
        chosen = best | {others[i * len(others) // room].number for i in range(room)}
        ended = [one for one in ended if one.number in chosen]
    return sorted([*ended, *running], key=lambda one: one.number)


class PartialTPESampler(TPESampler):
    """TPE that is told `some_of` the trials; of a study with no more than `most` it suggests what TPE suggests.

    Args:
        space: The parameters that all trials of the study have; Optuna's finds them out by looking at every trial.
    """

    def __init__(
        self, space: Mapping[str, BaseDistribution], *, most: int = MOST_TOLD, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._space = {name: kind for name, kind in space.items() if not kind.single()}
        self._most = most

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns the parameters that are suggested together."""
        if trial.number > self._most:
            return self._space
        found: dict[str, BaseDistribution] = super().infer_relative_search_space(study, trial)
        return found

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns a suggestion for all parameters together."""
        part: Any = _Part(study, some_of(study.get_trials(deepcopy=False), self._most))
        found: dict[str, Any] = super().sample_relative(part, trial, search_space)
        return found


class _Part:
    """A study of which only some trials are seen. Should Optuna ask for them in another way, it sees all of them."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        self._whole, self._seen = study, trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [one for one in self._seen if states is None or one.state in states]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)
