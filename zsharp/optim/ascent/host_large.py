"""Selects the kept components of large tensors on the CPU in few passes over memory, which they wait for most.

What `host_filter` does in ten passes takes four here: mean and norm, score and cutoff, mask, norm of what is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zsharp.optim.ascent.backups import Backups
from zsharp.optim.ascent.filters import rank
from zsharp.optim.ascent.host_filter import TOGETHER, Scratch, buffer
from zsharp.optim.ascent.layer import Layer, storage_order
from zsharp.optim.ascent.moments import mean_and_norm
from zsharp.optim.ascent.order_statistic import Array, scored_order_statistic


@dataclass(frozen=True)
class Large:
    """A large tensor that is filtered by itself."""

    direction: Tensor  # 1-d, in the order of the parameter's memory
    mean: np.floating
    norm: float


def find_large(layers: Sequence[Layer], values: Sequence[Tensor]) -> dict[int, Large]:
    """Returns the tensors that `keep_large` takes, by their positions; `values` has T d of each."""
    found = {}
    for i, layer in enumerate(layers):
        if (
            2 * layer.param.numel() > TOGETHER  # `host_filter.batches` has it alone
            and layer.is_filtered
            and layer.rules.filter != "random"
            and layer.rules.threshold == "layer"
            and float(layer.q_p) > 0
            and values[i] is layer.direction  # not ASAM's
            and layer.param.dtype == layer.direction.dtype
            and layer.param.dtype in (torch.float32, torch.float64)
        ):
            direction = storage_order(layer.direction, layer.param)
            found[i] = Large(direction, *mean_and_norm(direction.numpy()))
    return found


def keep_large(layer: Layer, large: Large, backups: Backups, scratch: Scratch) -> tuple[int, Tensor]:
    """Writes the kept components of a tensor without NaNs to its backup, and zeros elsewhere.

    Returns:
        How many components are kept, and their norm, 0-d.
    """
    num = len(large.direction)
    scores = buffer(scratch, "score", large.direction.dtype, 1, num)[0]
    cutoff, count = scored_order_statistic(
        large.direction.numpy(), rank(float(layer.q_p), num), _score(layer, large.mean), scores.numpy()
    )
    kept = storage_order(backups.buffer(layer.param))
    # The derivative of `threshold`: the direction where the score is above the cutoff, 0 elsewhere, in one pass.
    torch.ops.aten.threshold_backward.grad_input(large.direction, scores, cutoff, grad_input=kept)
    norm: Tensor = torch.linalg.vector_norm(kept)
    return count, norm


def _score(layer: Layer, mean: np.floating) -> Callable[[Array, Array], object]:
    """Returns what writes the scores of numbers (`zsharp.optim.ascent.filters`)."""
    if layer.rules.filter == "magnitude":
        return np.abs

    def deviation(numbers: Array, scores: Array) -> None:
        np.abs(np.subtract(numbers, mean, out=scores), out=scores)

    return deviation
