"""A metric against what its trials cost, with the trials that no other one beats in both."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.job.metric import Metric
from tune_jobs.report.data import Report
from tune_jobs.report.figures import (
    Picture,
    colours,
    key,
    new_figure,
    silent_line,
    slug,
    text,
    value_axis,
    whole_axis,
)
from tune_jobs.report.trials import trial_points
from tune_jobs.results.schema import SHARPNESS_PREFIX
from tune_jobs.wording import counted

GRADIENTS = "gradient_evaluations"
_COSTS = {
    GRADIENTS: "gradient evaluations",
    "train_s": "seconds of training",
    "wall_s": "seconds in all",
    "peak_memory_bytes": "bytes of memory",
    "val_loss": "validation loss",
}
_WIDE = 20  # largest value over smallest from which an axis is logarithmic


def costs(report: Report) -> dict[str, str]:
    """Returns what trials can be set against, less is better, by column with its name.

    Measures of sharpness are those of the trial's confirmed runs, on average over the seeds.
    """
    return _COSTS | {SHARPNESS_PREFIX + name: f"sharpness: {name}" for name in report.sharpness}


def with_cost(report: Report, workload: str, cost: str) -> pd.DataFrame:
    """Returns the trials of a workload that ended and have both the metric and the cost."""
    trials = report.of(report.trials, workload)
    if cost.startswith(SHARPNESS_PREFIX):
        measured = report.confirmations.groupby(["folder", "trial_id"])[cost].mean()
        trials = trials.join(measured, on=["folder", "trial_id"])
    trials = trials[trials["status"] != "running"].dropna(subset=["value", cost])
    return trials.assign(**{cost: trials[cost].astype("float64")})


def has_tradeoff(report: Report, workload: str, cost: str) -> bool:
    """Returns whether the trials of a workload differ in a cost that is not what they are ranked by."""
    if report.metric(workload).column == cost:
        return False
    return bool(with_cost(report, workload, cost)[cost].nunique() > 1)


def front_of(trials: pd.DataFrame, cost: str, metric: Metric) -> pd.DataFrame:
    """Returns the trials that no other one beats, the cheapest first: at least as good in both, and better in one."""
    merit = metric.sign * trials["value"]
    ordered = trials.assign(merit=merit).sort_values([cost, "merit"], ascending=[True, False])
    best, kept = (-math.inf, -math.inf), []
    for spent, merit in zip(ordered[cost], ordered["merit"], strict=True):
        is_kept = merit > best[0] or (merit, spent) == best  # equals do not beat each other
        kept.append(is_kept)
        best = (merit, spent) if is_kept else best
    return ordered[pd.Series(kept, index=ordered.index, dtype=bool)].drop(columns="merit")


def pareto_picture(report: Report, workload: str, cost: str = GRADIENTS) -> Picture:
    """Returns one point for each trial that ended, rings around those that none beats, and a line through them."""
    metric, colour, name = report.metric(workload), colours(report.labels), costs(report)[cost]
    trials = with_cost(report, workload, cost)
    front = front_of(trials, cost, metric)
    traces: list[go.Scatter] = []
    for label in report.labels_on(workload):
        own = trials[trials["label"] == label]
        traces.append(key(label, colour[label]))
        traces.append(trial_points(own, cost, "value", label=label, colour=colour[label]))
    x, y = front[cost].tolist(), front["value"].tolist()
    traces.append(silent_line("", x, y, {"color": "#7d8590", "width": 1.5, "shape": "hv"}))
    ring = {"symbol": "circle-open", "size": 14, "color": "#7d8590", "line": {"width": 2}}
    traces.append(go.Scatter(x=x, y=y, mode="markers", marker=ring, hoverinfo="skip", showlegend=False))
    of_seeds = " (mean of its fresh seeds)" if cost.startswith(SHARPNESS_PREFIX) else ""
    return Picture(
        slug("pareto", cost, workload),
        f"{workload}: last {metric.label} of {counted(len(trials), 'trial')} against {name}{of_seeds}; no trial beats "
        f"the {len(front)} on the line in both.",
        new_figure(
            traces,
            title=f"{workload}: {metric.label} against {name}",
            x=_axis(name, trials[cost], is_count=cost == GRADIENTS),
            y=value_axis(metric, trials["value"]),
        ),
    )


def _axis(name: str, values: pd.Series, *, is_count: bool) -> dict[str, Any]:
    if is_count:
        return whole_axis(name, values)
    is_wide = len(values) > 0 and 0 < _WIDE * values.min() < values.max()
    return {"title": text(name), "type": "log" if is_wide else "linear"}
