"""Pictures that only the live page has: parallel coordinates and the Pareto front, and fewer points in large ones."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.job.metric import Metric
from tune_jobs.report.data import Report, limits
from tune_jobs.report.figures import Picture, colours, key, new_figure, silent_line, slug, text, value_axis
from tune_jobs.report.page import Section
from tune_jobs.report.trials import trial_points
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.tables import NONE, Column, Table, count, measured, records, setting
from tune_jobs.serve.elements import tag
from tune_jobs.wording import counted

_MOST_POINTS = 2_000  # of a trace
_MOST_LINES = 400
# Okabe and Ito again, from poor to good trials.
_SHADES = ("#8a93a0", "#56b4e9", "#0b84c6", "#d55e00")
_QUARTERS = ("worst quarter", "third quarter", "second quarter", "best quarter")
COSTS = {
    "gradient_evaluations": "gradient evaluations",
    "train_s": "seconds of training",
    "wall_s": "seconds in all",
    "peak_memory_bytes": "bytes of memory",
    "val_loss": "validation loss",
}
"""What a trial's metric is set against, less is better, with its name."""


def parallel_section(report: Report) -> Section:
    """Returns parallel coordinates of each workload's trials."""
    words = "One line per trial, from its settings to what it reached. Click a quarter to hide or show it."
    return Section(
        "parallel", "Parallel coordinates", [words, [_parallel(report, name) for name in report.workloads]]
    )


def pareto_section(report: Report) -> Section:
    """Returns the metric against what a trial cost, with the trials that no other one beats in both."""
    parts: list[Any] = ["Rings are trials that no other one beats in both at once; the table lists them."]
    choices = []
    for cost, name in COSTS.items():
        for workload in report.workloads:
            if report.metric(workload).name == cost:
                continue
            trials = report.of(report.trials, workload).dropna(subset=["value", cost])
            trials = trials[trials["status"] != "running"]
            if trials[cost].nunique() > 1:
                front = trials[_is_best(trials, cost, report.metric(workload))].sort_values(cost)
                parts.append([_pareto(report, workload, trials, front, cost)])
                parts.append(_front_table(report, workload, front, cost, name))
                choices.append(cost)
    options = [tag("option", COSTS[cost], value=f"pareto-{slug(cost)}-") for cost in dict.fromkeys(choices)]
    if options:
        choice = tag("select", *options, id="pareto-against")
        parts.insert(1, tag("p", tag("label", "Against: ", for_="pareto-against"), choice, class_="choice"))
    else:
        parts = ["No two trials that ended differ in what they cost yet."]
    return Section("pareto", "Pareto front", parts)


def with_fewer_points(pictures: Sequence[Picture]) -> None:
    """Leaves out points of traces that have more than a browser draws at once, and says so in the caption."""
    for picture in pictures:
        steps = [step for trace in picture.figure.data if (step := _thin(trace)) > 1]
        if steps:
            picture.caption += f" Not all points are drawn: at least every {max(steps)}th."


def _thin(trace: Any) -> int:
    if trace.type != "scatter" or trace.x is None or trace.mode != "markers" or len(trace.x) <= _MOST_POINTS:
        return 1
    step = math.ceil(len(trace.x) / _MOST_POINTS)
    length = len(trace.x)
    for owner, name in ((trace, "x"), (trace, "y"), (trace, "customdata"), (trace.marker, "symbol")):
        values = owner[name]
        if values is not None and not isinstance(values, str) and len(values) == length:
            owner[name] = list(values)[::step]
    return step


def _parallel(report: Report, workload: str) -> Picture:
    metric = report.metric(workload)
    trials = report.of(report.trials, workload).dropna(subset=["value"])
    names = [name for name in report.params if trials[PARAM_PREFIX + name].nunique() > 1]
    axes = [_scaled(report, trials, name) for name in names]
    axes.append(_axis(metric.label, trials["value"], None))
    merit = (metric.sign * trials["value"]).rank(method="first")
    quarter = ((merit - 1) * 4 // max(1, len(trials))).astype(int) if len(trials) else merit
    traces = []
    step = max(1, math.ceil(len(trials) / _MOST_LINES))
    for number, shade in enumerate(_SHADES):
        x: list[float | None] = []
        y: list[float | None] = []
        for position in [i for i in range(len(trials)) if quarter.iloc[i] == number][::step]:
            heights = [axis[0][position] for axis in axes]
            known = [(i, height) for i, height in enumerate(heights) if height is not None]
            x += [*(float(i) for i, _ in known), None]
            y += [*(height for _, height in known), None]
        traces.append(
            go.Scatter(
                x=x, y=y, mode="lines", name=_QUARTERS[number], hoverinfo="skip", opacity=0.7,
                line={"color": shade, "width": 2 if number == 3 else 1},
            )
        )  # fmt: skip
    labels = [*names, metric.short_label]
    ends = [
        {
            "x": i, "y": y, "text": text(end), "showarrow": False, "yanchor": anchor, "font": {"size": 10},
            "bgcolor": "rgba(127,127,127,0.12)",
        }
        for i, (_, low, high) in enumerate(axes)
        for y, end, anchor in ((0, low, "top"), (1, high, "bottom"))
    ]  # fmt: skip
    thinned = "" if step == 1 else f" Every {step}th trial is drawn."
    return Picture(
        slug("parallel", workload),
        f"{workload}: {counted(len(trials), 'trial')} by last {metric.label}; where lines of the best quarter meet, "
        f"a setting matters.{thinned}",
        new_figure(
            traces,
            title=f"{workload}: settings",
            x={
                "tickvals": list(range(len(labels))),
                "ticktext": [text(label) for label in labels],
                "range": [-0.3, len(labels) - 0.7],
            },
            y={"showticklabels": False, "range": [-0.12, 1.12], "showgrid": False, "zeroline": False},
            height=380,
            annotations=ends,
        ),
    )


Axis = tuple[list[float | None], str, str]
"""Heights of all trials from 0 to 1, and what stands at both ends."""


def _scaled(report: Report, trials: pd.DataFrame, name: str) -> Axis:
    values = trials[PARAM_PREFIX + name]
    spaces = [report.space(str(folder)) for folder in trials["folder"].unique()]
    ranges = [found for space in spaces if (found := limits(space.get(name)))]
    return _axis(name, values, ranges)


def _axis(name: str, values: pd.Series, ranges: Sequence[tuple[float, float, bool]] | None) -> Axis:
    if values.map(lambda value: isinstance(value, str)).any():
        choices = sorted({str(value) for value in values.dropna()})
        scale = max(1, len(choices) - 1)
        heights = [None if pd.isna(value) else choices.index(str(value)) / scale for value in values]
        return heights, choices[0], choices[-1]
    is_log = bool(ranges) and all(log for _, _, log in ranges or [])
    known = [float(value) for value in values.dropna()]
    known += [end for low, high, _ in ranges or [] for end in (low, high)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    is_log = is_log and low > 0

    def height(value: float) -> float:
        if high == low:
            return 0.5
        if is_log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    heights = [None if pd.isna(value) else height(float(value)) for value in values]
    return heights, setting(low), setting(high)


def _is_best(trials: pd.DataFrame, cost: str, metric: Metric) -> pd.Series:
    """Returns which trials no other one beats: at least as good in both, and better in one."""
    rows = sorted(
        zip(trials.index, trials[cost].astype(float), metric.sign * trials["value"], strict=True),
        key=lambda row: (row[1], -row[2]),
    )
    best, kept = (-math.inf, -math.inf), []
    for index, spent, merit in rows:
        if merit > best[0] or (merit, spent) == best:  # equals do not beat each other
            kept.append(index)
            best = (merit, spent)
    return pd.Series(trials.index.isin(kept), index=trials.index)


def _pareto(report: Report, workload: str, trials: pd.DataFrame, front: pd.DataFrame, cost: str) -> Picture:
    colour, metric, traces = colours(report.labels), report.metric(workload), []
    for label in report.labels_on(workload):
        traces.append(key(label, colour[label]))
        own = trials[trials["label"] == label]
        traces.append(trial_points(own, cost, "value", label=label, colour=colour[label]))
    x, y = front[cost].tolist(), front["value"].tolist()
    traces.append(silent_line("front", x, y, {"color": "#7d8590", "width": 1.5, "shape": "hv"}))
    ring = {"symbol": "circle-open", "size": 14, "color": "#7d8590", "line": {"width": 2}}
    traces.append(go.Scatter(x=x, y=y, mode="markers", marker=ring, hoverinfo="skip", showlegend=False))
    return Picture(
        slug("pareto", cost, workload),
        f"{workload}: last {metric.label} of {counted(len(trials), 'trial')} that ended, against {COSTS[cost]}.",
        new_figure(
            traces,
            title=f"{workload}: against {COSTS[cost]}",
            x={"title": COSTS[cost]},
            y=value_axis(metric, trials["value"]),
        ),
    )


def _front_table(report: Report, workload: str, front: pd.DataFrame, cost: str, name: str) -> Table:
    metric = report.metric(workload)
    columns = [
        Column("trial", lambda row: row["trial_id"], False),
        Column("method", lambda row: row["label"], False),
        Column(name, lambda row: count(row[cost]) if row[cost] == round(row[cost]) else setting(row[cost])),
        Column(metric.label, lambda row: measured(row["value"], metric)),
        *_param_columns(report),
    ]
    caption = (
        f"{workload}: the {counted(len(front), 'trial')} on the front against {name}, the cheapest first."
    )
    return Table(slug("pareto", cost, workload), caption, columns, records(front))


def _param_columns(report: Report) -> Iterator[Column]:
    for name in report.params:

        def shown(row: Any, column: str = PARAM_PREFIX + name) -> str:
            return NONE if row[column] is None else setting(row[column])

        yield Column(name, shown)
