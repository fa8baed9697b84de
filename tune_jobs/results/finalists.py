"""Finalists: which of a study's configurations are trained again, and what the means of their further seeds say."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tune_jobs.job.finalists import number_of, trial_and_turn
from tune_jobs.job.metric import Metric


@dataclass(frozen=True)
class Ended:
    """A trial of the search that trained in full, or a trial of a finalist, however it ended."""

    trial_id: str
    number: int  # its number in its study
    configuration: Hashable  # equal of trials with the same settings
    value: float | None  # of the metric, at its end
    val_loss: float | None
    is_completed: bool = True


@dataclass(frozen=True)
class Candidate:
    """A configuration of a study, with the mean of what it reached in the search."""

    trial_id: str  # its first trial that was completed
    number: int  # of that trial
    value: float
    val_loss: float | None


@dataclass(frozen=True)
class Final:
    """What a finalist reached with its further seeds."""

    trial_id: str  # its trial of the search
    rank: int  # what that trial is in the search: 1 is its best
    search_value: float  # what it reached there
    values: tuple[float, ...]  # with each further seed
    val_loss: float | None  # the mean over them

    @property
    def mean(self) -> float:
        """The mean over the further seeds; the seed of the search takes no part, since it was selected for."""
        return sum(self.values) / len(self.values)


def ranked(metric: Metric, trials: Iterable[Ended]) -> list[Candidate]:
    """Returns a study's configurations, the best first; those that were tried with several seeds by their means."""
    groups: dict[Hashable, list[Ended]] = {}
    for trial in trials:
        groups.setdefault(trial.configuration, []).append(trial)
    candidates = []
    for members in groups.values():
        value = _mean([member.value for member in members])
        if value is not None:
            loss = _mean([member.val_loss for member in members])
            candidates.append(Candidate(members[0].trial_id, members[0].number, value, loss))
    return sorted(candidates, key=lambda best: (*_order(metric, best.value, best.val_loss), best.trial_id))


def due(metric: Metric, settings: tuple[int, int], trials: Iterable[Ended]) -> list[int]:
    """Returns the numbers of all trials that a study's finalists have, by seed first.

    Args:
        settings: How many finalists a study has, and with how many seeds each is trained.
        trials: All trials of the study that trained in full.
    """
    num_finalists, num_seeds = settings
    best = ranked(metric, trials)[:num_finalists]
    return [number_of(trial.number, turn) for turn in range(1, num_seeds + 1) for trial in best]


def finals(
    metric: Metric, settings: tuple[int, int], trials: Iterable[Ended], again: Iterable[Ended]
) -> list[Final]:
    """Returns a study's finalists, the best mean first; nothing before all of their trials have ended.

    A finalist of which a trial diverged or failed is left out.

    Args:
        settings: As for `due`.
        trials: As for `due`.
        again: Those trials of the study's finalists that have ended.
    """
    num_finalists, num_seeds = settings
    by_turn = {trial_and_turn(trial.number): trial for trial in again}
    decided = []
    for rank, candidate in enumerate(ranked(metric, trials)[:num_finalists], 1):
        own = [by_turn.get((candidate.number, turn)) for turn in range(1, num_seeds + 1)]
        if None in own:
            return []
        completed = [run for run in own if run is not None and run.is_completed and run.value is not None]
        if len(completed) == num_seeds:
            values = tuple(run.value for run in completed if run.value is not None)
            loss = _mean([run.val_loss for run in completed])
            decided.append(Final(candidate.trial_id, rank, candidate.value, values, loss))
    return sorted(decided, key=lambda final: (*_order(metric, final.mean, final.val_loss), final.trial_id))


def settings_of(job: Mapping[str, Any] | None) -> tuple[int, int]:
    """Returns how many finalists a resolved job asks for, given as the mapping in its file, and with how many seeds."""
    search = (job or {}).get("search") or {}
    return int(search.get("finalists") or 0), int(search.get("finalist_seeds") or 3)


def has_own_splits(job: Mapping[str, Any] | None) -> bool:
    """Whether each further seed has a validation split of its own; tasks, loops and some data sets bring theirs."""
    data, train = ((job or {}).get(section) or {} for section in ("data", "train"))
    name = str(data.get("name"))
    return not ((job or {}).get("task") or train.get("loop") or name == "folder" or ":" in name)


def ended(
    rows: Iterable[Mapping[str, Any]], metric: Metric, epochs: int, *, of_finalists: bool
) -> Iterator[Ended]:
    """Yields what `finals` takes of the rows of a table of trials.

    Args:
        rows: Trials with the columns of `trials.parquet`.
        epochs: Those that a trial trains in full.
        of_finalists: Whether to return those that ended, however that was; else those that trained in full.
    """
    for row in rows:
        is_full = row["status"] == "completed" and (row["epochs_trained"] or 0) >= epochs
        if is_full or (of_finalists and row["status"] not in (None, "interrupted")):
            params = [(name, value) for name, value in row.items() if name.startswith("param.")]
            configuration = tuple(sorted((name, value) for name, value in params if value is not None))
            value = metric.of(row) if is_full else None
            yield Ended(row["trial_id"], row["number"], configuration, value, row.get("val_loss"), is_full)


def _order(metric: Metric, value: float | None, val_loss: float | None) -> tuple[float, float]:
    first, second = metric.merit(value, val_loss)
    return -first, -second


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
