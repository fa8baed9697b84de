"""Defines a ledger's columns, metrics and decisions, and converts values for SQLite and JSON."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from numbers import Integral, Real
from typing import Any

from tune_jobs.errors import LedgerError
from zsharp.training.epoch_row import MEASURES, TOTALS

ACTIONS = ("continue", "stop", "complete", "diverge")
STATUSES = ("completed", "pruned", "diverged", "failed", "interrupted")
EVENTS = ("start", "stop", "retry", "job", "checkpoint", "pack", "move", "slots", "origin", "fork")

# The metrics of a report that are checked and exported to Parquet. Others are kept in the ledger, unchecked.
WORKER_FACTS: dict[str, type] = {"node": str, "gpu_ids": str, "worker_pid": int}
METRICS: dict[str, type] = {**MEASURES, **TOTALS, **WORKER_FACTS}

# What a task of the user's own measures, a mapping beside them; a report without such numbers does not have it.
OWN_METRICS = "metrics"

START_COLUMNS = ("trial_id", "study", "number", "dataset", "architecture", "method", "variant", "seed")
TRIAL_COLUMNS = (
    *(*START_COLUMNS, "params", "max_epochs", "status", "stop_reason", "error", "started_at", "finished_at"),
    *("ended_after", "retries"),
)
EVENT_COLUMNS = ("after", "kind", "trial_id", "data", "happened_at")
DECISION_COLUMNS = ("decision", "rung", "cutoff", "num_values", "reason", "reported_at")
RESERVED = {"seq", "trial_id", "epoch", *DECISION_COLUMNS}


@dataclass(frozen=True)
class Fork:
    """Where a trial starts that is no training run from its first epoch."""

    trunk: str  # the trial that trained the epochs before
    epoch: int  # how many these are; its own are numbered on


@dataclass(frozen=True)
class Decision:
    """A decision on a report, with its inputs."""

    action: str  # one of ACTIONS
    rung: int | None = None  # the epochs of the rung at which the report was judged; None if it is at no rung
    cutoff: float | None = None  # the value that it had to reach there
    num_values: int | None = None  # how many values the rung held before
    reason: str = ""


def plain(value: object, kind: type | None) -> float | int | str | None:
    """Returns a value, which may be a NumPy scalar, as a JSON type; None if it is not finite or of no such type."""
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, Integral):
        return float(value) if kind is float else int(value)
    if isinstance(value, Real) and math.isfinite(value):
        number = float(value)
        return int(number) if kind is int and number.is_integer() else number
    return None


def as_json(value: Mapping[str, Any], where: str) -> str:
    """Returns a value as JSON.

    Raises:
        LedgerError: If JSON cannot represent it; the message starts with `where`.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise LedgerError(f"{where}: expected values that JSON can represent: {problem}") from problem


def as_text(text: str | None) -> str | None:
    """Returns text without what UTF-8 cannot encode, as tracebacks may quote undecodable bytes."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


class Clock:
    """Tells the time in UTC, in ISO format: that of its creation plus what passed since, whoever sets the clock."""

    def __init__(self) -> None:
        self._start, self._started_s = datetime.now(UTC), time.monotonic()

    def now(self) -> str:
        """Returns the current time."""
        moment = self._start + timedelta(seconds=time.monotonic() - self._started_s)
        return moment.isoformat(timespec="microseconds")
