"""Pictures of contests: the metric by seed, of completed trials, and over the values of one parameter."""

from collections.abc import Collection
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.report.contests import Contest, budget_in_words, repeated_trials
from tune_jobs.report.data import Report
from tune_jobs.report.figures import (
    Picture,
    colours,
    cut_axis,
    new_figure,
    number,
    slug,
    symbol,
    text,
    value_axis,
)
from tune_jobs.report.trials import is_names, shown_values
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.statistics import Summary, summarize

_MEAN = {"circle": "diamond", "square": "square"}
"""The symbol of a mean over seeds, by the symbol of the method's trials."""


def seeds_picture(report: Report, contest: Contest) -> Picture:
    """Returns the values of one contest: each seed, mean and interval."""
    of_label = colours(report.labels)
    # A setting begins with its method's label, and has its colour: rows are told apart by their names.
    labels = sorted(report.labels, key=len)
    colour = {
        name: of_label[[label for label in labels if f"{name} ".startswith(f"{label} ")][-1]]
        for name in contest.values
    }
    form, measure = number(contest.metric), text(contest.measure)
    traces = []
    for label, summary in reversed(list(contest.summaries.items())):
        seeds = contest.values[label]
        traces.append(
            go.Scatter(
                x=list(seeds.values()),
                y=[text(label)] * len(seeds),
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 11, "color": colour[label]},
                customdata=list(seeds),
                hovertemplate=f"seed %{{customdata}}<br>{measure} %{{x:{form}}}<extra></extra>",
            )
        )
        traces.append(
            go.Scatter(
                x=[summary.mean],
                y=[text(label)],
                mode="markers",
                marker={"size": 12, "color": colour[label], "symbol": _MEAN[symbol(label)]},
                error_x=_intervals([summary]),
                customdata=[summary.n],
                hovertemplate=f"mean %{{x:{form}}}, n = %{{customdata}} seeds<extra></extra>",
            )
        )
    sizes = ", ".join(str(summary.n) for summary in contest.summaries.values())
    kind = "repeated" if contest.is_repeated else "confirmed"
    return Picture(
        slug(kind, contest.budget, contest.workload),
        f"{contest.workload}, {budget_in_words(contest)}: {contest.measure} of each seed (ticks), mean "
        f"(diamonds; squares: controls) and 95 % interval; n = {sizes} seeds from the top.",
        new_figure(
            traces,
            title=contest.workload,
            x={"title": text(contest.metric.sided(contest.measure))},
            y={"type": "category"},
            height=130 + 38 * len(contest.summaries),
            showlegend=False,
        ),
    )


def searched_picture(report: Report, workload: str) -> Picture:
    """Returns the values of the metric that completed trials reached, for a workload that was not confirmed."""
    colour, metric = colours(report.labels), report.metric(workload)
    completed = report.of(report.completed, workload)
    traces: list[go.Scatter] = []
    sizes: list[int] = []
    for label in reversed(report.labels_on(workload)):
        rows = completed[completed["label"] == label]
        sizes.insert(0, len(rows))
        traces.append(
            go.Scatter(
                x=rows["value"].tolist(),
                y=[text(label)] * len(rows),
                mode="markers",
                marker={
                    "symbol": f"{symbol(label)}-open",
                    "size": 9,
                    "color": colour[label],
                    "line": {"width": 2, "color": colour[label]},
                },
                customdata=[text(name) for name in rows["trial_id"]],
                hovertemplate=f"%{{customdata}}<br>{text(metric.label)} %{{x:{number(metric)}}}<extra></extra>",
            )
        )
    axis, note = cut_axis(metric, completed["value"], completed["value"])
    return Picture(
        slug("searched", workload),
        f"{workload}: {metric.label} of the completed trials (open: one seed each), which differ in configuration; "
        f"n = {', '.join(map(str, sizes))} trials from the top.{note}",
        new_figure(
            traces,
            title=workload,
            x=axis,
            y={
                "type": "category",
                "categoryorder": "array",
                "categoryarray": [text(label) for label in reversed(report.labels_on(workload))],
            },
            height=130 + 32 * len(sizes),
            showlegend=False,
        ),
    )


def trend_pictures(report: Report, contest: Contest) -> list[Picture]:
    """Returns mean and interval over the one number that a method's settings differ in, for each such method."""
    pictures = []
    for label, members in report.of(repeated_trials(report), contest.workload).groupby("label", sort=False):
        varied = [name for name in report.params if members[PARAM_PREFIX + name].nunique() > 1]
        if len(varied) == 1:
            colour = colours(report.labels)[str(label)]
            pictures.append(_trend(contest, str(label), members, varied[0], colour))
    return pictures


def _trend(contest: Contest, label: str, members: pd.DataFrame, name: str, colour: str) -> Picture:
    by_value, form = members.groupby(PARAM_PREFIX + name)["value"], number(contest.metric)
    summaries = {value: summarize(values.tolist()) for value, values in by_value}
    members = members.dropna(subset=[PARAM_PREFIX + name])
    of_names = is_names(members[PARAM_PREFIX + name])
    traces = [
        go.Scatter(
            x=shown_values(members[PARAM_PREFIX + name]),
            y=members["value"].tolist(),
            mode="markers",
            marker={"symbol": "line-ew-open", "size": 9, "color": colour, "opacity": 0.6},
            customdata=members["seed"].tolist(),
            hovertemplate=f"{text(name)} %{{x}}, seed %{{customdata}}<br>%{{y:{form}}}<extra></extra>",
        ),
        go.Scatter(
            x=shown_values(pd.Series(list(summaries))),
            y=[summary.mean for summary in summaries.values()],
            mode="markers" if of_names else "lines+markers",
            marker={"size": 9, "color": colour},
            line={"color": colour, "width": 1},
            error_y=_intervals(summaries.values()),
            customdata=[summary.n for summary in summaries.values()],
            hovertemplate=(
                f"{text(name)} %{{x}}<br>mean %{{y:{form}}}, n = %{{customdata}} seeds<extra></extra>"
            ),
        ),
    ]
    sizes = ", ".join(str(summary.n) for summary in summaries.values())
    return Picture(
        slug("trend", name, label, contest.workload),
        f"{contest.workload}, {label}: {contest.measure} over {name}, each seed (dashes), mean and 95 % interval; "
        f"n = {sizes} seeds from the left.",
        new_figure(
            traces,
            title=f"{contest.workload}: {label}",
            x={"title": text(name), **({"type": "category"} if of_names else {})},
            y=value_axis(contest.metric, members["value"]),
            showlegend=False,
        ),
    )


def _intervals(summaries: Collection[Summary]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "thickness": 2,
        "width": 6,
        "array": [0.0 if summary.high is None else summary.high - summary.mean for summary in summaries],
        "arrayminus": [0.0 if summary.low is None else summary.mean - summary.low for summary in summaries],
    }
