"""Draws the picture of the README from a finished search: `python docs/images/make.py results/digits`.

Each dot is a completed trial, the diamond the best one of its method. Needs Kaleido and a Chrome or Chromium.
"""

import sys
from pathlib import Path

import plotly.graph_objects as go
from kaleido import PageGenerator, write_fig_from_object_sync
from plotly.subplots import make_subplots

from tune_jobs.report.figures import colours, theme
from tune_jobs.results.read import read_results


def draw(folder: Path, *, dark: bool) -> go.Figure:
    """Returns validation accuracy by method, one panel for each architecture."""
    trials = read_results(folder).trials
    trials = trials[trials["status"] == "completed"]
    architectures = trials["architecture"].unique()
    methods = trials["method"].unique()[::-1]  # the first method is drawn on top
    colour = colours(methods)
    figure = make_subplots(1, len(architectures), subplot_titles=architectures, horizontal_spacing=0.17)
    for column, architecture in enumerate(architectures, 1):
        for method in methods:
            of_study = trials[(trials["architecture"] == architecture) & (trials["method"] == method)]
            accuracy = of_study["val_accuracy"].sort_values()
            symbols = ["circle"] * (len(accuracy) - 1) + ["diamond"]
            sizes = [8] * (len(accuracy) - 1) + [13]
            marker = {
                "color": colour[method],
                "symbol": symbols,
                "size": sizes,
                "opacity": 0.8,
                "line": {"width": 0},
            }
            label = f"{method} (n = {len(accuracy)})"
            figure.add_scatter(
                x=accuracy, y=[label] * len(accuracy), mode="markers", marker=marker, row=1, col=column
            )
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title="validation accuracy", tickformat=".3~f", nticks=6)
    figure.update_layout(
        template=theme(dark=dark),
        title={
            "text": "digits: every completed trial (dots) and the best (diamond)",
            "font": {"size": 14},
            "x": 0.01,
            "y": 0.95,
        },
        margin={"l": 8, "r": 12, "t": 62, "b": 8},
        showlegend=False,
        font={"family": "sans-serif"},
    )
    return figure


def main(folder: Path) -> None:
    """Writes `search-light.svg` and `search-dark.svg` beside this file."""
    for name, dark in (("light", False), ("dark", True)):
        drawn = draw(folder, dark=dark).to_plotly_json()
        job = {
            "fig": drawn,
            "path": str(Path(__file__).with_name(f"search-{name}.svg")),
            "opts": {"format": "svg", "width": 760, "height": 260},
        }
        # Kaleido's own page would fetch MathJax from the network.
        write_fig_from_object_sync([job], kopts={"page_generator": PageGenerator(mathjax=False)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
