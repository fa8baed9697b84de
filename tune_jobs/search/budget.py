"""What a search has spent, and whether that ends it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.job.spec import BudgetModel

_LONGEST_STEP_S = 7 * 24 * 3600.0


@dataclass
class Spent:
    """What a search has used so far, in all its sessions."""

    epochs: int = 0  # epochs trained by all trials
    gradient_evaluations: int = 0  # forward and backward passes of all trials
    gpu_hours: float = 0.0  # hours that trials trained, times the GPUs each had
    hours: float = 0.0  # hours that the search ran
    best: float | None = None  # best value of the metric of a trial at full fidelity; None if there is none

    def exhausts(self, budget: BudgetModel, metric: Metric = VAL_ACCURACY) -> str | None:
        """Returns which part of a budget is used up, or None if the search may go on."""
        limits = {
            "hours": (self.hours, budget.hours),
            "epochs": (self.epochs, budget.epochs),
            "gradient_evaluations": (self.gradient_evaluations, budget.gradient_evaluations),
            "gpu_hours": (self.gpu_hours, budget.gpu_hours),
        }
        for name, (used, limit) in limits.items():
            if limit is not None and used >= limit:
                return f"budget.{name} is reached: {used:.6g} of {limit:.6g}"
        for name in ("target_accuracy", "target"):
            bar = getattr(budget, name)
            if bar is not None and self.best is not None and metric.reaches(self.best, bar):
                return f"budget.{name} is reached: {self.best:.6g} of {bar:.6g}"
        return None


class Meter:
    """Counts what a search spends.

    What it counts is in `spent`. `gpus_per_trial` may change while the search runs.

    Args:
        forks: The epoch that trials start after which continue from a trunk, by their ids.
    """

    def __init__(
        self,
        gpus_per_trial: float,
        events: Iterable[Mapping[str, Any]] = (),
        reports: Sequence[Mapping[str, Any]] = (),
        metric: Metric = VAL_ACCURACY,
        forks: Mapping[str, int] | None = None,
    ) -> None:
        self._metric = metric
        self._forks = dict(forks or {})
        self.spent, self.gpus_per_trial = Spent(), gpus_per_trial
        self._train_s: dict[str, float] = {}
        self._hours_before = hours_before(events, reports)
        self._started_s = time.monotonic()
        for report in reports:
            self.add_report(report["trial_id"], report)

    def fork(self, trial_id: str, epoch: int) -> None:
        """Takes note that a trial's own epochs follow so many of its trunk, which that trial has been counted for."""
        self._forks[trial_id] = epoch

    def add_report(self, trial_id: str, row: Mapping[str, Any]) -> None:
        """Counts one epoch of a trial."""
        self.spent.epochs += 1
        if row.get("gradient_evaluations") is not None:
            # The row has the trial's total, which grows by the same number every epoch.
            own_epochs = row["epoch"] - self._forks.get(trial_id, 0)
            self.spent.gradient_evaluations += row["gradient_evaluations"] // own_epochs
        # Also a total, which starts again at 0 in a trial that lost its checkpoint.
        train_s = row.get("train_s") or 0.0
        seconds = max(0.0, train_s - self._train_s.get(trial_id, 0.0))
        self._train_s[trial_id] = train_s
        self.spent.gpu_hours += seconds * self.gpus_per_trial / 3600

    def add_completed(self, value: float | None) -> None:
        """Takes in the metric's value of a trial at full fidelity."""
        best = self.spent.best
        if value is not None and (best is None or self._metric.reaches(value, best)):
            self.spent.best = value

    def exhausted(self, budget: BudgetModel) -> str | None:
        """Returns which part of a budget is used up by now, or None."""
        self.spent.hours = self._hours_before + (time.monotonic() - self._started_s) / 3600
        return self.spent.exhausts(budget, self._metric)


def hours_before(events: Iterable[Mapping[str, Any]], reports: Iterable[Mapping[str, Any]]) -> float:
    """Returns how many hours a search ran in its earlier sessions.

    A session lasts from its start to its stop; one that was killed, to its last report. Clocks may be set at any time,
    so what counts are the steps from record to record, in the ledger's order, without those that cannot be true.
    """
    seconds, last = 0.0, None
    records = [
        *((report["seq"], "report", report["reported_at"]) for report in reports),
        *((event["after"], event["kind"], event["happened_at"]) for event in events),
    ]
    # Stable, so that a report is followed by the events after it, in their order.
    for _, kind, moment in sorted(records, key=lambda record: record[0]):
        if kind not in ("report", "start", "stop"):
            continue
        if kind != "start" and last is not None:
            step_s = (moment - last).total_seconds()
            seconds += step_s if 0 <= step_s <= _LONGEST_STEP_S else 0.0
        last = moment
    return seconds / 3600
