"""Configurations that a search trained with several seeds each: compared seed by seed, and drawn over what differs."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.report.contests import Contest
from tune_jobs.report.data import Report
from tune_jobs.report.figures import Picture, colours, new_figure, slug, text
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.statistics import compare_methods, summarize
from tune_jobs.results.tables import short

_MOST_COMPARED = 12  # settings of a place, beyond which pairs of them say nothing


def repeats(report: Report) -> list[Contest]:
    """Returns how configurations compare on validation data, for places of searches with `search.seeds` above 1.

    A setting is a method, with the values of its parameters where it was tried with several.
    """
    repeated = {
        str(folder)
        for folder, metadata in zip(report.folders, report.metadata, strict=True)
        if int(((metadata["job"] or {}).get("search") or {}).get("seeds") or 1) > 1
    }
    rows = report.trials
    rows = rows[
        rows["folder"].isin(repeated) & (rows["status"] == "completed") & rows["val_accuracy"].notna()
    ]
    found = []
    for place, members in rows.groupby("place", sort=False):
        values = {
            name: {
                int(seed): float(value) for seed, value in zip(of["seed"], of["val_accuracy"], strict=True)
            }
            for name, of in members.groupby(_settings(members, report.params), sort=False)
        }
        summaries = {name: summarize(list(of.values())) for name, of in values.items()}
        ordered = dict(sorted(summaries.items(), key=lambda item: -item[1].mean))
        comparisons = compare_methods(values) if len(values) <= _MOST_COMPARED else []
        found.append(
            Contest(str(place), "epochs", values, ordered, comparisons, measure="validation accuracy")
        )
    return found


def trend_pictures(report: Report, contest: Contest) -> list[Picture]:
    """Returns mean and interval over the one number that a method's settings differ in, for each such method."""
    pictures = []
    rows = report.of(report.trials, contest.place)
    rows = rows[(rows["status"] == "completed") & rows["val_accuracy"].notna()]
    for label, members in rows.groupby("label", sort=False):
        varied = [name for name in report.params if members[PARAM_PREFIX + name].nunique() > 1]
        if len(varied) == 1:
            pictures.append(_trend(contest, str(label), members, varied[0], colours(report.labels)))
    return pictures


def _trend(
    contest: Contest, label: str, members: pd.DataFrame, name: str, colour: Mapping[str, str]
) -> Picture:
    rows: list[dict[str, Any]] = []
    for _, of in members.groupby(PARAM_PREFIX + name):
        value = float(of[PARAM_PREFIX + name].iloc[0])
        rows.append({"value": value, **vars(summarize(of["val_accuracy"].tolist()))})
    traces = [
        go.Scatter(
            x=members[PARAM_PREFIX + name].tolist(),
            y=members["val_accuracy"].tolist(),
            mode="markers",
            marker={"symbol": "line-ew-open", "size": 9, "color": colour[label], "opacity": 0.6},
            customdata=members["seed"].tolist(),
            hovertemplate=f"{text(name)} %{{x}}, seed %{{customdata}}<br>%{{y:.4f}}<extra></extra>",
        ),
        go.Scatter(
            x=[row["value"] for row in rows],
            y=[row["mean"] for row in rows],
            mode="lines+markers",
            marker={"size": 9, "color": colour[label]},
            line={"color": colour[label], "width": 1},
            error_y={
                "type": "data",
                "symmetric": False,
                "thickness": 2,
                "width": 6,
                "array": [0.0 if row["high"] is None else row["high"] - row["mean"] for row in rows],
                "arrayminus": [0.0 if row["low"] is None else row["mean"] - row["low"] for row in rows],
            },
            customdata=[row["n"] for row in rows],
            hovertemplate=f"{text(name)} %{{x}}<br>mean %{{y:.4f}}, n = %{{customdata}} seeds<extra></extra>",
        ),
    ]
    sizes = ", ".join(str(row["n"]) for row in rows)
    return Picture(
        slug("trend", name, label, contest.place),
        f"{contest.place}, {label}: {contest.measure} over {name}, each seed (dashes), mean and 95 % interval; "
        f"n = {sizes} seeds from the left.",
        new_figure(
            traces,
            title=f"{contest.place}: {label}",
            x={"title": text(name)},
            y={"title": contest.measure},
            showlegend=False,
        ),
    )


def _settings(members: pd.DataFrame, params: list[str]) -> pd.Series:
    """Returns what each trial is called: its method, with the parameters that the method was tried with several of."""
    names = members["label"].copy()
    for _, own in members.groupby("label", sort=False):
        varied = [name for name in params if own[PARAM_PREFIX + name].nunique() > 1]
        for name in varied:
            names.loc[own.index] += f" {name} " + own[PARAM_PREFIX + name].map(short)
    return names
