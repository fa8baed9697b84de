"""Exact percentile cutoffs of a whole model's gradients in six launches, without a host synchronisation.

For each gradient dtype, however many tensors: one launch that sums and clears, four that each
count one digit of the deviations, one that writes the cutoffs (kernels and method: `kernels.py`). A
percentile given as a float costs one more, which fills a tensor.

**CUDA graphs.** The kernels find the gradients through tables of addresses on the device, which are copied
there when a set of gradients is first seen and kept for later calls. A copy cannot be captured, so a capture
needs gradients that keep their addresses (zeroed in place, not set to None) and the same call once before it,
on any stream; that call also compiles the kernels. Within `tables.filled_after_capture` gradients may be made in
the graph. `q_p` is read when the graph runs if it is a tensor, and
frozen if it is a float. Tables that a capture has used stay for the life of the process, since the graph may
run at any time (some 50 kB for a large model). Work memory and results belong to the caller's stream or graph
like those of any other operation.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from zsharp.optim.ascent.filters import RANK_TOLERANCE
from zsharp.optim.triton.tables import MAX_CHUNKS, Tables, dense, launching_on, positions_by_dtype, tables

# From the top: 7 + 6 + 9 + 9 = 31 bits. A histogram of 512 bins costs twice that of 128; by the third digit few
# enough elements are left, if the values differ, to use atomics instead (`count_digits`).
_DIGITS = (7, 6, 9, 9)
NUM_TURNS = len(_DIGITS)
_OFFSETS = [0, *accumulate(1 << bits for bits in _DIGITS)]
NUM_BINS = _OFFSETS[-1]
_SPARSE_SHARE = 16
# Without fusion the rank is rounded as on the host.
OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}


def is_available(device: torch.device) -> bool:
    """Whether `cutoffs` runs on `device`: a CUDA device, and triton is installed (it is not imported)."""
    return device.type == "cuda" and find_spec("triton") is not None


def cutoffs(
    grads: Sequence[Tensor],
    q_p: Tensor | float,
    kind: Literal["zscore", "magnitude"],
    *,
    block: int = 4096,
) -> tuple[Tensor, Tensor]:
    """Returns each gradient's centre and cutoff: component g is kept iff abs(g - centre) > cutoff.

    With d = abs(g - centre) in float32, the cutoff is the floor(q_p * (n - 1))-th smallest d, exactly.
    Infinities sort above all numbers and NaN above those. So a NaN is never kept, and nothing is where the
    cutoff is not finite, as it is for `q_p > 0` with a mean that is not.

    Args:
        grads: At least one gradient: float32, float16 or bfloat16, any shape, on one device. Memory that is
            not dense is copied, to a new address with every call: such a gradient cannot be captured.
        q_p: Percentile in [0, 1); a float, or a 0-d tensor on the gradients' device.
        kind: Whether the centre is the mean (summed in float64, rounded to float32) or 0.
        block: Elements that a program holds at a time, a power of two.

    Returns:
        Centres and cutoffs, float32 `[num_tensors]` on the gradients' device. A cutoff is -1, below all, for
        `q_p = 0`, and 0 for an empty gradient.

    Raises:
        ValueError: If a gradient has another dtype.
        RuntimeError: If a CUDA graph is being captured and these gradients were not seen before.
    """
    assert grads
    centres, values = (torch.empty(len(grads), dtype=torch.float32, device=grads[0].device) for _ in range(2))
    put_cutoffs(grads, range(len(grads)), q_p, kind, centres, values, block=block)
    return centres, values


def put_cutoffs(
    grads: Sequence[Tensor],
    rows: Sequence[int],
    q_p: Tensor | float,
    kind: Literal["zscore", "magnitude"],
    centres: Tensor,
    values: Tensor,
    *,
    block: int = 4096,
) -> None:
    """Writes centre and cutoff of each gradient to its row of two float32 tensors; otherwise like `cutoffs`."""
    from zsharp.optim.triton.kernels import TYPES

    device = centres.device
    grads = [dense(grad) for grad in grads]
    assert all(grad.device == device for grad in grads)
    by_dtype = positions_by_dtype(grads)
    if not by_dtype.keys() <= TYPES.keys():
        given, valid = (", ".join(map(str, dtypes)) for dtypes in (by_dtype, TYPES))
        raise ValueError(f"gradients for percentile cutoffs: got dtypes {given}; valid: {valid}")

    with launching_on(device):
        if not isinstance(q_p, Tensor):
            q_p = torch.full((), q_p, dtype=torch.float64, device=device)
        assert q_p.ndim == 0 and q_p.device == device
        for dtype, members in by_dtype.items():
            table = tables([grads[i] for i in members], [rows[i] for i in members], block)
            _launch(table, TYPES[dtype], q_p, kind == "zscore", block, centres, values)


def _launch(
    table: Tables, dtype: object, q_p: Tensor, has_centre: bool, block: int, centres: Tensor, values: Tensor
) -> None:
    from zsharp.optim.triton.kernels import count_digits, sum_chunks, write_cutoffs

    num_tensors, num_chunks, device = table.num_tensors, table.num_chunks, centres.device
    partials = torch.empty(num_chunks, dtype=torch.float64, device=device)
    counts = torch.empty(num_tensors * NUM_BINS, dtype=table.count_dtype, device=device)
    prefixes = torch.empty(num_tensors * 2, dtype=torch.int32, device=device)
    ranks = torch.empty(num_tensors * 2, dtype=torch.int64, device=device)

    layout = {"dtype": dtype, "align": table.align, "block": block, "has_centre": has_centre}
    sums = (table.pointers, table.chunks, partials, counts)
    sum_chunks[(num_chunks,)](*sums, **layout, num_bins=NUM_BINS, **OPTIONS)
    inputs = (table.pointers, table.tensors, table.chunks, partials, q_p, centres, counts, prefixes, ranks)
    for turn in range(NUM_TURNS):
        count_digits[(num_chunks,)](*inputs, **layout, **turn_settings(turn), **OPTIONS)
    last = {"num_bins": NUM_BINS, "turn": NUM_TURNS, "previous_bits": _DIGITS[-1]}
    results = (table.tensors, q_p, counts, prefixes, ranks, values)
    write_cutoffs[(num_tensors,)](*results, **last, previous_offset=_OFFSETS[-2], **OPTIONS)


def turn_settings(turn: int) -> dict[str, float]:
    """Returns the constants of `count_digits` for the digit `turn`, counted from the top."""
    return {
        "num_bins": NUM_BINS,
        "max_chunks": MAX_CHUNKS,
        "tolerance": RANK_TOLERANCE,
        "sparse_share": _SPARSE_SHARE,
        "turn": turn,
        "shift": 31 - sum(_DIGITS[: turn + 1]),
        "bits": _DIGITS[turn],
        "offset": _OFFSETS[turn],
        "previous_bits": _DIGITS[turn - 1],
        "previous_offset": _OFFSETS[turn - 1] if turn else 0,
    }
