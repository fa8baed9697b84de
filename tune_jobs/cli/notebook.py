"""Lines in the output of a notebook's cell that are drawn again and again."""

from collections.abc import Callable
from threading import Event, Thread
from typing import Any

from rich.console import RenderableType
from rich.panel import Panel

_EVERY_S = 1.0


class NotebookLines:
    """What `LiveLines` is on a terminal; needs no widgets.

    Args:
        render: Called once a second for what to draw.
    """

    def __init__(self, render: Callable[[], RenderableType]) -> None:
        self._render = render
        self._is_over = Event()
        self._thread = Thread(target=self._keep_drawing, daemon=True)

    def start(self) -> None:
        """Draws below the cell, and goes on in a thread."""
        from IPython.display import display

        show: Any = display
        self._handle = show(self._drawn(), display_id=True)
        self._thread.start()

    def stop(self) -> None:
        """Draws a last time; the lines stay."""
        self._is_over.set()
        self._thread.join()
        self._handle.update(self._drawn())

    def _keep_drawing(self) -> None:
        while not self._is_over.wait(_EVERY_S):
            self._handle.update(self._drawn())

    def _drawn(self) -> Panel:
        return Panel.fit(self._render())  # notebooks show panels, but not groups
