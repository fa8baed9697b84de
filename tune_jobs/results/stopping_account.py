"""What early stopping spent, saved and may have cost, whether it can be replayed, and the winner's curse."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

import pandas as pd

from tune_jobs.job.metric import Metric
from tune_jobs.results.finalists import Final, has_own_splits
from tune_jobs.results.read import Results, own_epochs, values_of
from tune_jobs.results.tables import records
from tune_jobs.stopping.asha import Rule
from tune_jobs.stopping.replay import Difference, replay
from tune_jobs.wording import counted


@dataclass(frozen=True)
class Close:
    """A rung at which a study's winner was below the cutoff."""

    rung: int
    value: float  # the winner's metric there
    cutoff: float  # what it would have had to reach
    # Whether the cutoff is that of all values that the rung has in the end, not of those that it had when the
    # winner arrived.
    in_hindsight: bool


@dataclass(frozen=True)
class Curse:
    """The winner's curse of a study: by how much its best single trial promised more than its settings reach."""

    lucky: str  # id of the trial that is the best of the search with one seed
    value: float  # what it reached there
    mean: float  # what its settings reached on average with further seeds and splits
    excess: float  # by how much the first is better than the second; below 0 if it is worse
    standard_error: float | None  # of the mean; None of a single seed
    num_seeds: int
    winner: str  # id of the trial whose settings have the best mean
    winner_mean: float  # that mean


@dataclass(frozen=True)
class Receipt:
    """The account of one study."""

    study: str
    used_epochs: int  # epochs that its trials trained
    saved_epochs: int  # epochs that trials which the rule stopped did not train
    winner: str | None  # id of its best trial at full fidelity; None if there is none
    close: tuple[Close, ...]  # where the winner could have been stopped
    num_immortal: int  # trials that the rule would have stopped, had they not been immortal
    # How much better the best immortal trial that the rule would have stopped is than the best of the others,
    # in the metric; 0 if none is better, None if no such trial completed.
    regret: float | None
    curse: Curse | None = None  # None without finalists, or if its best trial is none that was trained again


def receipts(results: Results) -> list[Receipt]:
    """Returns the account of each study of a search."""
    return [
        _receipt(results, str(study), members, results.epochs[results.epochs["study"] == study])
        for study, members in results.trials.groupby("study", sort=False)
    ]


def replayed(results: Results) -> list[Difference] | None:
    """Judges all reports of a search again and returns the decisions that differ.

    Returns:
        None if the files are of a version that did not record enough for this.
    """
    history = results.metadata["job_history"]
    if not history or "asha" not in history[0][1] or results.epochs["seq"].isna().any():
        return None
    rules = [(after, Rule.of_job(job)) for after, job in history]
    return replay(rules, records(results.trials), records(results.epochs))


def summarise(results: Sequence[Results]) -> list[str]:
    """Returns the account of searches in words: what early stopping did, and the winner's curse of each study."""
    lines = []
    for result in results:
        if len(result.epochs):
            lines += [_line(result, several=len(results) > 1), *curses_in_words([result])]
    return lines


def describe(results: Sequence[Results]) -> list[str]:
    """Returns the account of searches in words, a few lines for each."""
    return [line for result in results for line in _lines(result)]


def _curse_in_words(study: str, curse: Curse, metric: Metric, *, has_splits: bool) -> str:
    """Returns what a study's finalists say of its best single trial, and which of them won."""
    splits = " on splits of their own" if has_splits else ", all on the same validation data,"
    error = "" if curse.standard_error is None else f" (standard error {metric.text(curse.standard_error)})"
    side = "above" if (curse.excess >= 0) == (metric.mode == "max") else "below"
    won = (
        "It wins all the same."
        if curse.winner == curse.lucky
        else f"{curse.winner} wins with a mean of {metric.text(curse.winner_mean)}."
    )
    return (
        f"{study}: the best single trial, {curse.lucky}, reached {metric.label} {metric.text(curse.value)}; the mean "
        f"of {counted(curse.num_seeds, 'further seed')}{splits} is {metric.text(curse.mean)}{error}. Winner's curse: "
        f"{metric.text(abs(curse.excess))} {side} the mean. {won}"
    )


def curses_in_words(results: Iterable[Results]) -> Iterator[str]:
    """Yields the winner's curse of each study that has finalists, in words."""
    for result in results:
        for study, finalists in result.finals.items():
            curse = _curse(finalists, result.metric)
            if curse is not None:
                has_splits = has_own_splits(result.metadata["job"])
                yield _curse_in_words(study, curse, result.metric, has_splits=has_splits)


def _line(results: Results, *, several: bool) -> str:
    accounts = receipts(results)
    used = sum(account.used_epochs for account in accounts)
    saved = sum(account.saved_epochs for account in accounts)
    where = f" ({results.folder.name})" if several else ""
    audit = _short_audit(results)
    if not saved:
        return f"Early stopping{where} saved nothing; {audit}"
    return f"Early stopping{where} saved {saved / (saved + used):.0%} of the epochs; {audit}"


def _short_audit(results: Results) -> str:
    differences = replayed(results)
    if differences is None:
        return "its decisions cannot be replayed: an older version wrote the files."
    if not differences:
        return f"replayed: all {len(results.epochs):,} decisions agree."
    return f"replayed: {len(differences)} of {len(results.epochs):,} decisions DIFFER (`compare --details`)."


def _lines(results: Results) -> list[str]:
    accounts, metric = receipts(results), results.metric
    used = sum(account.used_epochs for account in accounts)
    saved = sum(account.saved_epochs for account in accounts)
    share = saved / (saved + used) if saved + used else 0.0
    spent = f"Early stopping ({results.folder.name}): {used:,} epochs trained, {saved:,} saved, {share:.0%} of all."
    lines = [f"{spent} {_audit(results)}"]
    for account in accounts:
        for close in account.close:
            when = "of all values at the end" if close.in_hindsight else "on arrival"
            lines.append(
                f"  {account.winner}, the best of its study, was in the stop zone at epoch {close.rung}: "
                f"{metric.text(close.value)}, cutoff {metric.text(close.cutoff)} {when}."
            )
        if account.regret is not None:
            better = (
                f"{metric.text(account.regret)} better than all others"
                if account.regret
                else "not better than the others"
            )
            lines.append(
                f"  {account.study}: {account.num_immortal} immortal trials would have been stopped; the best of them "
                f"is {better}."
            )
    return [*lines, *(f"  {line}" for line in curses_in_words([results]))]


def _audit(results: Results) -> str:
    differences = replayed(results)
    if differences is None:
        return "Its decisions cannot be replayed: an older version wrote the files."
    if not differences:
        return f"Replaying the rule gives the same decision on all {len(results.epochs):,} reports."
    first = differences[0]
    return (
        f"Replaying the rule gives ANOTHER decision on {len(differences)} of {len(results.epochs):,} reports, first on "
        f"{first.trial_id}, epoch {first.epoch}: {first.recorded.action} recorded, {first.replayed.action} replayed."
    )


def _receipt(results: Results, study: str, trials: pd.DataFrame, epochs: pd.DataFrame) -> Receipt:
    job, metric = results.metadata["job"], results.metric
    pruned = trials[trials["status"] == "pruned"]
    completed = results.best_first(trials[trials["status"] == "completed"])
    winner = None if completed.empty else str(completed["trial_id"].iloc[0])
    spared = set(epochs.loc[epochs["reason"].str.endswith("immortal", na=False), "trial_id"])
    immortal = completed["trial_id"].isin(spared)
    merits = metric.sign * values_of(completed, metric)
    best_immortal, best_other = (merits[rows].max() for rows in (immortal, ~immortal))
    # The best immortal trial against the best of the rest: what the rule would have lost without immortals.
    regret = None
    if immortal.any():
        regret = max(0.0, float(best_immortal - best_other)) if (~immortal).any() else 0.0
    return Receipt(
        study,
        int(own_epochs(trials).sum()),
        int((pruned["max_epochs"] - pruned["epochs_trained"]).sum()),
        winner,
        tuple(_close(winner, epochs, job)) if winner is not None else (),
        len(spared),
        regret,
        _curse(results.finals.get(study, []), metric),
    )


def _curse(finalists: Sequence[Final], metric: Metric) -> Curse | None:
    """Returns what the best single trial of a study promised, and what its settings reached with other seeds."""
    lucky = next((final for final in finalists if final.rank == 1), None)
    if lucky is None:
        return None
    chosen, error = finalists[0], None
    if len(lucky.values) > 1:
        error = stdev(lucky.values) / math.sqrt(len(lucky.values))
    return Curse(
        lucky.trial_id,
        lucky.search_value,
        lucky.mean,
        metric.sign * (lucky.search_value - lucky.mean),
        error,
        len(lucky.values),
        chosen.trial_id,
        chosen.mean,
    )


def _close(winner: str, epochs: pd.DataFrame, job: dict[str, Any] | None) -> list[Close]:
    if not job or "asha" not in job:
        return []
    rule = Rule.of_job(job)
    metric = rule.metric
    close = []
    for row in records(epochs[(epochs["trial_id"] == winner) & epochs["rung"].notna()]):
        value, cutoff, rung = metric.of(row), row["cutoff"], row["rung"]
        if value is None:
            continue
        if cutoff is not None and not metric.reaches(value, cutoff):
            close.append(Close(rung, value, cutoff, in_hindsight=False))
            continue
        rivals = epochs[(epochs["rung"] == rung) & (epochs["trial_id"] != winner)]
        others = values_of(rivals, metric).dropna()
        if len(others):
            final = rule.cutoff(others.tolist())
            if not metric.reaches(value, final):
                close.append(Close(rung, value, final, in_hindsight=True))
    return close
