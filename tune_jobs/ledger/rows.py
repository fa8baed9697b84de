"""What a ledger's rows are made of: columns, metrics, decisions, and values as SQLite and JSON can hold them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import Any

from tune_jobs.errors import LedgerError
from zsharp.training.epoch_row import MEASURES, TOTALS

ACTIONS = ("continue", "stop", "complete", "diverge")
STATUSES = ("completed", "pruned", "diverged", "failed", "interrupted")
EVENTS = ("start", "stop", "retry", "job", "checkpoint", "pack", "move", "slots")

# What a report may measure. Other metrics are kept too, unchecked, in the ledger only; Parquet has these.
WORKER_FACTS: dict[str, type] = {"node": str, "gpu_ids": str, "worker_pid": int}
METRICS: dict[str, type] = {**MEASURES, **TOTALS, **WORKER_FACTS}

START_COLUMNS = ("trial_id", "study", "number", "dataset", "architecture", "method", "variant", "seed")
TRIAL_COLUMNS = (
    *(*START_COLUMNS, "params", "max_epochs", "status", "stop_reason", "error", "started_at", "finished_at"),
    *("ended_after", "retries"),
)
EVENT_COLUMNS = ("after", "kind", "trial_id", "data", "happened_at")
DECISION_COLUMNS = ("decision", "rung", "cutoff", "num_values", "reason", "reported_at")
RESERVED = {"seq", "trial_id", "epoch", *DECISION_COLUMNS}


@dataclass(frozen=True)
class Decision:
    """What was decided on one report, with the inputs of the decision."""

    action: str  # one of ACTIONS
    rung: int | None = None  # the milestone (epochs) this report was judged at; None where it is at no rung
    cutoff: float | None = None  # value it had to reach there
    num_values: int | None = None  # values already recorded in that rung
    reason: str = ""


def plain(value: object, kind: type | None) -> float | int | str | None:
    """Returns the value (also a NumPy scalar) as JSON can hold it; None if it is not finite or not known."""
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, Integral):
        return float(value) if kind is float else int(value)
    if isinstance(value, Real) and math.isfinite(value):
        number = float(value)
        return int(number) if kind is int and number.is_integer() else number
    return None


def as_json(value: Mapping[str, Any], where: str) -> str:
    """Returns the value as JSON; raises LedgerError, which says where, if it cannot be."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise LedgerError(f"{where}: expected what JSON can hold, found: {problem}") from problem


def as_text(text: str | None) -> str | None:
    """Returns the text as SQLite holds it, in UTF-8: a traceback can quote undecodable bytes."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


def now() -> str:
    """Returns the moment in UTC, in ISO format."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
