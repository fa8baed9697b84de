"""Which gradient components take part in the ascent: exact percentile masks without a sort on the CPU.

A component is kept if its score lies strictly above the `q_p` percentile of the scores, taken per tensor
or over all tensors at once. With linear interpolation that percentile lies between the order statistics
r = floor(q_p * (n - 1)) and r + 1, so the strict comparison with the r-th one gives the same mask: no
interpolation is needed. Per tensor, the scores of `zscore` are abs(g - mean(g)): the standard deviation is
one positive factor that moves scores and percentile alike. Only a pooled threshold divides by it.

`q_p = 0` keeps everything (the filter is off). Ties at the threshold are dropped together. A tensor of one
element, or of equal elements, has all z = 0 and loses them all.

References:
    Yun, "Sharpness-Aware Minimization with Z-Score Gradient Filtering", arXiv 2505.02369, Algorithm 1.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zsharp.optim.methods import Filter, Scope

# q_p * (n - 1) is meant as a decimal product: 0.29 * 100 is 29, not 28.999999999999996.
_RANK_TOLERANCE = 1e-6
_STD_FLOOR = 1e-8


def masks(
    grads: Sequence[Tensor],
    q_p: Tensor | float,
    kind: Filter,
    threshold: Scope = "layer",
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Returns for each gradient the components that are kept.

    Args:
        grads: Gradients of any shape and floating dtype; one device for a pooled threshold.
        q_p: Percentile in [0, 1) below which components are dropped; a float or a 0-d tensor, which is
            read on its own device (no host synchronisation).
        kind: What a component is ranked by: `zscore`, `magnitude`, or `random` numbers; not `none`.
        threshold: `layer` ranks each tensor by itself, `global` all of them together.
        generator: Source of the random filter's numbers, on the gradients' device.

    Returns:
        Boolean tensors of the gradients' shapes. Of n components that differ, n - 1 - floor(q_p * (n - 1))
        are kept.
    """
    assert kind != "none"
    if not grads:
        return []
    scores = [_scores(grad, kind, threshold, generator) for grad in grads]
    if threshold == "layer":
        cutoffs = [_order_statistic(score, q_p) for score in scores]
    else:
        pooled = torch.cat([score.reshape(-1) for score in scores])
        cutoffs = [_order_statistic(pooled, q_p)] * len(scores)
    return [score > cutoff for score, cutoff in zip(scores, cutoffs, strict=True)]


def _scores(grad: Tensor, kind: Filter, threshold: Scope, generator: torch.Generator | None) -> Tensor:
    if kind == "random":
        return torch.rand(grad.shape, device=grad.device, generator=generator)
    grad = grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad
    if kind == "magnitude":
        return grad.abs()
    deviation = (grad - grad.mean()).abs_()
    if threshold == "layer":
        return deviation
    std: Tensor = torch.linalg.vector_norm(deviation) / max(1, deviation.numel()) ** 0.5
    return deviation / (std + _STD_FLOOR)


def _order_statistic(scores: Tensor, q_p: Tensor | float) -> Tensor:
    """Returns the floor(q_p * (n - 1))-th smallest score as a 0-d tensor; -1, below all, for `q_p = 0`."""
    if scores.numel() == 0:
        return scores.new_zeros(())
    select = select_on_host if scores.device.type == "cpu" else select_on_device
    return select(scores.reshape(-1), q_p)


def select_on_host(scores: Tensor, q_p: Tensor | float) -> Tensor:
    """By introselect: several times faster than kthvalue, topk or a sort (docs/log.md)."""
    q = float(q_p)
    if q == 0:
        return scores.new_full((), -1.0)
    rank = int(q * (scores.numel() - 1) + _RANK_TOLERANCE)
    return scores.new_tensor(np.partition(scores.numpy(), rank)[rank])


def select_on_device(scores: Tensor, q_p: Tensor | float) -> Tensor:
    """By a sort and a gather: the rank never leaves the device."""
    q = torch.as_tensor(q_p, dtype=torch.float64, device=scores.device)
    rank = (q * (scores.numel() - 1) + _RANK_TOLERANCE).long()
    value = scores.sort().values.gather(0, rank.reshape(1)).reshape(())
    return torch.where(q == 0, -1.0, value)
