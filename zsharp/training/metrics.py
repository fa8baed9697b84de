"""Running sums of an epoch, kept on the device and read by the host once."""

import torch
from torch import Tensor

_NAMES = ("loss", "correct", "grad_norm", "perturbation_norm", "kept_fraction")


class StepSums:
    """Sums over the steps of an epoch; nothing is read back before `means`.

    Attributes:
        total: float64, a sum for each name; keeps its place in memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.total = torch.zeros(len(_NAMES), dtype=torch.float64, device=device)

    def reset(self) -> None:
        """Starts a new epoch."""
        self.total.zero_()

    def add(self, *values: Tensor) -> None:
        """Adds one step's 0-d tensors: loss, correct (share), grad_norm, perturbation_norm, kept_fraction."""
        self.total += torch.stack([value.double() for value in values])

    def means(self, num_steps: int) -> dict[str, float]:
        """The means over so many steps; the one host read of an epoch."""
        means = (self.total / num_steps).tolist()
        return dict(zip(_NAMES, means, strict=True))


def answer_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums of the cross-entropy and of the correct answers of a batch.

    Args:
        logits: Shape [B, num_classes], any floating dtype; the loss is taken in float32.
        labels: Shape [B], int64.

    Returns:
        float64 [2] on the logits' device.
    """
    loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
    correct = (logits.argmax(1) == labels).sum()
    return torch.stack([loss.double(), correct.double()])
