"""Training one trial with no tuner: a loop over epochs that only reports."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zsharp.data.training_data import TrainingData
from zsharp.training.epoch_row import EpochRow
from zsharp.training.spec import TrialSpec
from zsharp.training.training import Training


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended.

    Attributes:
        status: `completed` at full fidelity, or `diverged` (a loss was not finite).
        reports: One row an epoch, as `Training.run_epoch` returns them.
        training: The finished run, for evaluation or its weights.
    """

    status: Literal["completed", "diverged"]
    reports: list[EpochRow]
    training: Training


def train(
    spec: TrialSpec,
    report: Callable[[EpochRow], object] | None = None,
    *,
    data: TrainingData | None = None,
    checkpoint: Path | None = None,
) -> TrialResult:
    """Trains `spec` to its last epoch.

    Example:
        >>> from zsharp.training import TrainSpec, TrialSpec, train
        >>> spec = TrialSpec("resnet8", "zsharp", {"lr": 0.01}, train=TrainSpec(epochs=1, batch_size=64))
        >>> result = train(spec)
        >>> result.status
        'completed'

    Args:
        data: The training set; loaded if not given.
        checkpoint: Written after each epoch; if it exists, training continues from it.

    Raises:
        ValueError: If the spec does not fit the data, or the checkpoint another spec.
    """
    training = Training(spec, data)
    if checkpoint is not None and checkpoint.exists():
        training.load(checkpoint)
    return train_on(training, report, checkpoint=checkpoint)


def train_on(
    training: Training,
    report: Callable[[EpochRow], object] | None = None,
    *,
    checkpoint: Path | None = None,
) -> TrialResult:
    """Trains from where `training` is to its last epoch; the arguments are those of `train`."""
    reports = []
    while not training.is_finished:
        row = training.run_epoch()
        reports.append(row)
        if report is not None:
            report(row)
        if row["diverged"]:
            return TrialResult("diverged", reports, training)
        if checkpoint is not None:
            training.save(checkpoint)
    return TrialResult("completed", reports, training)
