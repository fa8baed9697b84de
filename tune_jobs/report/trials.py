"""How a figure shows trials: a symbol for how each ended, and its settings on hover; of very many, a part."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.report.figures import Picture, symbol, text
from tune_jobs.results.compare import metric_of_row
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.tables import records, setting

_MOST_POINTS = 2_000  # of a trace, which a browser draws at once
_TOLD = ("trial_id", "status", "epochs_trained", "max_epochs", "stop_reason", "metric", "mode", "value")
_SYMBOLS = {
    "pruned": "x-thin-open",
    "diverged": "triangle-up-open",
    "failed": "square-x-open",
    "interrupted": "diamond-open",
    "running": "circle-open",
}


def trial_points(
    trials: pd.DataFrame,
    x: str,
    y: str,
    *,
    label: str,
    colour: str,
    size: int = 7,
    opacity: float = 1.0,
) -> go.Scatter:
    """Returns one point for each trial of the method `label`, at the values of two columns.

    Of more trials than a browser draws at once it takes every second or so, evenly.
    """
    num_trials, trials = len(trials), drawn(trials)
    return go.Scatter(
        x=shown_values(trials[x]),
        y=trials[y].tolist(),
        mode="markers",
        legendgroup=label,
        showlegend=False,
        marker={
            "symbol": [_symbol(status, label) for status in trials["status"]],
            "size": size,
            "color": colour,
            "opacity": opacity,
            "line": {"width": 1.5, "color": colour},
        },
        customdata=[_describe(row) for row in records(trials[_told(trials)])],
        hovertemplate="%{customdata}<extra></extra>",
        meta=drawn_of(len(trials), num_trials),
    )


def drawn(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of which points are drawn: all, or every n-th of very many."""
    return rows.iloc[:: max(1, math.ceil(len(rows) / _MOST_POINTS))]


def drawn_of(num_drawn: int, num_rows: int) -> list[int] | None:
    """Returns what a trace carries for `tell_what_is_drawn`: nothing, if all is drawn."""
    return [num_drawn, num_rows] if num_drawn < num_rows else None


def tell_what_is_drawn(pictures: Sequence[Picture]) -> None:
    """Adds to the captions of pictures how many of their points are drawn, if those are not all."""
    for picture in pictures:
        parts = [trace.meta for trace in picture.figure.data if trace.meta is not None]
        if parts:
            shown, total = (sum(part[number] for part in parts) for number in (0, 1))
            picture.caption += f" Of {total:,} points, {shown:,} are drawn, evenly."


def _symbol(status: str, label: str) -> str:
    return symbol(label) if status == "completed" else _SYMBOLS.get(status, "circle-open")


def is_names(values: pd.Series) -> bool:
    """Returns whether a parameter's values are names, or some of them."""
    return bool(values.map(lambda value: isinstance(value, str)).any())


def shown_values(values: pd.Series) -> list[Any]:
    """Returns values for an axis: names as text without markup."""
    return [text(str(value)) for value in values] if is_names(values) else values.tolist()


def _told(trials: pd.DataFrame) -> list[str]:
    """Returns the columns that `_describe` reads: of all of them, rows would take long to make."""
    return [name for name in map(str, trials) if name in _TOLD or name.startswith(PARAM_PREFIX)]


def _describe(row: dict[str, Any]) -> str:
    metric = metric_of_row(row)
    params = [
        f"{name.removeprefix(PARAM_PREFIX)} {setting(value)}"
        for name, value in row.items()
        if name.startswith(PARAM_PREFIX) and value is not None
    ]
    epochs = f"{row['epochs_trained'] or 0}/{row['max_epochs'] or '?'} epochs"
    lines = [row["trial_id"], ", ".join(params), f"{row['status']}, {epochs}", row["stop_reason"] or ""]
    shown = [text(line[:160]) for line in lines if line]
    return "<br>".join([*shown, text(f"{metric.label} {metric.text(row['value'])}")])
