"""What is wrong with a job: each problem with its place, what was given there and what is valid."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from zsharp.names import did_you_mean

_LONGEST_SHOWN = 80


class _Nothing(Enum):
    NOTHING = "nothing"


NOTHING: Final = _Nothing.NOTHING
"""The value of a problem that is about something missing or misspelt, not about a value."""


@dataclass(frozen=True)
class Problem:
    """One thing to put right. Its text is one line, with nothing that upsets a terminal.

    Attributes:
        path: Where, as in `space.q_p.uniform[1]`.
        value: What was given there, or `NOTHING`.
        message: What is wrong with it, and what is valid.
    """

    path: str
    value: object
    message: str

    def __str__(self) -> str:
        given = "" if self.value is NOTHING else f" {show(self.value)} is not valid:"
        line = f"{self.path}:{given} {self.message}"
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


class JobError(ValueError):
    """A job that cannot run as it is. Its text has one line a problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "an error without a problem"
        super().__init__(problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def show(value: object) -> str:
    """Returns a value about as users write it, on one line and shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def show_path(keys: Iterable[str | int]) -> str:
    """Returns `space.q_p.uniform[1]` for `("space", "q_p", "uniform", 1)`."""
    path = ""
    for key in keys:
        if isinstance(key, str) and re.fullmatch(r"\w{1,60}", key, re.ASCII):
            path += f".{key}" if path else key
        else:
            path += f"[{show(key)}]"
    return path


def unknown(kind: str, name: str, valid: Iterable[str]) -> str:
    """Returns a message that names the unknown name, the nearest valid one, and all of them."""
    names = list(valid)
    return f"unknown {kind} {show(name)}; {did_you_mean(name, names)}valid: {', '.join(names) or 'none'}"
