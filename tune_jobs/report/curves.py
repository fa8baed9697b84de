"""Accuracy during training: against gradient evaluations, and the learning curve of every trial."""

import math

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.report.data import Report
from tune_jobs.report.figures import Picture, colours, key, new_figure, silent_line, slug, text
from tune_jobs.report.page import Section
from tune_jobs.report.trials import trial_points

_MAX_POINTS = 12_000
"""Points in a picture's curves: a browser draws each method as one SVG path, and more make it slow."""


def budget_section(report: Report) -> Section:
    """Returns validation accuracy against gradient evaluations, within a training run and over a search."""
    words = (
        "A gradient evaluation is one forward and backward pass over a batch. A step of a sharpness-aware method "
        "takes two, so at equal epochs it has spent twice as much as the base optimizer."
    )
    winners = [_winners(report, workload) for workload in report.workloads]
    searches = [_anytime(report, workload) for workload in report.workloads]
    return Section("budget", "Accuracy against gradient evaluations", [words, winners, searches])


def curves_section(report: Report) -> Section:
    """Returns every trial's learning curve."""
    words = (
        "One line per trial; the symbol at its end shows how it ended. Click a method in a legend to hide or show "
        "it; double-click to show it alone."
    )
    return Section(
        "curves", "Learning curves", [words, [_curves(report, workload) for workload in report.workloads]]
    )


def _spent(report: Report, workload: str) -> pd.DataFrame:
    """Returns a workload's reports with `cost`, the gradient evaluations per epoch, which all epochs share."""
    epochs = report.of(report.epochs, workload)
    trials = report.of(report.trials, workload).set_index("uid")
    per_epoch = trials["gradient_evaluations"].astype("float64") / trials["epochs_trained"].astype("float64")
    return epochs.assign(cost=epochs["uid"].map(per_epoch)).dropna(subset=["cost", "val_accuracy"])


def _winners(report: Report, workload: str) -> Picture:
    colour, traces = colours(report.labels), []
    epochs, studies = _spent(report, workload), report.of(report.studies, workload)
    for label in report.labels_on(workload):
        winner = studies.loc[studies["label"] == label, "best_trial_id"].iloc[0]
        own = epochs[(epochs["label"] == label) & (epochs["trial_id"] == winner)].sort_values("epoch")
        traces.append(
            _line(label, colour[label], (own["epoch"] * own["cost"]).tolist(), own["val_accuracy"].tolist())
        )
    return Picture(
        slug("winners", workload),
        f"{workload}: each method's best completed trial (n = 1 each): how accurate it was at equal cost, not at equal "
        "epochs.",
        new_figure(
            traces,
            title=f"{workload}: training the best trial",
            x={"title": "gradient evaluations of the trial", "rangemode": "tozero"},
            y={"title": "validation accuracy"},
        ),
    )


def _anytime(report: Report, workload: str) -> Picture:
    colour, traces, sizes = colours(report.labels), [], []
    epochs = _spent(report, workload)
    early, top = 1.0, 0.0
    for label in report.labels_on(workload):
        own = epochs[epochs["label"] == label]
        sizes.append(f"{label} {own['uid'].nunique()}")
        spent, best = own["cost"].cumsum(), own["val_accuracy"].cummax()
        if len(own):
            early, top = min(early, best.iloc[len(own) // 10]), max(top, best.iloc[-1])
        rises = best.ne(best.shift()) | (spent == spent.max())
        traces.append(
            _line(label, colour[label], spent[rises].tolist(), best[rises].tolist(), shape="hv", mode="lines")
        )
    pad = 0.05 * max(top - early, 0.01)  # above and below what the search still gained after its first tenth
    return Picture(
        slug("anytime", workload),
        f"{workload}: the best validation accuracy of any epoch so far against all that the study spent, in the order "
        f"of the reports; trials: {', '.join(sizes)}. The first tenth of each study may lie below the picture.",
        new_figure(
            traces,
            title=f"{workload}: the whole search",
            x={"title": "gradient evaluations of the study", "rangemode": "tozero"},
            y={"title": "best validation accuracy so far"}
            | ({"range": [early - pad, top + pad]} if top else {}),
        ),
    )


def _line(
    label: str,
    colour: str,
    x: list[float],
    y: list[float],
    *,
    shape: str = "linear",
    mode: str = "lines+markers",
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        name=text(label),
        mode=mode,
        line={"color": colour, "width": 2, "shape": shape},
        marker={"size": 5},
        hovertemplate="%{x:,.0f} gradient evaluations<br>validation accuracy %{y:.4f}",
    )


def _curves(report: Report, workload: str) -> Picture:
    colour = colours(report.labels)
    traces = []
    epochs = report.of(report.epochs, workload).dropna(subset=["val_accuracy"])
    trials = report.of(report.trials, workload)
    last = epochs.drop_duplicates("uid", keep="last").set_index("uid")["val_accuracy"]
    ended = trials.assign(val_accuracy=trials["uid"].map(last)).dropna(subset=["val_accuracy"])
    shown, step = _thinned(epochs)
    for label in report.labels_on(workload):
        own = shown[shown["label"] == label]
        x: list[float | None] = []
        y: list[float | None] = []
        for _, curve in own.groupby("uid", sort=False):
            x += [*curve["epoch"].tolist(), None]
            y += [*curve["val_accuracy"].tolist(), None]
        traces.append(key(label, colour[label]))
        traces.append(silent_line(label, x, y, {"color": colour[label], "width": 1}, opacity=0.5))
        ends = ended[ended["label"] == label]
        traces.append(trial_points(ends, "epochs_trained", "val_accuracy", label=label, colour=colour[label]))
    counts = trials["status"].value_counts()
    by_status = ", ".join(f"{number} {status}" for status, number in counts.items())
    thinned = "" if step == 1 else f" Every {step}th epoch is drawn, and all rungs and ends."
    return Picture(
        slug("curves", workload),
        f"{workload}: {len(trials)} trials, {by_status}. Circles reached full fidelity, crosses were stopped by ASHA, "
        f"triangles diverged, open circles still run.{thinned}",
        new_figure(
            traces,
            title=workload,
            x={"title": "epoch", "rangemode": "tozero"},
            y={"title": "validation accuracy"},
            height=380,
        ),
    )


def _thinned(epochs: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Returns the reports to draw, and the number of epochs between them."""
    step = max(1, math.ceil(len(epochs) / _MAX_POINTS))
    last = epochs["epoch"] == epochs.groupby("uid")["epoch"].transform("max")
    kept = ((epochs["epoch"] - 1) % step == 0) | epochs["rung"].notna() | last
    return epochs[kept], step
