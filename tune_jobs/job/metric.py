"""The number that a job's trials are ranked by, which way is better, and how it is written."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from zsharp.training.epoch_row import MEASURES, metric_of

METRIC_PREFIX = "metric."
"""Of the columns of Parquet files that hold what a task of the user's own measures."""


@dataclass(frozen=True)
class Metric:
    """A number that every epoch reports."""

    name: str = "val_accuracy"
    mode: Literal["max", "min"] = "max"

    @classmethod
    def of_job(cls, job: Mapping[str, Any] | None) -> Self:
        """Returns the metric of a resolved job, given as the mapping in its file; 0.1 knew only `val_accuracy`."""
        job = job or {}
        return cls(job.get("metric", cls.name), job.get("mode", cls.mode))

    @property
    def is_accuracy(self) -> bool:
        """Whether it is a fraction, as its name says."""
        return self.name.endswith("accuracy")

    @property
    def sign(self) -> int:
        """What to multiply a value by so that larger is better."""
        return 1 if self.mode == "max" else -1

    @property
    def worst(self) -> float:
        """What a trial that diverged or failed counts as.

        An accuracy is at least 0, so nothing is worse; ledgers of 0.1 were decided with it.
        """
        return 0.0 if self.is_accuracy and self.mode == "max" else -self.sign * math.inf

    @property
    def column(self) -> str:
        """Its column in Parquet files."""
        return self.name if self.name in MEASURES else f"{METRIC_PREFIX}{self.name}"

    @property
    def label(self) -> str:
        """What sentences, axes and headers call it."""
        return "validation accuracy" if self.name == "val_accuracy" else self.name

    @property
    def short_label(self) -> str:
        """What a narrow column is headed."""
        return "val acc" if self.name == "val_accuracy" else self.name

    @property
    def better(self) -> str:
        """`higher` or `lower`."""
        return "higher" if self.mode == "max" else "lower"

    @property
    def best(self) -> str:
        """`highest` or `lowest`."""
        return "highest" if self.mode == "max" else "lowest"

    @property
    def most(self) -> str:
        """`maximum` or `minimum`."""
        return "maximum" if self.mode == "max" else "minimum"

    @property
    def note(self) -> str:
        """What follows a value whose better side a reader might not expect."""
        return "" if self.mode == "max" else ", lower is better"

    def sided(self, name: str) -> str:
        """Returns what a number of it is called, with the better side if that is the lower one."""
        if self.mode == "max":
            return name
        return f"{name[:-1]}; lower is better)" if name.endswith(")") else f"{name} (lower is better)"

    @property
    def test_name(self) -> str:
        """What it is called on test data."""
        return f"test_{self.name.removeprefix('val_').removeprefix('train_')}"

    def confirmed(self, row: Mapping[str, Any]) -> tuple[float | None, str]:
        """Returns what a row of `confirmations` is compared by, and what to call it.

        That is the test's number of the metric: by its test name, or by its own if the task uses one name for both.
        """
        label = self.test_name.replace("test_accuracy", "test accuracy")
        is_test = row.get("measured_on") != "validation"  # 0.1 did not say
        for name in (f"{METRIC_PREFIX}{self.test_name}", self.test_name, f"{METRIC_PREFIX}{self.name}"):
            value = row.get(name)
            if value is not None and not math.isnan(value):
                return float(value), label if is_test else f"{self.name} (validation, no test data)"
        return None, label

    def of(self, row: Mapping[str, Any]) -> float | None:
        """Returns its value in a report or a row of a Parquet file; None if it was not measured."""
        value = row.get(self.column)
        return metric_of(row, self.name) if value is None else float(value)

    def merit(self, value: float | None, val_loss: float | None = None) -> tuple[float, float]:
        """Returns what trials are ranked by, larger is better: the value, and of equal accuracies the loss."""
        first = -math.inf if value is None else self.sign * value
        second = val_loss if self.name == "val_accuracy" else 0.0
        return first, -math.inf if second is None else -second

    def reaches(self, value: float, bar: float) -> bool:
        """Whether a value is at least as good as another."""
        return self.sign * value >= self.sign * bar

    def text(self, value: float) -> str:
        """Returns a value with four decimals if it is an accuracy, and else with four significant digits."""
        return f"{value:.4f}" if self.is_accuracy else f"{value:.4g}"


VAL_ACCURACY = Metric()
"""What jobs rank by unless they say otherwise."""
