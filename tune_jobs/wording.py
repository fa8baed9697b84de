"""Words that many messages share: numbers with their nouns, errors in a line, and text that is safe to print."""

import math
import os
import re
import shlex
import unicodedata

CLUSTER_ADDRESS = "TUNE_JOBS_ADDRESS"
"""The variable that tells a submitted search the address by which whoever reads its log reaches the cluster."""

CLUSTER_ID = "TUNE_JOBS_ID"
"""The variable with the search's id there."""

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


def clock(seconds: float) -> str:
    """Returns `7s`, `2m06s` or `1h05m`, for times that change while they are shown."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def duration(seconds: float) -> str:
    """Returns `40 seconds`, `6 minutes`, `2.5 hours` or `3 days`: no more digits than an estimate has."""
    number, unit = _in_units(seconds)
    return counted(number, unit)


def duration_band(low_s: float, high_s: float) -> str:
    """Returns `6 to 9 minutes` or `50 minutes to 2 hours`; `6 minutes` if both ends read alike."""
    (low, low_unit), (high, high_unit) = _in_units(low_s), _in_units(high_s)
    if (low, low_unit) == (high, high_unit):
        return counted(low, low_unit)
    if low_unit == high_unit:
        return f"{low:g} to {counted(high, high_unit)}"
    return f"{counted(low, low_unit)} to {counted(high, high_unit)}"


def _in_units(seconds: float) -> tuple[float, str]:
    """Returns a number and its unit; below ten of them, halves matter to who waits, except of seconds."""
    if seconds < 90:
        return (max(1, round(seconds)) if seconds < 10 else 5 * round(seconds / 5)), "second"
    unit_s, unit = next(
        (unit_s, unit)
        for unit_s, most, unit in ((60, 90, "minute"), (3600, 48, "hour"), (86400, math.inf, "day"))
        if seconds < most * unit_s
    )
    number = seconds / unit_s
    return (round(2 * number) / 2 if number < 10 else round(number)), unit


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


def command_for(verb: str, folder: str, options: str = "") -> str:
    """Returns the command for `resume`, `confirm` or `report` of a search, for whoever reads it.

    What a submitted search prints is read on the machine that submitted it.
    """
    address = os.environ.get(CLUSTER_ADDRESS)
    if address is None:
        return f"tune-jobs {verb} {shlex.quote(folder)}{options}"
    if verb == "report":
        return f"tune-jobs fetch {os.environ.get(CLUSTER_ID, 'ID')} --address {shlex.quote(address)}"
    return submit_command(verb, folder, address, options)


def submit_command(verb: str, folder: str, address: str, options: str = "") -> str:
    """Returns the command that resumes or confirms a search on a cluster."""
    return f"tune-jobs submit --{verb} {shlex.quote(folder)}{options} --address {shlex.quote(address)}"
