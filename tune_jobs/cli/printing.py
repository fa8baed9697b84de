"""How the command line prints: on a terminal or into a pipe, and text from elsewhere."""

import re
import sys
from collections.abc import Callable

from rich.console import Console

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def console() -> Console:
    """Returns where to print; in a pipe, lines are as long as they need to be and nothing is redrawn."""
    if sys.stdout.isatty():
        return Console(highlight=False, emoji=False)
    # Colours may be forced in a pipe, as CI does; that does not make it a terminal.
    return Console(highlight=False, emoji=False, width=1000, force_interactive=False)


class Printable:
    """Prints a stream of text in whole lines, each made safe by `printable`.

    Args:
        write: Receives each line with its newline.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._line = ""

    def __call__(self, text: str) -> None:
        """Takes text as it comes; a line may arrive in several pieces."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._write(printable(line) + "\n")

    def close(self) -> None:
        """Prints what is left of a last line without a newline."""
        if self._line:
            self._write(printable(self._line) + "\n")
            self._line = ""


def printable(line: str) -> str:
    """Returns a line without colours, and with every other control character written out."""
    plain = _COLOURS.sub("", line).rstrip("\r")
    return "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in plain)
