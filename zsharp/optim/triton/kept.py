"""Measures and applies the kept components of many gradients: three launches, without a host synchronisation.

A component is kept if abs(g - centre) > cutoff, with the numbers of `cutoffs.cutoffs`, or with centre 0
and cutoff -1 for all but NaN. What a CUDA graph needs is said there, for parameters and backups too.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from zsharp.optim.triton.tables import dense, tables

_OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}


def measure_kept(
    grads: Sequence[Tensor], centres: Tensor, cutoffs: Tensor, *, block: int = 4096
) -> tuple[Tensor, Tensor]:
    """Returns the sum of squares of each gradient's kept components, and how many there are.

    Two launches for each dtype among the gradients.

    Args:
        grads: At least one gradient: float32, float16 or bfloat16, on one device.
        centres: float32 `[num_tensors]` on that device.
        cutoffs: Likewise.
        block: Elements that a program holds at a time, a power of two.

    Returns:
        float64 and int64 `[num_tensors]`; the sums do not depend on the order in which programs run.
    """
    from zsharp.optim.triton.kernels import TYPES, measure_chunks, reduce_chunks

    device = centres.device
    grads = [dense(grad) for grad in grads]
    squares = torch.empty(len(grads), dtype=torch.float64, device=device)
    counts = torch.empty(len(grads), dtype=torch.int64, device=device)
    with _on(device):
        for dtype, rows in _by_dtype(grads).items():
            found = tables([grads[i] for i in rows], rows, block)
            parts = torch.empty(found.num_chunks, dtype=torch.float64, device=device)
            part_counts = torch.empty(found.num_chunks, dtype=torch.int64, device=device)
            places = (found.pointers, found.tensors, found.chunks, centres, cutoffs, parts, part_counts)
            layout = {"dtype": TYPES[dtype], "align": found.align, "block": block}
            measure_chunks[(found.num_chunks,)](*places, **layout, **_OPTIONS)
            results = (found.tensors, parts, part_counts, squares, counts)
            reduce_chunks[(found.num_tensors,)](*results, block=1024, **_OPTIONS)
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
        block: Elements that a program holds at a time, a power of two.
    """
    from zsharp.optim.triton.kernels import TYPES, move_chunks

    grads = [_aligned(grad, param) for grad, param in zip(grads, params, strict=True)]
    for backup, param in zip(backups, params, strict=True):
        assert backup.dtype == param.dtype and dense(param) is param and _order(backup) == _order(param)
    with _on(centres.device):
        for dtype, rows in _by_dtype(params).items():
            where = [tables([values[i] for i in rows], rows, block) for values in (params, grads, backups)]
            found, pointers = where[0], [table.pointers for table in where]
            move_chunks[(found.num_chunks,)](
                *pointers,
                found.tensors,
                found.chunks,
                centres,
                cutoffs,
                factors,
                dtype=TYPES[dtype],
                align=min(table.align for table in where),
                block=block,
                **_OPTIONS,
            )


def _on(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _by_dtype(values: Sequence[Tensor]) -> dict[torch.dtype, list[int]]:
    found: dict[torch.dtype, list[int]] = {}
    for i, value in enumerate(values):
        found.setdefault(value.dtype, []).append(i)
    return found


def _aligned(grad: Tensor, param: Tensor) -> Tensor:
    """Returns the gradient with its elements in memory where the parameter's are."""
    assert grad.dtype == param.dtype and grad.shape == param.shape
    return grad if _order(grad) == _order(param) else torch.empty_like(param).copy_(grad)


def _order(tensor: Tensor) -> list[int]:
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1]
