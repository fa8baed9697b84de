"""What a search has spent, and whether that ends it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tune_jobs.job.spec import BudgetModel


@dataclass
class Spent:
    """What a search has used so far, in all its sessions.

    Attributes:
        epochs: Epochs trained by all trials.
        gradient_evaluations: Forward and backward passes of all trials.
        gpu_hours: Hours that trials trained, times the GPUs each had.
        hours: Hours that the search ran.
        best_accuracy: Best validation accuracy of a trial at full fidelity; 0 if there is none.
    """

    epochs: int = 0
    gradient_evaluations: int = 0
    gpu_hours: float = 0.0
    hours: float = 0.0
    best_accuracy: float = 0.0

    def exhausts(self, budget: BudgetModel) -> str | None:
        """Returns which part of a budget is used up, or None if the search may go on."""
        limits = {
            "hours": (self.hours, budget.hours),
            "epochs": (self.epochs, budget.epochs),
            "gradient_evaluations": (self.gradient_evaluations, budget.gradient_evaluations),
            "gpu_hours": (self.gpu_hours, budget.gpu_hours),
            "target_accuracy": (self.best_accuracy, budget.target_accuracy),
        }
        for name, (used, limit) in limits.items():
            if limit is not None and used >= limit:
                return f"budget.{name} is reached: {used:.6g} of {limit:.6g}"
        return None


def hours_before(events: Iterable[Mapping[str, Any]], reports: Iterable[Mapping[str, Any]]) -> float:
    """Returns how long a search ran in its earlier sessions.

    A session lasts from its start to its stop; one that was killed, to its last report.

    Args:
        events: Those of the ledger.
        reports: Those of the ledger, in its order.
    """
    seconds, began, last = 0.0, None, None
    moments = [
        *((event["happened_at"], event["kind"]) for event in events if event["kind"] in ("start", "stop")),
        *((report["reported_at"], "report") for report in reports),
    ]
    for moment, kind in sorted(moments):
        if kind == "start":
            if began is not None:
                seconds += (last - began).total_seconds()
            began = moment
        last = moment
    if began is not None:
        seconds += (last - began).total_seconds()
    return seconds / 3600
