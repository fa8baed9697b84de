"""Every error that `tune_jobs` raises on purpose, and the problems that an error about a job lists.

Each error carries the exit code that the command line ends with::

    TuneJobsError                   1
    |-- JobError (ValueError)       2   a job, or an option of a command, that is not valid
    |-- UsageError (ValueError)     2   a command whose arguments make no sense
    |-- LedgerError (ValueError)    2   a ledger that is not usable, or a call that would make it untrue
    |   `-- LedgerLostError (ValueError) 1   a ledger that vanished or was replaced while it was open
    |-- ResultsError (ValueError)   2   Parquet files that are missing, or that this version cannot read
    |-- StorageError (OSError)      1   an object store that does not answer, or refuses
    |-- ClusterError (RuntimeError) 1   a Ray cluster that does not answer, or that cannot do what you asked
    `-- TrackerError (RuntimeError) 1   a tracker, such as an MLflow server, that does not answer, or refuses

Each is also the built-in error in parentheses, so `except ValueError` catches all bad input.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from zsharp.names import did_you_mean

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
_LONGEST_SHOWN = 80


class _Nothing(Enum):
    NOTHING = "nothing"


NOTHING: Final = _Nothing.NOTHING
"""The value of a problem about a missing or misspelt name: there is no value to show."""


@dataclass(frozen=True)
class Problem:
    """One thing to put right in a job. Its text is one line without control characters.

    Attributes:
        path: Where the problem is, for example `space.q_p.uniform[1]`.
        value: What was given there, or `NOTHING`.
        message: What is wrong, and what is valid.
    """

    path: str
    value: object
    message: str

    def __str__(self) -> str:
        given = None if self.value is NOTHING else show(self.value)
        if given is None or (self.message.startswith("unknown ") and given in self.message):
            line = f"{self.path}: {self.message}"
        else:
            then = ";" if self.message.startswith(("valid: ", "did you mean ")) else ":"
            line = f"{self.path}: {given} is not valid{then} {self.message}"
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


class TuneJobsError(Exception):
    """The base of all errors of `tune_jobs`. The text of each is written for users.

    Attributes:
        exit_code: What the command line exits with: 2 for bad input, 1 for anything else.
    """

    exit_code = EXIT_FAILED


class JobError(TuneJobsError, ValueError):
    """A job that is not valid. Its text has one line for each problem."""

    exit_code = EXIT_BAD_INPUT

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "an error without a problem"
        super().__init__(problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class UsageError(TuneJobsError, ValueError):
    """A command whose arguments make no sense."""

    exit_code = EXIT_BAD_INPUT


class LedgerError(TuneJobsError, ValueError):
    """A ledger that is not usable, or a call that would make its record untrue."""

    exit_code = EXIT_BAD_INPUT


class LedgerLostError(LedgerError):
    """A ledger that vanished, or was replaced, while it was open: nothing can be recorded any more."""

    exit_code = EXIT_FAILED


class ResultsError(TuneJobsError, ValueError):
    """Parquet files that are missing, or that this version of `tune_jobs` cannot read."""

    exit_code = EXIT_BAD_INPUT


class StorageError(TuneJobsError, OSError):
    """An object store that does not answer, or refuses."""


class ClusterError(TuneJobsError, RuntimeError):
    """A Ray cluster that does not answer, or that cannot do what you asked."""


class TrackerError(TuneJobsError, RuntimeError):
    """A tracker, such as an MLflow server, that does not answer, or refuses."""


def show(value: object) -> str:
    """Returns a value roughly as a user would write it, on one line, cut to 80 characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def show_path(keys: Iterable[str | int]) -> str:
    """Returns `space.q_p.uniform[1]` for `("space", "q_p", "uniform", 1)`; keys may have dots, as `train.epochs`."""
    path = ""
    for key in keys:
        if isinstance(key, str) and re.fullmatch(r"\w{1,60}(\.\w{1,60}){0,3}", key, re.ASCII):
            path += f".{key}" if path else key
        else:
            path += f"[{show(key)}]"
    return path


def unknown(kind: str, name: str, valid: Iterable[str], *, hint: str | None = None) -> str:
    """Returns a message with the unknown name, what was probably meant, and all valid names.

    Args:
        hint: What was probably meant, as `did_you_mean` puts it; by default the closest valid name.
    """
    names = list(valid)
    meant = did_you_mean(name, names) if hint is None else hint
    return f"unknown {kind} {show(name)}; {meant}valid: {', '.join(names) or 'none'}"
