"""Do settings carry over: the best of one architecture on another, and how similarly both rank all settings.

Needs searches in which the architectures tried the same configurations, all at full fidelity (the preset `transfer`:
`search.shared_configurations`, without early stopping).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from tune_jobs.job.metric import Metric
from tune_jobs.results.conditions import conditions
from tune_jobs.results.read import Results, values_of
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.statistics import rank_correlation

_COMPARABLE = ["dataset", "method", "max_epochs"]
COLUMNS = (
    *_COMPARABLE,
    "source",
    "target",
    "num_configurations",
    "transferred",
    "own_best",
    "regret",
    "rank_correlation",
    "p_value",
    "n",
    "metric",
    "mode",
)
"""Of the table that `transfer` returns; `param.*` follow."""


def transfer(results: Sequence[Results]) -> pd.DataFrame:
    """Returns one row for each ordered pair of architectures that a method was searched on with equal data and epochs.

    A configuration's value is the metric's mean over the seeds it completed with; those that did not complete
    with any seed have none. Columns:
    - `dataset method max_epochs source target` (both architectures)
    - `num_configurations` that were tried on both, however they ended; nothing but `n` is known if there are none
    - `transferred`: value on the target of the source's best among them (the first tried among equals); null if it
      did not complete there
    - `own_best`: value of the target's own best among them
    - `regret`: how much better `own_best` is than `transferred`; at least 0, and on average above 0 even between two
      runs of one architecture, since the best of many is partly luck
    - `rank_correlation p_value n`: Kendall's tau-b over the `n` configurations that have a value on both
    - `metric mode` that the searches ranked by; only searches with the same ones that trained alike are compared
    - `param.*` of the source's best
    """
    ranked = [
        result.trials.assign(
            value=values_of(result.trials, result.metric),
            metric=result.metric.name,
            mode=result.metric.mode,
            conditions=kind,
        )
        for result, kind in zip(results, conditions(results), strict=True)
    ]
    trials = pd.concat(ranked, ignore_index=True)
    params = [name for name in trials.columns if name.startswith(PARAM_PREFIX)]
    shared_by = [*_COMPARABLE, "metric", "mode", "conditions"]
    rows = [
        {**dict(zip(shared_by, shared, strict=True)), **row}
        for shared, members in trials.groupby(shared_by, sort=False)
        for row in _pairs(_values(members, params), params, Metric(*members[["metric", "mode"]].iloc[0]))
    ]
    return pd.DataFrame(rows, columns=[*COLUMNS, *params])


def describe(results: Sequence[Results]) -> list[str]:
    """Returns the table of `transfer` in words, one line per pair that tried the same configurations."""
    return [
        f"{row['method']} on {row['dataset']}: {row['source']}'s best of {row['num_configurations']} reaches "
        f"{metric.text(row['transferred'])} on {row['target']}, whose own best has {metric.text(row['own_best'])} "
        f"(regret {metric.text(row['regret'])}); rank correlation of the configurations {_tau(row)}."
        for row in transfer(results).to_dict(orient="records")
        for metric in [Metric(row["metric"], row["mode"])]
        if row["num_configurations"] > 1 and pd.notna(row["regret"])
    ]


def _tau(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["rank_correlation"]):
        return f"not defined (n = {row['n']})"
    return f"{row['rank_correlation']:.2f} (Kendall's tau, p = {row['p_value']:.2g}, n = {row['n']})"


def _values(trials: pd.DataFrame, params: list[str]) -> pd.DataFrame:
    """Returns a row for each configuration that an architecture tried: its mean value, NaN if none completed."""
    completed = trials["value"].where(trials["status"] == "completed")
    keys = [trials[name] for name in ("architecture", *params)]
    return completed.groupby(keys, dropna=False, sort=False).mean().rename("value").reset_index()


def _pairs(values: pd.DataFrame, params: list[str], metric: Metric) -> Iterator[dict[str, Any]]:
    by_architecture = {
        str(name): members.drop(columns="architecture")
        for name, members in values.groupby("architecture", sort=False)
    }
    for source, target in permutations(by_architecture, 2):
        both = by_architecture[source].merge(
            by_architecture[target], on=params, suffixes=("_source", "_target")
        )
        yield {"source": source, "target": target, **_row(both, params, metric)}


def _row(both: pd.DataFrame, params: list[str], metric: Metric) -> dict[str, Any]:
    ours, theirs = both["value_source"], both["value_target"]
    correlation = rank_correlation(ours.tolist(), theirs.tolist())
    row: dict[str, Any] = {
        "num_configurations": len(both),
        "own_best": metric.sign * (metric.sign * theirs).max(),
        "rank_correlation": correlation.tau,
        "p_value": correlation.p_value,
        "n": correlation.n,
    }
    if ours.notna().any():
        best = both.iloc[int(np.nanargmax(metric.sign * ours))]
        row |= {"transferred": best["value_target"], **{name: best[name] for name in params}}
        row["regret"] = metric.sign * (row["own_best"] - row["transferred"])
    return row
