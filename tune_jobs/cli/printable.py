"""Makes text from elsewhere safe to print: a terminal shows it and does nothing else."""

import re
from collections.abc import Callable

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


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
