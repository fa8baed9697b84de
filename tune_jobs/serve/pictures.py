"""What only the live page has: parallel coordinates, and a choice of Pareto fronts."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.report.data import Report, limits
from tune_jobs.report.figures import Picture, new_figure, slug, text
from tune_jobs.report.page import Section
from tune_jobs.report.pareto import costs, front_of, has_tradeoff, pareto_picture, with_cost
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.tables import NONE, Column, Table, count, measured, records, setting
from tune_jobs.serve.elements import tag
from tune_jobs.wording import counted

_MOST_LINES = 400
# Okabe and Ito again, from poor to good trials.
_SHADES = ("#8a93a0", "#56b4e9", "#0b84c6", "#d55e00")
_QUARTERS = ("worst quarter", "third quarter", "second quarter", "best quarter")


def parallel_section(report: Report) -> Section:
    """Returns parallel coordinates of each workload's trials."""
    words = "One line per trial, from its settings to what it reached. Click a quarter to hide or show it."
    return Section(
        "parallel", "Parallel coordinates", [words, [_parallel(report, name) for name in report.workloads]]
    )


def pareto_section(report: Report) -> Section:
    """Returns the metric against what a trial cost, with the trials that no other one beats in both."""
    parts: list[Any] = ["Rings are trials that no other one beats in both at once; the table lists them."]
    options = []
    for cost, name in costs(report).items():
        workloads = [name for name in report.workloads if has_tradeoff(report, name, cost)]
        for workload in workloads:
            parts.append([pareto_picture(report, workload, cost)])
            parts.append(_front_table(report, workload, cost, name))
        if workloads:
            names = ",".join(slug("pareto", cost, workload) for workload in workloads)
            options.append(tag("option", name, value=names))
    if not options:
        return Section("pareto", "Pareto front", ["No two trials that ended differ in what they cost yet."])
    choice = tag("select", *options, id="pareto-against")
    parts.insert(1, tag("p", tag("label", "Against: ", for_="pareto-against"), choice, class_="choice"))
    return Section("pareto", "Pareto front", parts)


def _parallel(report: Report, workload: str) -> Picture:
    metric = report.metric(workload)
    trials = report.of(report.trials, workload).dropna(subset=["value"])
    names = [name for name in report.params if trials[PARAM_PREFIX + name].nunique() > 1]
    axes = [_scaled(report, trials, name) for name in names]
    axes.append(_axis(metric.label, trials["value"], None))
    merit = (metric.sign * trials["value"]).rank(method="first")
    quarters = ((merit - 1) * 4 // max(1, len(trials))).tolist()
    traces = []
    step = max(1, math.ceil(len(trials) / _MOST_LINES))
    for number, shade in enumerate(_SHADES):
        x: list[float | None] = []
        y: list[float | None] = []
        for position in [i for i, own in enumerate(quarters) if own == number][::step]:
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
    ranges = [span for space in spaces if (span := limits(space.get(name)))]
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


def _front_table(report: Report, workload: str, cost: str, name: str) -> Table:
    metric = report.metric(workload)
    front = front_of(with_cost(report, workload, cost), cost, metric)
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
