"""Contests: which method, or setting, is better where each was trained with several seeds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from tune_jobs.job.metric import Metric
from tune_jobs.report.data import Report
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.statistics import Comparison, Summary, compare_methods, summarize
from tune_jobs.results.tables import setting

_BUDGETS = {"epochs": "the same epochs", "gradients": "the same gradient evaluations"}
_MAX_COMPARED = 12
"""Settings of a workload above which they are not compared in pairs: that takes more seeds than anyone trains."""


@dataclass(frozen=True)
class Contest:
    """Competitors on one workload under one budget, each trained with several seeds."""

    workload: str  # an architecture on a data set
    budget: str  # what is equal: "epochs" or "gradients"
    # The metric by seed, by competitor: a method's confirmed winner, or a setting that a search repeated.
    values: Mapping[str, Mapping[int, float]]
    summaries: Mapping[str, Summary]  # one per competitor, the best mean first
    comparisons: list[Comparison]  # one per pair; empty if there are too many pairs
    metric: Metric
    measure: str  # what `values` are called: "test accuracy"
    methods: Mapping[str, str]  # the method of each competitor
    is_repeated: bool = False  # whether they are of a search, on validation data


def contests(report: Report) -> list[Contest]:
    """Returns how the confirmed winners of the studies compare, by workload and budget."""
    rows = report.confirmations
    rows = rows[(rows["rank_in_study"] == 1) & rows["test_value"].notna() & rows["seed"].notna()]
    confirmed = []
    for (workload, budget, measure), members in rows.groupby(["workload", "budget", "measure"], sort=False):
        metric = report.metric(str(workload))
        by_label = _by_seed(members, members["label"], "test_value")
        # In the order of the job, not of which run ended first.
        values = {label: by_label[label] for label in report.labels if label in by_label}
        comparisons = compare_methods(values, higher_is_better=metric.mode == "max")
        confirmed.append(
            Contest(
                str(workload),
                str(budget),
                values,
                _summaries(values, metric),
                comparisons,
                metric,
                str(measure),
                _methods(members, members["label"], values),
            )
        )
    return confirmed


def repeats(report: Report) -> list[Contest]:
    """Returns how settings compare on validation data, by workload, in searches with `search.repeats` above 1.

    A setting is a method, together with the values of those parameters of which the method was tried with several.
    """
    rows = repeated_trials(report)
    repeated_contests = []
    for workload, members in rows.groupby("workload", sort=False):
        metric = report.metric(str(workload))
        settings = _settings(members, report.params)
        values = _by_seed(members, settings, "value")
        comparisons: list[Comparison] = []
        if len(values) <= _MAX_COMPARED:
            comparisons = compare_methods(values, higher_is_better=metric.mode == "max")
        repeated_contests.append(
            Contest(
                str(workload),
                "epochs",
                values,
                _summaries(values, metric),
                comparisons,
                metric,
                metric.label,
                _methods(members, settings, values),
                True,
            )
        )
    return repeated_contests


def repeated_trials(report: Report) -> pd.DataFrame:
    """Returns the completed trials of the searches that trained each setting with several seeds."""
    repeated = {
        result.folder_name
        for result in report.results
        if int(((result.metadata["job"] or {}).get("search") or {}).get("seeds") or 1) > 1
    }
    return report.completed[report.completed["folder"].isin(repeated)]


def budget_in_words(contest: Contest) -> str:
    """Returns what is equal among the competitors of a contest."""
    return _BUDGETS.get(contest.budget, contest.budget)


def _by_seed(rows: pd.DataFrame, competitors: pd.Series, column: str) -> dict[str, dict[int, float]]:
    return {
        str(name): {int(seed): float(value) for seed, value in zip(own["seed"], own[column], strict=True)}
        for name, own in rows.groupby(competitors, sort=False)
    }


def _methods(rows: pd.DataFrame, competitors: pd.Series, order: Iterable[str]) -> dict[str, str]:
    methods = dict(zip(competitors, rows["method"], strict=True))
    return {name: methods[name] for name in order}


def _summaries(values: Mapping[str, Mapping[int, float]], metric: Metric) -> dict[str, Summary]:
    summaries = {name: summarize(list(by_seed.values())) for name, by_seed in values.items()}
    return dict(sorted(summaries.items(), key=lambda item: -metric.sign * item[1].mean))


def _settings(trials: pd.DataFrame, params: list[str]) -> pd.Series:
    """Returns the name of each trial's setting, like "zsharp q_p 0.9"."""
    names = trials["label"].copy()
    for _, own in trials.groupby("label", sort=False):
        varied = [name for name in params if own[PARAM_PREFIX + name].nunique() > 1]
        for name in varied:
            names.loc[own.index] += f" {name} " + own[PARAM_PREFIX + name].map(setting)
    return names
