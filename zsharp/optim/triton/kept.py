"""Measures and applies the kept components of many gradients: three launches, without a host synchronisation.

A component is kept if abs(g - centre) > cutoff, with the numbers of `cutoffs.cutoffs`, or with centre 0
and cutoff -1 for all but NaN. CUDA graphs need what `cutoffs` says, for parameters and backups too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsharp.optim.triton.cutoffs import OPTIONS
from zsharp.optim.triton.tables import dense, launching_on, positions_by_dtype, tables


def measure_kept(
    grads: Sequence[Tensor], centres: Tensor, cutoffs: Tensor, *, block: int = 4096
) -> tuple[Tensor, Tensor]:
    """Returns the sum of squares of each gradient's kept components, and how many there are.

    Two launches for each dtype among the gradients.

    Args:
        grads: At least one gradient: float32, float16 or bfloat16, on one device.
        centres: float32 `[num_tensors]` on that device.
        cutoffs: Likewise.

    Returns:
        float64 and int64 `[num_tensors]`; the sums do not depend on the order in which programs run.
    """
    from zsharp.optim.triton.kernels import TYPES, measure_chunks, reduce_chunks

    device = centres.device
    grads = [dense(grad) for grad in grads]
    squares = torch.empty(len(grads), dtype=torch.float64, device=device)
    counts = torch.empty(len(grads), dtype=torch.int64, device=device)
    with launching_on(device):
        for dtype, rows in positions_by_dtype(grads).items():
            table = tables([grads[i] for i in rows], rows, block)
            parts = torch.empty(table.num_chunks, dtype=torch.float64, device=device)
            part_counts = torch.empty(table.num_chunks, dtype=torch.int64, device=device)
            inputs = (table.pointers, table.tensors, table.chunks, centres, cutoffs, parts, part_counts)
            layout = {"dtype": TYPES[dtype], "align": table.align, "block": block}
            measure_chunks[(table.num_chunks,)](*inputs, **layout, **OPTIONS)
            results = (table.tensors, parts, part_counts, squares, counts)
            reduce_chunks[(table.num_tensors,)](*results, block=1024, **OPTIONS)
    return squares, counts


def apply_kept(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    backups: Sequence[Tensor],
    centres: Tensor,
    cutoffs: Tensor,
    factors: Tensor,
    *,
    block: int = 4096,
) -> None:
    """Writes `backup = param`, then adds `factor` times the kept components of the gradient, all in place.

    One launch for each dtype. Products and sums are float32, rounded once to the parameter's dtype.

    Args:
        params: At least one parameter: float32, float16 or bfloat16, dense, on one device.
        grads: Same shapes and dtypes; copied if the strides differ from the parameter's.
        backups: Same shapes, dtypes and strides as the parameters.
        centres: float32 `[num_tensors]` on that device.
        cutoffs: Likewise.
        factors: Likewise.
    """
    from zsharp.optim.triton.kernels import TYPES, move_chunks

    grads = [_aligned(grad, param) for grad, param in zip(grads, params, strict=True)]
    for backup, param in zip(backups, params, strict=True):
        assert backup.dtype == param.dtype and dense(param) is param and _is_alike(backup, param)
    with launching_on(centres.device):
        for dtype, rows in positions_by_dtype(params).items():
            each = [tables([values[i] for i in rows], rows, block) for values in (params, grads, backups)]
            table, pointers = each[0], [part.pointers for part in each]  # they differ in their addresses only
            move_chunks[(table.num_chunks,)](
                *pointers,
                table.tensors,
                table.chunks,
                centres,
                cutoffs,
                factors,
                dtype=TYPES[dtype],
                align=min(part.align for part in each),
                block=block,
                **OPTIONS,
            )


def _aligned(grad: Tensor, param: Tensor) -> Tensor:
    """Returns the gradient with its elements in memory where the parameter's are."""
    assert grad.dtype == param.dtype and grad.shape == param.shape
    return grad if _is_alike(grad, param) else torch.empty_like(param).copy_(grad)


def _is_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape have their elements in memory in the same order."""
    strides, others = one.stride(), other.stride()
    if strides == others:  # the usual case
        return True
    return all(a == b for a, b, size in zip(strides, others, one.shape, strict=True) if size != 1)
