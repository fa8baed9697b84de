"""How the report's figures look: a colour for each method, light and dark, names that stay text."""

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.job.metric import Metric
from tune_jobs.results.method_names import BASE, is_control

# Okabe and Ito's palette, which colour-blind readers can tell apart; yellow and black would vanish on one of
# the two backgrounds and are an olive and a grey.
_OF_METHOD = {
    "base": "#7d8590",
    "sam": "#0b84c6",
    "asam": "#56b4e9",
    "friendly_sam": "#009e73",
    "zsharp": "#d55e00",
    "zsharp_official": "#e69f00",
    "magnitude_sam": "#cc79a7",
    "random_sam": "#a08a1c",
}
_OTHERS = ("#8a63d2", "#3aa99f", "#b5544d", "#5b7f2b", "#c47ad8", "#96703a")
_WIDE = 20  # largest value over smallest from which an axis is logarithmic
AT_EDGE = " They are drawn at its edge."
"""What captions add to the note of a cut axis where `at_edge` was used."""

_MAX_TICKS = 12
_FEWEST_TO_CUT = 4  # values that must remain in view
_MOST_KEPT = 0.6  # of the whole axis: where this much would remain, it is not worth cutting
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


@dataclass
class Picture:
    """A figure of the report."""

    name: str  # stem of its file and its anchor; lower-case letters, digits and hyphens
    caption: str  # what to read out of it, in a sentence
    figure: go.Figure


def colours(labels: Iterable[str]) -> dict[str, str]:
    """Returns one colour for each label; a label begins with its method's name and may say more."""
    colour_of: dict[str, str] = {}
    others = 0
    for label in labels:
        own = _OF_METHOD.get(label)
        colour_of[label] = own or _OTHERS[others % len(_OTHERS)]
        others += own is None
    return colour_of


def text(name: str) -> str:
    """Returns a name as text for Plotly, which takes tags for markup, `%{...}` for a variable, `$...$` for TeX."""
    return html.escape(name, quote=False).replace("%{", "%&#123;").replace("$", "&#36;")


def slug(*words: str) -> str:
    """Returns words as a file's stem."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")[:40] for word in words).strip("-")


def theme(*, dark: bool) -> dict[str, Any]:
    """Returns the layout template of a light or a dark page; the background is the page's own."""
    ink, faint = ("#d6dae0", "#3a4048") if dark else ("#24292f", "#d9dde2")
    axis = {
        "gridcolor": faint,
        "linecolor": faint,
        "zerolinecolor": faint,
        "tickcolor": faint,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 12}},
    }
    hover = {"bgcolor": "#22272e" if dark else "#ffffff", "font": {"color": ink, "family": _FONT}}
    return {
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": _FONT, "size": 12, "color": ink},
            "hoverlabel": hover,
            "xaxis": axis,
            "yaxis": axis,
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": faint},
        }
    }


def new_figure(
    traces: Sequence[Any],
    *,
    title: str,
    x: dict[str, Any],
    y: dict[str, Any],
    height: int = 340,
    **layout: Any,
) -> go.Figure:
    """Returns a figure in the report's layout, `height` pixels high and as wide as the page."""
    return go.Figure(
        traces,
        {
            "template": "none",
            "height": height,
            "margin": {"l": 8, "r": 12, "t": 40, "b": 8},
            "title": {
                "text": text(title),
                "x": 0,
                "xref": "paper",
                "y": 0.985,
                "yanchor": "top",
                "font": {"size": 14},
            },
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": -0.24,
                "yanchor": "top",
                "itemsizing": "constant",
                "traceorder": "normal",
            },
            "hovermode": "closest",
            "xaxis": {"automargin": True, **x},
            "yaxis": {"automargin": True, **y},
            **layout,
        },
    )


def value_axis(metric: Metric, values: Iterable[float], prefix: str = "") -> dict[str, Any]:
    """Returns the axis of a metric; logarithmic where values without an upper end differ by orders of magnitude."""
    axis = {"title": text(metric.sided(f"{prefix}{metric.label}"))}
    known = sorted(value for value in values if not math.isnan(value))
    is_wide = bool(known) and not metric.is_accuracy and 0 < _WIDE * known[0] < known[-1]
    return axis | ({"type": "log"} if is_wide else {})


def whole_axis(title: str, values: Iterable[float]) -> dict[str, Any]:
    """Returns an axis of whole numbers from 0: of epochs, or of trials."""
    is_short = max(values, default=0) <= _MAX_TICKS
    return {
        "title": title,
        "rangemode": "tozero",
        "tickformat": ",d",
        **({"dtick": 1} if is_short else {"tickmode": "auto", "nticks": _MAX_TICKS}),
    }


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Returns ticks of a logarithmic axis, each written in full; Plotly writes only `2` and `5` between decades."""
    decades = math.log10(high / low)
    steps = (1, 2, 5) if decades <= 1.5 else (1, 3) if decades <= 3 else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    shown = [tick for tick in ticks if 0.98 * low <= tick <= 1.02 * high]
    return {"tickvals": shown, "ticktext": [f"{tick:.3g}" for tick in shown]} if len(shown) > 1 else {}


def cut_axis(
    metric: Metric, values: Iterable[float], ends: Iterable[float], *, room: float = 0.15
) -> tuple[dict[str, Any], str]:
    """Returns the axis of a metric on which differences between good values show, and what to say if that cuts it.

    Args:
        metric: The metric.
        values: All values of the picture.
        ends: The values whose differences are to be seen, such as those of completed trials.
        room: How much of the worse side stays in view, as a multiple of the span of `ends`.
    """
    shown = sorted(value for value in values if not math.isnan(value))
    axis = value_axis(metric, shown)
    good = sorted(metric.sign * value for value in ends if not math.isnan(value))
    if len(good) < _FEWEST_TO_CUT or "type" in axis:
        return axis, ""
    lower, upper = good[len(good) // 4], good[(3 * len(good)) // 4]
    kept = [value for value in good if value >= lower - 1.5 * (upper - lower)]  # Tukey's fence
    span = kept[-1] - kept[0]
    bar = kept[0] - room * span
    worst = min(metric.sign * shown[0], metric.sign * shown[-1])
    if span <= 0 or (kept[-1] - bar) > _MOST_KEPT * (kept[-1] - worst):
        return axis, ""
    num_hidden = sum(metric.sign * value < bar for value in shown)
    low, high = sorted((metric.sign * bar, metric.sign * (kept[-1] + 0.08 * span)))
    worse = "below" if metric.mode == "max" else "above"
    note = (
        f" The axis is cut: {num_hidden} of {len(shown)} points lie {worse} {metric.text(metric.sign * bar)}."
    )
    return {**axis, "range": [low, high]}, note


def at_edge(axis: dict[str, Any], values: pd.Series) -> pd.Series:
    """Returns values for a cut axis: those outside are drawn at its edge, so that no point is lost."""
    if "range" not in axis:
        return values
    low, high = axis["range"]
    inset = 0.02 * (high - low)
    return values.clip(low + inset, high - inset)


def symbol(label: str) -> str:
    """Returns the marker of a method: controls are told apart by more than their colour."""
    return "square" if _is_control(label) else "circle"


def dash(label: str) -> str:
    """Returns the dash of a method's lines."""
    return "dot" if _is_control(label) else "dash" if label.split(" ")[0] == BASE else "solid"


def _is_control(label: str) -> bool:
    return is_control(label.split(" ")[0])


def number(metric: Metric) -> str:
    """Returns Plotly's format of a metric's values."""
    return ".4f" if metric.is_accuracy else ".4g"


def key(label: str, colour: str) -> go.Scatter:
    """Returns an entry of the legend for a method, which shows and hides all that is in its group."""
    marker = {"color": colour, "size": 9, "symbol": symbol(label)}
    return go.Scatter(x=[None], y=[None], name=text(label), legendgroup=label, mode="markers", marker=marker)


def silent_line(
    label: str,
    x: Sequence[float | None],
    y: Sequence[float | None],
    style: dict[str, Any],
    *,
    opacity: float = 1.0,
) -> go.Scatter:
    """Returns a line in a method's group without an entry in the legend and without text on hover."""
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        legendgroup=label,
        showlegend=False,
        hoverinfo="skip",
        opacity=opacity,
        line={"dash": dash(label), **style},
    )
