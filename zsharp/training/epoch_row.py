"""What an epoch reports: the one list of names and types that ledger, Parquet files and checkpoints share."""

from collections.abc import Mapping
from types import MappingProxyType, UnionType
from typing import Any, TypedDict, get_args, get_type_hints


class EpochMeasures(TypedDict):
    """What is measured in one epoch. Losses are mean cross-entropies in nats, accuracies are fractions.

    None stands where a number does not apply: no validation images, no perturbation, or a task without accuracies.
    """

    train_loss: float
    """At w, with label smoothing; of a task of the user's own, the mean of its losses."""
    train_accuracy: float | None
    val_loss: float | None
    val_accuracy: float | None
    lr: float
    """The learning rate of the last step."""
    grad_norm: float
    """Mean over the steps, as are the next two."""
    perturbation_norm: float | None
    kept_fraction: float | None
    epoch_s: float


class RunTotals(TypedDict):
    """What is counted from the start of the run, or constant in it."""

    gradient_evaluations: int
    train_s: float
    wall_s: float
    images_per_s: float
    peak_memory_bytes: int
    num_parameters: int
    device: str


class EpochRow(EpochMeasures, RunTotals):
    """One flat row an epoch."""

    epoch: int
    """Counted from 1."""
    diverged: int
    """1 if a loss, the metric, or where nothing is validated the norm of the weights, is not finite; else 0."""
    metrics: dict[str, float]
    """What a task of the user's own measures besides `val_loss` and `val_accuracy`, by name."""


def _kinds(row: type) -> Mapping[str, type]:
    hints = get_type_hints(row)
    return MappingProxyType(
        {name: get_args(hint)[0] if isinstance(hint, UnionType) else hint for name, hint in hints.items()}
    )


MEASURES = _kinds(EpochMeasures)
"""The type of each measure by name, in the order of the Parquet columns."""

TOTALS = _kinds(RunTotals)
"""The same of the totals."""

RESERVED_NAMES = frozenset(
    {*get_type_hints(EpochRow), "seq", "trial_id", "decision", "rung", "cutoff", "reason"}
) - {
    "val_loss",
    "val_accuracy",
}
"""What a task of the user's own must not call its metrics."""


def metric_of(row: Mapping[str, Any], metric: str) -> float | None:
    """Returns a metric of a report by its name, whether it has a column of its own or is one of a task's."""
    value = row.get(metric) if metric in MEASURES else (row.get("metrics") or {}).get(metric)
    return None if value is None else float(value)
