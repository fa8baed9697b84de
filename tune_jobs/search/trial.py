"""A trial as the driver sees it while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class LiveTrial:
    """A trial as the driver sees it.

    Attributes:
        trial_id: Its own stable id, `<study>-<number>`.
        study: Its study's name.
        params: Its configuration.
        number: Its number within its study.
        epoch: Epochs reported.
        val_accuracy: The last one reported.
        val_loss: The last one reported.
        values: Each epoch's validation accuracy, None where it was not measured.
        status: How it ended; None while it runs.
        error: Of a failed trial, its text.
        retries: How often it was tried again after a failure.
    """

    trial_id: str
    study: str
    params: Mapping[str, float]
    number: int = 0
    epoch: int = 0
    val_accuracy: float | None = None
    val_loss: float | None = None
    values: list[float | None] = field(default_factory=list)
    status: str | None = None
    error: str | None = None
    retries: int = 0

    @property
    def is_unfinished(self) -> bool:
        """Whether it still has epochs to train, in this session or a later one."""
        return self.status in (None, "interrupted")

    @property
    def merit(self) -> tuple[float, float]:
        """What completed trials are ranked by; larger is better."""
        accuracy = -1.0 if self.val_accuracy is None else self.val_accuracy
        return accuracy, float("-inf") if self.val_loss is None else -self.val_loss
