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
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

MOST_TOLD = 1000
_BEST = 100  # several times what TPE takes for good


def some_of(
    trials: Sequence[FrozenTrial], most: int = MOST_TOLD, *, larger_is_better: bool = True
) -> list[FrozenTrial]:
    """Returns at most `most` trials that ended, by their numbers: the best completed ones, and every n-th of the rest.

    Running ones come on top; failed ones, which TPE leaves out, are left out.
    """
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    running = [trial for trial in trials if trial.state is TrialState.RUNNING]
    if len(ended) > most:
        completed = [trial for trial in ended if trial.state is TrialState.COMPLETE]
        sign = -1 if larger_is_better else 1
        completed.sort(key=lambda trial: (sign * (trial.value or 0.0), trial.number))
        best = {trial.number for trial in completed[: min(_BEST, most // 2)]}
        others = [trial for trial in ended if trial.number not in best]
        room = most - len(best)
        chosen = best | {others[i * len(others) // room].number for i in range(room)}
        ended = [trial for trial in ended if trial.number in chosen]
    return sorted([*ended, *running], key=lambda trial: trial.number)


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
        searched: dict[str, BaseDistribution] = super().infer_relative_search_space(study, trial)
        return searched

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns a suggestion for all parameters together."""
        suggestion: dict[str, Any] = super().sample_relative(self._part(study), trial, search_space)
        return suggestion

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Returns a suggestion for a parameter that not all trials have."""
        return super().sample_independent(self._part(study), trial, param_name, param_distribution)

    def _part(self, study: Study) -> Any:
        self._raise_error_if_multi_objective(study)  # which trials are best would be unclear
        is_max = study.direction is StudyDirection.MAXIMIZE
        return _Part(study, some_of(study.get_trials(deepcopy=False), self._most, larger_is_better=is_max))


class _Part:
    """A study of which only some trials are seen. Should Optuna ask for them in another way, it sees all of them."""

    def __init__(self, study: Study, trials: Sequence[FrozenTrial]) -> None:
        self._study, self._seen = study, trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._seen if states is None or trial.state in states]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)
