"""How the searches went: what was proposed in which order, and what ASHA continued at each rung."""

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.report.data import Report
from tune_jobs.report.figures import (
    AT_EDGE,
    Picture,
    at_edge,
    colours,
    cut_axis,
    key,
    new_figure,
    silent_line,
    slug,
    symbol,
    text,
    value_axis,
    whole_axis,
)
from tune_jobs.report.page import Bullets, Part, Section
from tune_jobs.report.trials import drawn, drawn_of, trial_points
from tune_jobs.results import stopping_account
from tune_jobs.results.tables import Column, Table, count, measured, records, share
from tune_jobs.wording import counted


def search_section(report: Report, *, audits: bool = True) -> Section:
    """Returns the history of the searches and the rungs of ASHA; `audits`: whether its decisions are taken again."""
    judged = report.epochs[report.epochs["rung"].notna()]
    parts: list[Part] = [[_history(report, workload) for workload in report.workloads]]
    if len(judged):
        parts.append([_rungs(report, judged, workload) for workload in dict.fromkeys(judged["workload"])])
        parts.append(_rungs_table(report, judged))
    else:
        parts.append(
            "No trial has been judged at a rung: early stopping is off, or no trial has reached one yet."
        )
    if not audits:
        parts.append("Whether the decisions follow from the rule, `tune-jobs report` says.")
    elif audit := stopping_account.describe(report.results):
        parts += [
            "What early stopping saved, and whether its decisions follow from the rule:",
            Bullets(audit),
        ]
    return Section("search", "Search history and rungs", parts)


def _history(report: Report, workload: str) -> Picture:
    colour, traces, metric = colours(report.labels), [], report.metric(workload)
    trials = report.of(report.trials, workload)
    # By row where an older file has no numbers.
    order = trials["number"].fillna(trials.groupby("label").cumcount()).astype("int64")
    trials = trials.assign(order=order).dropna(subset=["value"]).sort_values("order")
    axis, note = cut_axis(metric, trials["value"], trials.loc[trials["status"] == "completed", "value"])
    trials = trials.assign(shown=at_edge(axis, trials["value"]))
    for label in report.labels_on(workload):
        own = trials[trials["label"] == label]
        completed = own[own["status"] == "completed"]
        traces.append(key(label, colour[label]))
        traces.append(trial_points(own, "order", "shown", label=label, colour=colour[label]))
        best = (metric.sign * (metric.sign * completed["value"]).cummax()).tolist()
        steps = {"color": colour[label], "width": 1.5, "shape": "hv"}
        traces.append(silent_line(label, completed["order"].tolist(), best, steps))
    return Picture(
        slug("history", workload),
        f"{workload}: last {metric.label} of {counted(len(trials), 'trial')} in the order proposed; lines are the best "
        f"completed so far. A flat line means that more trials would hardly help.{note}{AT_EDGE if note else ''}",
        new_figure(
            traces,
            title=f"{workload}: history",
            x=whole_axis("number of the trial in its study", trials["order"]),
            y=axis,
        ),
    )


def _rungs(report: Report, judged: pd.DataFrame, workload: str) -> Picture:
    colour, traces, metric = colours(report.labels), [], report.metric(workload)
    own = report.of(judged, workload)
    rungs = sorted({int(rung) for rung in own["rung"]})
    labels = report.labels_on(workload)
    for offset, label in enumerate(labels):
        rows = own[(own["label"] == label) & own["value"].notna()]
        shift = (offset - (len(labels) - 1) / 2) * 0.7 / max(len(labels), 1)
        half = 0.3 / max(len(labels), 1)
        last = rows.dropna(subset=["cutoff"]).drop_duplicates("rung", keep="last")
        num_rows, rows = len(rows), drawn(rows)
        x = [
            rungs.index(int(rung))
            + shift
            + half * (number * 0.618 % 1 - 0.5)  # golden ratio: apart, and the same each time
            for number, rung in enumerate(rows["rung"])
        ]
        told = records(rows[["trial_id", "reason"]])
        traces.append(key(label, colour[label]))
        traces.append(
            go.Scatter(
                x=x,
                y=rows["value"].tolist(),
                mode="markers",
                marker={
                    "symbol": [
                        "x-thin-open" if decision == "stop" else symbol(label)
                        for decision in rows["decision"]
                    ],
                    "size": 6,
                    "color": colour[label],
                    "line": {"width": 1.5, "color": colour[label]},
                },
                customdata=[f"{text(row['trial_id'])}<br>{text(row['reason'] or '')}" for row in told],
                hovertemplate="%{customdata}<extra></extra>",
                legendgroup=label,
                showlegend=False,
                meta=drawn_of(len(rows), num_rows),
            )
        )
        middles = [rungs.index(int(rung)) + shift for rung in last["rung"]]
        ends = [end for middle in middles for end in (middle - half, middle + half, None)]
        heights = [end for cutoff in last["cutoff"] for end in (cutoff, cutoff, None)]
        traces.append(silent_line(label, ends, heights, {"color": colour[label], "width": 2.5}))
    side = "below" if metric.mode == "max" else "above"
    return Picture(
        slug("rungs", workload),
        f"{workload}: {metric.label} on arrival at a rung; crosses were stopped, bars are the last cutoff. The "
        f"cutoff moves as trials arrive, and the job may protect some, so dots can lie {side} it.",
        new_figure(
            traces,
            title=f"{workload}: rungs",
            x={
                "title": "epochs trained",
                "tickvals": list(range(len(rungs))),
                "ticktext": list(map(str, rungs)),
                "range": [-0.6, len(rungs) - 0.4],
            },
            y=value_axis(metric, own["value"]),
        ),
    )


def _rungs_table(report: Report, judged: pd.DataFrame) -> Table:
    by_rung = judged.assign(is_stopped=judged["decision"] == "stop").groupby(["workload", "label", "rung"])
    rungs = by_rung.agg(
        arrived=("is_stopped", "size"),
        stopped=("is_stopped", "sum"),
        stopped_fraction=("is_stopped", "mean"),
        last_cutoff=("cutoff", "last"),
    )
    rows = records(rungs.reset_index())
    rows.sort(
        key=lambda row: (
            report.workloads.index(row["workload"]),
            report.labels.index(row["label"]),
            row["rung"],
        )
    )
    columns = [
        Column("architecture", lambda row: row["workload"], False),
        Column("method", lambda row: row["label"], False),
        Column("rung", lambda row: count(row["rung"])),
        Column("arrived", lambda row: count(row["arrived"])),
        Column("stopped", lambda row: count(row["stopped"])),
        Column("stopped fraction", lambda row: share(row["stopped_fraction"])),
        Column("last cutoff", lambda row: measured(row["last_cutoff"], report.metric(row["workload"]))),
    ]
    return Table("rungs", "How many trials arrived at each rung and were stopped there.", columns, rows)
