"""What the searches say about the parameters: importance, slices, and optima across architectures."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.job.space import choices_of, in_full
from tune_jobs.report.data import Report, limits
from tune_jobs.report.figures import (
    AT_EDGE,
    Picture,
    at_edge,
    colours,
    cut_axis,
    key,
    log_ticks,
    new_figure,
    slug,
    text,
)
from tune_jobs.report.importance import MIN_TRIALS, Importance, bounds_reached, importance, warnings
from tune_jobs.report.page import Bullets, Part, Section
from tune_jobs.report.trials import is_names, shown_values, trial_points
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.tables import count
from tune_jobs.wording import counted


def params_section(report: Report) -> Section:
    """Returns importance and slices of the parameters by architecture, with warnings."""
    parts: list[Part] = []
    reservations = [warning for workload in report.workloads for warning in warnings(report, workload)]
    if reservations:
        parts += ["Read the optima below with these reservations:", Bullets(reservations)]
    parts += _importances(report)
    for workload in report.workloads:
        parts.append([_slice(report, workload, name) for name in _searched(report, workload)])
    return Section("parameters", "Parameters", parts)


def optima_section(report: Report) -> Section:
    """Returns where the best values of each parameter lie, across architectures."""
    pictures = [
        _optima(report, name)
        for name in report.params
        if any(name in _searched(report, workload) for workload in report.workloads)
    ]
    words = (
        "Does a setting carry over from one architecture to another? Large: the study's winner. Small: the other "
        "trials in the best quarter of those completed, so their width says how sharp the optimum is."
    )
    return Section("optima", "Optima across architectures", [words, pictures])


def _searched(report: Report, workload: str) -> list[str]:
    trials = report.of(report.trials, workload)
    return [name for name in report.params if trials[PARAM_PREFIX + name].nunique() > 1]


def _importances(report: Report) -> list[Part]:
    importances: dict[str, dict[str, Importance]] = {}
    try:
        for workload in report.workloads:
            importances[workload] = {
                label: importance(report, workload, label) for label in report.labels_on(workload)
            }
    except ModuleNotFoundError as missing:
        return [f"Importances need Optuna, which is not installed here ({missing.name})."]
    fitted = {
        workload: {label: fit for label, fit in of.items() if fit.shares}
        for workload, of in importances.items()
    }
    lacking = [
        f"{workload}, {label}"
        for workload, of in importances.items()
        for label in of
        if label not in fitted[workload]
    ]
    parts: list[Part] = [[_importance_picture(report, workload, of) for workload, of in fitted.items() if of]]
    if lacking:
        parts.append(
            f"No importances for {'; '.join(lacking)}: they need {MIN_TRIALS} trials, and half of a study, that "
            "reported the same epoch."
        )
    return parts


def _importance_picture(report: Report, workload: str, fits: dict[str, Importance]) -> Picture:
    colour = colours(report.labels)
    traces = [
        go.Bar(
            y=[text(name) for name in fit.shares],
            x=list(fit.shares.values()),
            orientation="h",
            name=text(label),
            marker={"color": colour[label]},
            hovertemplate="%{y}: %{x:.0%} of the variance",
        )
        for label, fit in fits.items()
    ]
    bases = "; ".join(f"{label} n = {fit.n} at epoch {fit.epoch}" for label, fit in fits.items())
    names = [name for name in report.params if any(name in fit.shares for fit in fits.values())]
    lacking = [name for name in report.params if name not in names and name in _searched(report, workload)]
    left_out = f" Not all trials have {', '.join(lacking)}." if lacking else ""
    return Picture(
        slug("importance", workload),
        f"{workload}: share of the variance of {report.metric(workload).label} that each parameter explains within "
        f"its range (fANOVA; {bases}; the last epoch that half of the trials reached).{left_out}",
        new_figure(
            traces,
            title=f"{workload}: importance",
            x={"title": "share of the variance", "tickformat": ".0%", "rangemode": "tozero"},
            y={
                "type": "category",
                "categoryorder": "array",
                "categoryarray": [text(name) for name in names[::-1]],
            },
            height=200 + 22 * len(names) * len(fits),
            barmode="group",
        ),
    )


def _slice(report: Report, workload: str, name: str) -> Picture:
    colour, traces = colours(report.labels), []
    column = PARAM_PREFIX + name
    trials = report.of(report.trials, workload).dropna(subset=[column, "value"])
    metric = report.metric(workload)
    studies = report.of(report.studies, workload)
    axis, note = cut_axis(metric, trials["value"], trials.loc[trials["status"] == "completed", "value"])
    trials = trials.assign(shown=at_edge(axis, trials["value"]))
    for label in report.labels_on(workload):
        own = trials[trials["label"] == label]
        if not len(own):
            continue
        traces.append(key(label, colour[label]))
        traces.append(trial_points(own, column, "shown", label=label, colour=colour[label]))
        best = own[own["trial_id"].isin(studies.loc[studies["label"] == label, "best_trial_id"])]
        traces.append(
            go.Scatter(
                x=shown_values(best[column]),
                y=best["value"].tolist(),
                mode="markers",
                marker={"symbol": "circle-open", "size": 15, "color": colour[label], "line": {"width": 2}},
                hoverinfo="skip",
                legendgroup=label,
                showlegend=False,
            )
        )
    ends, is_log = _range(report, trials, name)
    at_bound = [
        f" The best {name} of {bound.label} is at the {bound.side} end of its range."
        for bound in bounds_reached(report, workload)
        if bound.parameter == name
    ]
    return Picture(
        slug("slice", workload, name),
        f"{workload}: last {metric.label} of n = {counted(len(trials), 'trial')} against {name}; rings are the "
        f"winners, crosses were stopped early{', dotted lines are the ends of the range' if ends else ''}."
        f"{''.join(at_bound)}{note}{AT_EDGE if note else ''}",
        new_figure(
            traces,
            title=f"{workload}: {name}",
            x=_axis(name, ends, is_log, _choices(report, trials, name)),
            y=axis,
            shapes=_bounds(ends),
        ),
    )


def _optima(report: Report, name: str) -> Picture:
    colour, traces, sizes = colours(report.labels), [], []
    column = PARAM_PREFIX + name
    trials = report.completed.dropna(subset=[column])
    labels = [label for label in report.labels if (trials["label"] == label).any()]
    for offset, label in enumerate(labels):
        own = trials[trials["label"] == label]
        merit = own["value"] * own["mode"].map({"min": -1}).fillna(1)
        bar = merit.groupby(own["workload"]).transform(lambda values: values.quantile(0.75))
        good = own[merit >= bar]
        winners = report.studies.loc[report.studies["label"] == label, ["folder", "best_trial_id"]]
        is_winner = good.set_index(["folder", "trial_id"]).index.isin(list(map(tuple, winners.to_numpy())))
        shift = (offset - (len(labels) - 1) / 2) * 0.6 / len(labels)
        rows = good.assign(row=[-report.workloads.index(workload) - shift for workload in good["workload"]])
        look: dict[str, Any] = {"label": label, "colour": colour[label]}
        traces.append(key(label, colour[label]))
        traces.append(trial_points(rows[~is_winner], column, "row", size=6, opacity=0.45, **look))
        traces.append(trial_points(rows[is_winner], column, "row", size=13, **look))
        sizes.append(f"{label} {count(len(good))}")
    ends, is_log = _range(report, trials, name)
    return Picture(
        slug("optima", name),
        f"{name}: winners and the best quarter of the completed trials by architecture"
        f"{', over the whole range (dotted lines)' if ends else ''}; trials shown: {', '.join(sizes) or 'none'}.",
        new_figure(
            traces,
            title=f"Best {name}",
            x=_axis(name, ends, is_log, _choices(report, trials, name)),
            shapes=_bounds(ends),
            y={
                "tickvals": [-position for position in range(len(report.workloads))],
                "ticktext": [text(workload) for workload in report.workloads],
                "range": [-len(report.workloads) + 0.5, 0.5],
                "zeroline": False,
            },
            height=170 + 60 * len(report.workloads),
        ),
    )


def _range(report: Report, trials: pd.DataFrame, name: str) -> tuple[Sequence[float], bool]:
    """Returns the ends of all ranges in which a parameter was searched, and whether they are logarithmic."""
    spaces = [report.space(str(folder)) for folder in trials["folder"].unique()]
    ranges = [ends for space in spaces if (ends := limits(space.get(name)))]
    bounds = sorted({end for low, high, _ in ranges for end in (low, high)})
    return bounds, any(is_log for _, _, is_log in ranges)


def _choices(report: Report, trials: pd.DataFrame, name: str) -> list[str]:
    """Returns all names among which a parameter was searched; nothing if its values are numbers."""
    if not is_names(trials[PARAM_PREFIX + name]):
        return []
    spaces = [report.space(str(folder)) for folder in trials["folder"].unique()]
    choices = [in_full(value) for space in spaces if name in space for value in choices_of(space[name])]
    return list(dict.fromkeys([*choices, *trials[PARAM_PREFIX + name].dropna().astype(str)]))


def _axis(name: str, ends: Sequence[float], is_log: bool, choices: Sequence[str]) -> dict[str, Any]:
    """Returns an axis that shows the whole range, not only where trials were."""
    if choices:
        shown = {"categoryorder": "array", "categoryarray": [text(choice) for choice in choices]}
        return {"title": text(name), "type": "category", "range": [-0.5, len(choices) - 0.5], **shown}
    axis = {"title": text(name), "type": "log" if is_log else "linear"}
    if not ends:
        return axis
    low, high = (math.log10(end) if is_log else end for end in (ends[0], ends[-1]))
    if is_log:
        axis |= log_ticks(ends[0], ends[-1])
    return axis | {"range": [low - 0.04 * (high - low), high + 0.04 * (high - low)]}


def _bounds(ends: Sequence[float]) -> list[dict[str, Any]]:
    line = {"dash": "dot", "width": 1, "color": "#7d8590"}
    return [
        {"type": "line", "x0": end, "x1": end, "y0": 0, "y1": 1, "yref": "paper", "line": line}
        for end in ends
    ]
