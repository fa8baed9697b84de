"""How the searches went: what was proposed in which order, and what ASHA continued at each rung."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.report.curves import describe_trial
from tune_jobs.report.data import Report, records
from tune_jobs.report.figures import SYMBOLS, Picture, colours, key, new_figure, slug, text
from tune_jobs.report.page import Part, Section
from tune_jobs.results.tables import Column, Table, count, fixed, plain, share


def search_section(report: Report) -> Section:
    """Returns the history of the searches and the rungs of ASHA."""
    judged = report.epochs[report.epochs["rung"].notna()]
    parts: list[Part] = [[_history(report, workload) for workload in report.workloads]]
    if len(judged):
        parts.append([_rungs(report, judged, workload) for workload in dict.fromkeys(judged["workload"])])
        parts.append(_rungs_table(report, judged))
    else:
        parts.append(
            "No trial has been judged at a rung: early stopping is off, or no trial has reached one yet."
        )
    return Section("search", "Search history and rungs", parts)


def numbered(trials: pd.DataFrame) -> pd.Series:
    """Returns each trial's number within its study; by row where an older file does not have it."""
    return trials["number"].fillna(trials.groupby("label").cumcount()).astype("int64")


def _history(report: Report, workload: str) -> Picture:
    colour, traces = colours(report.labels), []
    trials = report.of(report.trials, workload)
    trials = trials.assign(order=numbered(trials)).dropna(subset=["val_accuracy"]).sort_values("order")
    for label in report.labels_on(workload):
        own = trials[trials["label"] == label]
        completed = own[own["status"] == "completed"]
        traces.append(key(label, colour[label]))
        group = {"legendgroup": label, "showlegend": False}
        traces.append(
            go.Scatter(
                x=own["order"].tolist(),
                y=own["val_accuracy"].tolist(),
                mode="markers",
                marker={
                    "symbol": [SYMBOLS.get(status, "circle-open") for status in own["status"]],
                    "size": 7,
                    "color": colour[label],
                    "line": {"width": 1.5, "color": colour[label]},
                },
                customdata=[describe_trial(row) for row in records(own)],
                hovertemplate="%{customdata}<br>validation accuracy %{y:.4f}<extra></extra>",
                **group,
            )
        )
        traces.append(
            go.Scatter(
                x=completed["order"].tolist(),
                y=completed["val_accuracy"].cummax().tolist(),
                mode="lines",
                line={"color": colour[label], "width": 1.5, "shape": "hv"},
                hoverinfo="skip",
                **group,
            )
        )
    return Picture(
        slug("history", workload),
        f"{workload}: last validation accuracy of {len(trials)} trials in the order proposed; lines are the best "
        "completed so far. A flat line means that more trials would hardly help.",
        new_figure(
            traces,
            title=f"{workload}: history",
            x={"title": "number of the trial in its study", "rangemode": "tozero"},
            y={"title": "validation accuracy"},
        ),
    )


def _rungs(report: Report, judged: pd.DataFrame, workload: str) -> Picture:
    colour, traces = colours(report.labels), []
    own = report.of(judged, workload)
    rungs = sorted({int(rung) for rung in own["rung"]})
    labels = report.labels_on(workload)
    for offset, label in enumerate(labels):
        rows = own[(own["label"] == label) & own["val_accuracy"].notna()]
        shift = (offset - (len(labels) - 1) / 2) * 0.7 / max(len(labels), 1)
        half = 0.3 / max(len(labels), 1)
        x = [
            rungs.index(int(rung))
            + shift
            + half * (number * 0.618 % 1 - 0.5)  # golden ratio: apart, and the same each time
            for number, rung in enumerate(rows["rung"])
        ]
        traces.append(key(label, colour[label]))
        group = {"legendgroup": label, "showlegend": False}
        traces.append(
            go.Scatter(
                x=x,
                y=rows["val_accuracy"].tolist(),
                mode="markers",
                marker={
                    "symbol": [
                        "x-thin-open" if decision == "stop" else "circle" for decision in rows["decision"]
                    ],
                    "size": 6,
                    "color": colour[label],
                    "line": {"width": 1.5, "color": colour[label]},
                },
                customdata=[
                    f"{text(str(trial))}<br>{text(str(plain(reason) or ''))}"
                    for trial, reason in zip(rows["trial_id"], rows["reason"], strict=True)
                ],
                hovertemplate="%{customdata}<extra></extra>",
                **group,
            )
        )
        last = rows.dropna(subset=["cutoff"]).drop_duplicates("rung", keep="last")
        middles = [rungs.index(int(rung)) + shift for rung in last["rung"]]
        traces.append(
            go.Scatter(
                x=[end for middle in middles for end in (middle - half, middle + half, None)],
                y=[end for cutoff in last["cutoff"] for end in (cutoff, cutoff, None)],
                mode="lines",
                line={"color": colour[label], "width": 2.5},
                hoverinfo="skip",
                **group,
            )
        )
    return Picture(
        slug("rungs", workload),
        f"{workload}: validation accuracy on arrival at a rung; crosses were stopped, bars are the last cutoff. The "
        "cutoff moves as trials arrive, and the job may protect some, so dots can lie below it.",
        new_figure(
            traces,
            title=f"{workload}: rungs",
            x={
                "title": "epochs trained",
                "tickvals": list(range(len(rungs))),
                "ticktext": list(map(str, rungs)),
                "range": [-0.6, len(rungs) - 0.4],
            },
            y={"title": "validation accuracy"},
        ),
    )


def _rungs_table(report: Report, judged: pd.DataFrame) -> Table:
    rows: list[dict[str, Any]] = []
    for (workload, label, rung), members in judged.astype({"rung": int}).groupby(
        ["workload", "label", "rung"], sort=False
    ):
        stopped = int((members["decision"] == "stop").sum())
        cutoffs = members["cutoff"].dropna()
        rows.append(
            {
                "workload": workload,
                "label": label,
                "rung": rung,
                "arrived": len(members),
                "stopped": stopped,
                "stopped_fraction": stopped / len(members),
                "last_cutoff": float(cutoffs.iloc[-1]) if len(cutoffs) else None,
            }
        )
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
        Column("epochs", lambda row: count(row["rung"])),
        Column("arrived", lambda row: count(row["arrived"])),
        Column("stopped", lambda row: count(row["stopped"])),
        Column("share", lambda row: share(row["stopped_fraction"])),
        Column("last cutoff", lambda row: fixed(row["last_cutoff"])),
    ]
    return Table("rungs", "How many trials arrived at each rung and were stopped there.", columns, rows)
