"""The metric during training: against gradient evaluations, and the learning curve of every trial."""

import math

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.job.metric import Metric
from tune_jobs.report.data import Report
from tune_jobs.report.figures import (
    Picture,
    colours,
    cut_axis,
    dash,
    key,
    new_figure,
    number,
    silent_line,
    slug,
    symbol,
    text,
    value_axis,
    whole_axis,
)
from tune_jobs.report.page import Hint, Section
from tune_jobs.report.trials import trial_points
from tune_jobs.results.read import own_epochs
from tune_jobs.wording import counted

_MAX_CURVES = 1_000
"""Trials of which a picture has the curve; of more, nothing could be told apart."""

_MAX_POINTS = 12_000
"""Points in a picture's curves: a browser draws each method as one SVG path, and more make it slow."""


def budget_section(report: Report) -> Section:
    """Returns the metric against gradient evaluations, within a training run and over a search."""
    words = (
        "A gradient evaluation is one forward and backward pass over a batch. A step of a sharpness-aware method "
        "takes two, so at equal epochs it has spent twice as much as the base optimizer."
    )
    winners = [_winners(report, workload) for workload in report.workloads]
    searches = [_anytime(report, workload) for workload in report.workloads]
    metrics = report.metrics
    if all(metric.is_accuracy for metric in metrics):
        subject = "Accuracy"
    else:
        subject = metrics[0].label if len(metrics) == 1 else "The metric"
    return Section("budget", f"{subject} against gradient evaluations", [words, winners, searches])


def curves_section(report: Report) -> Section:
    """Returns every trial's learning curve."""
    words = "One line per trial; the symbol at its end shows how it ended."
    hint = Hint("Click a method in a legend to hide or show it; double-click to show it alone.")
    return Section(
        "curves",
        "Learning curves",
        [words, hint, [_curves(report, workload) for workload in report.workloads]],
    )


def _spent(report: Report, workload: str) -> pd.DataFrame:
    """Returns a workload's reports with `cost`, the gradient evaluations since the trial's last one.

    All epochs of a trial cost the same. `spent` is what the trial had spent by then, its trunk included.
    """
    epochs = report.of(report.epochs, workload)
    trials = report.of(report.trials, workload).set_index("uid")
    per_epoch = trials["gradient_evaluations"].astype("float64") / own_epochs(trials)
    # Without reports, pandas would take the new column for one of text.
    each = epochs["uid"].map(per_epoch).astype("float64")
    forked = epochs["uid"].map(trials["fork_epoch"].astype("float64").fillna(0.0))
    epoch = epochs["epoch"].astype("float64")
    # Of a large search that runs, not every epoch is here.
    passed = epoch - epoch.groupby(epochs["uid"]).shift().fillna(forked)
    epochs = epochs.assign(cost=each * passed, spent=epoch * each).dropna(subset=["cost", "value"])
    spent = epochs["spent"]
    if len(report.trunks):
        trunks = report.trunks.set_index(["folder", "trial_id"])["gradient_evaluations"]
        of_trunk = trials.join(trunks.rename("before"), on=["folder", "trunk"])
        before, fork = (of_trunk[name].astype("float64").fillna(0.0) for name in ("before", "fork_epoch"))
        spent += epochs["uid"].map(before - fork * per_epoch)
    return epochs.assign(spent=spent)


def _winners(report: Report, workload: str) -> Picture:
    colour, traces, metric = colours(report.labels), [], report.metric(workload)
    shown: list[float] = []
    epochs, studies = _spent(report, workload), report.of(report.studies, workload)
    ends: list[float] = []
    for label in report.labels_on(workload):
        winner = studies.loc[studies["label"] == label, "best_trial_id"].iloc[0]
        own = epochs[(epochs["label"] == label) & (epochs["trial_id"] == winner)].sort_values("epoch")
        shown += own["value"].tolist()
        ends += own["value"].tolist()[-max(1, len(own) // 2) :]
        spent = own["spent"].tolist()
        traces.append(_line(label, colour[label], spent, own["value"].tolist(), metric))
    axis, note = cut_axis(metric, shown, ends, room=0.6)
    return Picture(
        slug("winners", workload),
        f"{workload}: each method's best completed trial (n = 1 each): its {metric.label} at equal cost, not at equal "
        f"epochs.{note}",
        new_figure(
            traces,
            title=f"{workload}: training the best trial",
            x={"title": "gradient evaluations of the trial", "rangemode": "tozero"},
            y=axis,
        ),
    )


def _anytime(report: Report, workload: str) -> Picture:
    colour, traces, sizes = colours(report.labels), [], []
    epochs, metric = _spent(report, workload), report.metric(workload)
    early: list[float] = []
    late: list[float] = []
    for label in report.labels_on(workload):
        own = epochs[epochs["label"] == label]
        sizes.append(f"{label} {own['uid'].nunique()}")
        spent, best = own["cost"].cumsum(), metric.sign * (metric.sign * own["value"]).cummax()
        if len(own):
            early.append(best.iloc[len(own) // 10])
            late.append(best.iloc[-1])
        rises = best.ne(best.shift()) | (spent == spent.max())
        traces.append(
            _line(
                label,
                colour[label],
                spent[rises].tolist(),
                best[rises].tolist(),
                metric,
                shape="hv",
                mode="lines",
            )
        )
    return Picture(
        slug("anytime", workload),
        f"{workload}: the running {metric.most} of {metric.label} over all epochs of a study against what it spent, "
        f"in the order of the reports; trials: {', '.join(sizes)}. It may end beyond the "
        "tables' best, which is the last epoch of a completed trial. The axis begins where the studies were after "
        "a tenth of their reports.",
        new_figure(
            traces,
            title=f"{workload}: the whole search",
            x={"title": "gradient evaluations of the study", "rangemode": "tozero"},
            y={**value_axis(metric, [], f"running {metric.most} of "), **_range([*early, *late])},
        ),
    )


def _range(values: list[float]) -> dict[str, list[float]]:
    """Returns an axis' range that shows what the search still gained after its first tenth."""
    if not values:
        return {}
    low, high = min(values), max(values)
    pad = 0.05 * max(high - low, 0.01 * max(abs(low), abs(high)), 1e-12)
    return {"range": [low - pad, high + pad]}


def _line(
    label: str,
    colour: str,
    x: list[float],
    y: list[float],
    metric: Metric,
    *,
    shape: str = "linear",
    mode: str = "lines+markers",
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        name=text(label),
        mode=mode,
        line={"color": colour, "width": 2, "shape": shape, "dash": dash(label)},
        marker={"size": 6, "symbol": symbol(label)},
        hovertemplate=(f"%{{x:,.0f}} gradient evaluations<br>{text(metric.label)} %{{y:{number(metric)}}}"),
    )


def _curves(report: Report, workload: str) -> Picture:
    colour, metric = colours(report.labels), report.metric(workload)
    traces = []
    epochs = report.of(report.epochs, workload).dropna(subset=["value"])
    trials = report.of(report.trials, workload)
    last = epochs.drop_duplicates("uid", keep="last").set_index("uid")["value"]
    ended = trials.assign(value=trials["uid"].map(last)).dropna(subset=["value"])
    stride = max(1, math.ceil(len(trials) / _MAX_CURVES))
    of_drawn = epochs if stride == 1 else epochs[epochs["uid"].isin(trials["uid"].iloc[::stride])]
    shown, step = _thinned(of_drawn)
    for label in report.labels_on(workload):
        own = shown[shown["label"] == label]
        # Not by `groupby`, which takes a millisecond for each of what may be thousands of trials.
        curves: dict[str, list[tuple[float | None, float | None]]] = {}
        for uid, *point in zip(own["uid"], own["epoch"].tolist(), own["value"].tolist(), strict=True):
            curves.setdefault(uid, []).append((point[0], point[1]))
        points = [point for curve in curves.values() for point in [*curve, (None, None)]]
        x, y = [epoch for epoch, _ in points], [value for _, value in points]
        traces.append(key(label, colour[label]))
        traces.append(silent_line(label, x, y, {"color": colour[label], "width": 1}, opacity=0.5))
        ends = ended[ended["label"] == label]
        traces.append(trial_points(ends, "epochs_trained", "value", label=label, colour=colour[label]))
    finals = ended.loc[ended["status"] == "completed", "value"]
    axis, note = cut_axis(metric, shown["value"], finals, room=1.5)
    counts = trials["status"].value_counts()
    by_status = ", ".join(f"{number} {status}" for status, number in counts.items())
    thinned = "" if stride == 1 else f" Every {stride}th trial has its curve."
    thinned += "" if step == 1 else f" Every {step}th epoch is drawn, and all rungs and ends."
    return Picture(
        slug("curves", workload),
        f"{workload}: {counted(len(trials), 'trial')}, {by_status}. Circles (squares: controls) reached full fidelity, "
        f"crosses were stopped by ASHA, triangles diverged, open circles still run.{thinned}{note}",
        new_figure(
            traces,
            title=workload,
            x=whole_axis("epoch", shown["epoch"]),
            y=axis,
            height=380,
        ),
    )


def _thinned(epochs: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Returns the reports to draw, and the number of epochs between them."""
    step = max(1, math.ceil(len(epochs) / _MAX_POINTS))
    last = epochs["epoch"] == epochs.groupby("uid")["epoch"].transform("max")
    kept = ((epochs["epoch"] - 1) % step == 0) | epochs["rung"].notna() | last
    return epochs[kept], step
