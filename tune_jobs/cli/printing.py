"""Prints to a terminal or a pipe, and makes text from elsewhere safe to print."""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import typer
from rich.console import Console
from rich.segment import Segment

from tune_jobs.wording import printable

_LONGEST_LINE = 2**20
_PIECE = 2**16
_print = partial(typer.echo, nl=False)


def console() -> Console:
    """Returns the console to print to; in a pipe, lines are not wrapped and nothing is redrawn."""
    if sys.stdout.isatty():
        return _Neutral(highlight=False, emoji=False)
    # CI systems force colours in a pipe, which rich would take for a terminal.
    return _Neutral(highlight=False, emoji=False, width=1000, force_interactive=False)


class _Neutral(Console):
    """A console that shows control characters in names and errors as escapes, since they may come from anybody."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Renders as rich does, and makes the text of each segment printable."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            if control is None and not text.isprintable():
                yield Segment("\n".join(map(printable, text.split("\n"))), style)
            else:
                yield segment


class Printable:
    """Prints a stream of text line by line, each line made safe by `printable`."""

    def __init__(self, write: Callable[[str], None] = _print) -> None:
        self._write = write
        self._line = ""

    def __call__(self, text: str) -> None:
        """Adds text to the stream; a line may arrive in several pieces."""
        # In pieces: all lines of a long log at once would take thirty times its size.
        for first in range(0, len(text), _PIECE):
            lines, newline, self._line = (self._line + text[first : first + _PIECE]).rpartition("\n")
            if newline:
                self._write("\n".join(map(printable, lines.split("\n"))) + "\n")
            if len(self._line) > _LONGEST_LINE:  # a line without an end would fill the memory
                self.close()

    def close(self) -> None:
        """Prints a last line that has no newline."""
        if self._line:
            self._write(printable(self._line) + "\n")
            self._line = ""
