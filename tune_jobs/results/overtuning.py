"""Overtuning: whether a search's last choices, better on validation data, are better on test data too."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tune_jobs.results.compare import compare_results
from tune_jobs.results.read import Results
from tune_jobs.results.statistics import Summary, summarize
from tune_jobs.results.tables import records
from tune_jobs.wording import counted


@dataclass(frozen=True)
class Incumbent:
    """A trial that was its study's best so far, and what its settings reach with fresh seeds."""

    trial_id: str
    search_value: float | None  # the metric in the search
    by_seed: dict[int, float]  # what it reached on test data, by fresh seed

    @property
    def summary(self) -> Summary:
        """Mean, spread and interval over the seeds."""
        return summarize(list(self.by_seed.values()))


@dataclass(frozen=True)
class Overtuning:
    """The incumbents of one study, measured again.

    References:
        Schneider, Bischl and Feurer, "Overtuning in Hyperparameter Optimization", AutoML 2025, arXiv 2506.19540: by how
        much the best test value among the incumbents so far is better than the value of the last.
    """

    name: str  # the study's
    architecture: str
    method: str
    budget: str  # as in `confirmations.parquet`
    measure: str  # what the values are: "test accuracy"
    incumbents: Sequence[Incumbent]  # in the order in which they came; the study's winner comes last
    best_earlier: Incumbent | None  # the one before the winner with the best mean on test data
    difference: Summary | None  # the winner less that one, on the seeds that both have

    @property
    def winner(self) -> Incumbent:
        """The study's final choice."""
        return self.incumbents[-1]


def overtuning(result: Results) -> list[Overtuning]:
    """Returns the incumbents of each study of a search whose winner was measured among them."""
    rows = result.incumbents
    if rows.empty:
        return []
    ended = result.trials.set_index("trial_id")["ended_after"]
    table = compare_results([result])
    winners = {
        (row["architecture"], row["method"]): row["best_trial_id"]
        for row in records(table)
        if row["best_trial_id"]
    }
    measured_again = []
    keys = ["study", "architecture", "method", "budget"]
    for (study, architecture, method, budget), members in rows.groupby(keys, sort=False):
        measured: dict[str, Incumbent] = {}
        labels: list[str] = []
        for row in records(members):
            value, label = result.metric.confirmed(row)
            if value is not None:
                known = Incumbent(row["trial_id"], row["search_value"], {})
                measured.setdefault(row["trial_id"], known).by_seed[row["seed"]] = value
                labels.append(label)
        winner = winners.get((architecture, method))
        if winner not in measured:
            continue
        order = sorted(measured, key=lambda name: (name == winner, ended.get(name, 0)))
        own = [measured[name] for name in order]
        sign = result.metric.sign
        best = max(own[:-1], key=lambda earlier: sign * earlier.summary.mean, default=None)
        names = (str(study), str(architecture), str(method), str(budget), labels[0])
        measured_again.append(Overtuning(*names, own, best, _difference(own[-1], best)))
    return measured_again


def describe(results: Iterable[Results]) -> list[str]:
    """Returns a line for each study whose incumbents were measured."""
    return [line for result in results for line in _lines(result)]


def _lines(result: Results) -> Iterator[str]:
    metric = result.metric
    for study in overtuning(result):
        best, winner = study.best_earlier, study.winner
        reached = f"{study.measure} {metric.text(winner.summary.mean)} ({counted(winner.summary.n, 'seed')})"
        if best is None or study.difference is None:
            yield f"Overtuning, {study.name}: the final choice, {winner.trial_id}, was the only incumbent: {reached}."
            continue
        lead, verdict, ends = metric.sign * study.difference.mean, "no overtuning is shown", ""
        low, high = study.difference.low, study.difference.high
        if low is not None and high is not None:
            ends = f", 95 % interval {metric.text(low)} to {metric.text(high)}"
            if lead < 0 and not low <= 0 <= high:
                verdict = f"overtuned by {metric.text(-lead)}"
        where = study.name if study.budget == "epochs" else f"{study.name} at equal {study.budget}"
        yield (
            f"Overtuning, {where}: {verdict}. The final choice, {winner.trial_id}, has {reached}, the best of "
            f"{counted(len(study.incumbents) - 1, 'earlier incumbent')}, {best.trial_id}, "
            f"{metric.text(best.summary.mean)}; difference {metric.text(study.difference.mean)}{ends}."
        )


def _difference(winner: Incumbent, best: Incumbent | None) -> Summary | None:
    shared = [] if best is None else [seed for seed in winner.by_seed if seed in best.by_seed]
    if best is None or not shared:
        return None
    return summarize([winner.by_seed[seed] - best.by_seed[seed] for seed in shared])
