"""Static images of the report's figures, for papers: SVG, drawn by Kaleido with an installed Chrome or Chromium."""

from collections.abc import Sequence
from pathlib import Path

from tune_jobs.report.figures import Picture, theme

_WIDTH = 720  # pixels; a figure has its own height


def write_images(pictures: Sequence[Picture], folder: Path) -> str | None:
    """Writes each picture as an SVG file.

    Returns:
        None if all were written, otherwise the reason.
    """
    try:
        from choreographer import errors
        from kaleido import PageGenerator, write_fig_from_object_sync
    except ModuleNotFoundError:
        return "No SVG files: they need `pip install zsharp-tune[images]` and a Chrome or Chromium."
    light = theme(dark=False)
    light["layout"] |= {"paper_bgcolor": "white", "plot_bgcolor": "white"}
    jobs = []
    for picture in pictures:
        drawn = picture.figure.to_plotly_json()
        jobs.append(
            {
                "fig": {"data": drawn["data"], "layout": {**drawn["layout"], "template": light}},
                "path": str(folder / f"{picture.name}.svg"),
                "opts": {"format": "svg", "width": _WIDTH, "height": picture.figure.layout.height},
            }
        )
    try:
        # Kaleido's page would fetch MathJax from the network, which no figure of ours needs.
        write_fig_from_object_sync(
            jobs, kopts={"page_generator": PageGenerator(mathjax=False), "timeout": 30}
        )
    except (errors.ChromeNotFoundError, errors.BrowserFailedError, errors.BrowserDepsError) as problem:
        reason = str(problem).partition("\n")[0] or type(problem).__name__
        return f"No SVG files: no Chrome or Chromium could be started ({reason})."
    return None
