"""Prints to a terminal or a pipe, and makes text from elsewhere safe to print."""

import re
import sys
from collections.abc import Callable
from functools import partial

import typer
from rich.console import Console

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_print = partial(typer.echo, nl=False)


def console() -> Console:
    """Returns the console to print to; in a pipe, lines are not wrapped and nothing is redrawn."""
    if sys.stdout.isatty():
        return Console(highlight=False, emoji=False)
    # CI systems force colours in a pipe, which rich would take for a terminal.
    return Console(highlight=False, emoji=False, width=1000, force_interactive=False)


class Printable:
    """Prints a stream of text line by line, each line made safe by `printable`."""

    def __init__(self, write: Callable[[str], None] = _print) -> None:
        self._write = write
        self._line = ""

    def __call__(self, text: str) -> None:
        """Adds text to the stream; a line may arrive in several pieces."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._write(printable(line) + "\n")

    def close(self) -> None:
        """Prints a last line that has no newline."""
        if self._line:
            self._write(printable(self._line) + "\n")
            self._line = ""


def printable(line: str) -> str:
    """Returns a line without colours, and with all other control characters as escapes such as `\\x07`."""
    plain = _COLOURS.sub("", line).rstrip("\r")
    return "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in plain)
