"""Selects the gradient components that take part in the ascent: exact percentile masks.

A component is kept if its score lies strictly above the `q_p` percentile of the scores, taken per tensor
or over all tensors at once. With linear interpolation that percentile lies between the order statistics
r = floor(q_p * (n - 1)) and r + 1, so the strict comparison with the r-th one gives the same mask: no
interpolation and no sort is needed. Per tensor, the scores of `zscore` are abs(g - mean(g)): the standard
deviation is one positive factor that moves scores and percentile alike. Only a pooled threshold divides by it.

The mean is summed in float64 and rounded once, so that all paths and devices subtract the same number.

`q_p = 0` keeps everything (the filter is off). Ties at the threshold are dropped together. A tensor of one
element, or of equal elements, has all z = 0 and keeps none.

References:
    Yun, "Sharpness-Aware Minimization with Z-Score Gradient Filtering", arXiv 2505.02369, Algorithm 1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsharp.optim.ascent.layer import number
from zsharp.optim.ascent.order_statistic import order_statistic
from zsharp.optim.methods import Filter, Scope

# q_p * (n - 1) is meant as a decimal product: 0.29 * 100 is 29, not 28.999999999999996.
RANK_TOLERANCE = 1e-6
STD_FLOOR = 1e-8


def masks(
    grads: Sequence[Tensor],
    q_p: Tensor | float,
    kind: Filter,
    threshold: Scope = "layer",
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """Returns a mask of the kept components for each gradient; nothing is read back to the host.

    Tensors of one size are ranked in one call, so the number of launches follows the number of sizes.

    Args:
        grads: Gradients of any shape and floating dtype, on one device.
        q_p: Percentile in [0, 1) below which components are dropped; a float or a 0-d tensor.
        kind: What a component is ranked by: `zscore`, `magnitude`, or `random` numbers; not `none`.
        threshold: `layer` ranks each tensor by itself, `global` all of them together.
        generator: For the random filter, on the gradients' device.

    Returns:
        Boolean tensors of the gradients' shapes. Of n components that differ, n - 1 - floor(q_p * (n - 1))
        are kept.
    """
    assert kind != "none"
    if threshold == "global" and grads:
        all_scores = [scores(grad.reshape(1, -1), kind, threshold, generator) for grad in grads]
        cutoff = order_statistics(torch.cat(all_scores, 1), q_p)
        return [(s > cutoff).view(grad.shape) for s, grad in zip(all_scores, grads, strict=True)]
    all_masks: list[Tensor] = [torch.empty(0)] * len(grads)
    by_size: dict[tuple[int, torch.dtype], list[int]] = {}
    for i, grad in enumerate(grads):
        by_size.setdefault((grad.numel(), grad.dtype), []).append(i)
    for members in by_size.values():
        rows = torch.stack([grads[i].reshape(-1) for i in members])
        row_scores = scores(rows, kind, threshold, generator)
        kept = row_scores > order_statistics(row_scores, q_p)[:, None]
        for i, mask in zip(members, kept, strict=True):
            all_masks[i] = mask.view(grads[i].shape)
    return all_masks


def scores(rows: Tensor, kind: Filter, threshold: Scope, generator: torch.Generator | None) -> Tensor:
    """Returns what components are ranked by, [m, n] for m gradients of n components, in at least float32."""
    if kind == "random":
        return torch.rand(rows.shape, device=rows.device, generator=generator)
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    if kind == "magnitude":
        return rows.abs()
    mean = (rows.sum(1, keepdim=True, dtype=torch.float64) / max(1, rows.shape[1])).to(rows.dtype)
    deviation = (rows - mean).abs()
    if threshold == "layer":
        return deviation
    std: Tensor = torch.linalg.vector_norm(deviation, dim=1, keepdim=True) / max(1, rows.shape[1]) ** 0.5
    return deviation / (std + STD_FLOOR)


def rank(q_p: float, num: int) -> int:
    """Returns r = floor(q_p * (num - 1)), the 0-based rank of the largest score that is dropped."""
    return int(q_p * (num - 1) + RANK_TOLERANCE)


def order_statistics(rows: Tensor, q_p: Tensor | float) -> Tensor:
    """Returns the r-th smallest of each row of [m, n] scores, shape [m]; -1, below all, for `q_p = 0`."""
    num = rows.shape[1]
    if num == 0:
        return rows.new_zeros(len(rows))
    q = number(q_p, torch.float64, rows.device)
    ranks = (q * (num - 1) + RANK_TOLERANCE).long()
    if rows.device.type == "cpu":
        values = _select(rows, ranks)
    else:
        values = rows.sort(1).values.gather(1, ranks.expand(len(rows), 1)).squeeze(1)
    return torch.where(q == 0, -1.0, values)


@torch.library.custom_op("zsharp::select", mutates_args=())
def _select(rows: Tensor, ranks: Tensor) -> Tensor:
    """numpy's selection: several times faster than kthvalue, topk or a sort (docs/log.md)."""
    return torch.from_numpy(order_statistic(rows.numpy(), int(ranks)))


@_select.register_fake
def _(rows: Tensor, ranks: Tensor) -> Tensor:
    return rows.new_empty(len(rows))
