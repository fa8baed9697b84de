"""Words that many messages share: numbers with their nouns, errors in a line, and text that is safe to print."""

import re
import unicodedata

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def counted(number: float, noun: str, nouns: str | None = None) -> str:
    """Returns `1 trial`, `2 trials`, `1,000 trials` or `0.5 GPUs`.

    Give the plural if it is not the singular with an s.
    """
    digits = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{digits} {noun if number == 1 else nouns or noun + 's'}"


def short_value(value: bool | int | float | str) -> str:
    """Returns a setting's value: names and whole numbers as they are, other numbers with three significant digits."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.3g}"


def last_line(text: str) -> str:
    """Returns the last line of an error's text that is not empty, without colours and control characters."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return "".join(char for char in lines[-1] if char.isprintable()) if lines else ""


def printable(line: str) -> str:
    """Returns a line without colours, and with all other control characters as escapes such as `\\x07`.

    The characters that change the direction of text count as control characters, and so do halves of surrogate pairs.
    """
    if line.isprintable():
        return line
    plain = _COLOURS.sub("", line).rstrip("\r")
    return "".join(char if _is_harmless(char) else repr(char)[1:-1] for char in plain)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or char == "\t" or unicodedata.category(char) == "Zs"  # all kinds of spaces
