"""The ascent on the CPU: numpy's selection and in-place passes over buffers that are kept.

Fresh memory is what costs most here: touching a large temporary for the first time takes several times longer than
computing it. So the kept direction is written to the backup buffer, which holds w only afterwards, and everything
else goes into scratch space the size of the largest layer. Small tensors cost calls instead, so those of one size
are ranked together and moved together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsharp.optim.ascent.backups import Backups
from zsharp.optim.ascent.host_filter import TOGETHER, Scratch, batches, buffer, keep
from zsharp.optim.ascent.host_large import Large, find_large, keep_large
from zsharp.optim.ascent.layer import Layer, storage_order
from zsharp.optim.ascent.order_statistic import BLOCK
from zsharp.optim.ascent.radius import factors, norms, total

_HOME = torch.device("cpu")


@dataclass(frozen=True)
class _Move:
    """How one tensor gets to w + e: `param += factor * direction`, with w saved in `backup`."""

    param: Tensor
    backup: Tensor  # where w goes
    # What is added; the backup itself where that held the kept components or ASAM's scaled ones.
    direction: Tensor
    factor: float  # from `radius.factors`

    @property
    def is_in_backup(self) -> bool:
        """Whether the direction has to be used before w overwrites it."""
        return self.direction is self.backup


def ascend(
    layers: Sequence[Layer], backups: Backups, scratch: Scratch, generator: torch.Generator
) -> tuple[Tensor, list[int], Tensor]:
    """Moves the weights of `layers` to w + e and leaves w in `backups`.

    `layers` has at least one tensor, none skipped, all on the CPU; `scratch` is kept from call to call.

    Returns:
        ||e||, the number of components kept of each tensor, and ||T d|| of each.
    """
    values = [layer.direction * layer.scale() if layer.is_adaptive else layer.direction for layer in layers]
    sizes = [layer.param.numel() for layer in layers]
    large = find_large(layers, values)
    dense_norms = _dense_norms(values, large)
    kept_norms = dense_norms
    kept_counts: dict[int, int] = {}
    is_finite = bool(large) and bool(dense_norms.isfinite().all())
    for members, cutoff in batches(layers, generator):
        if not kept_counts:
            kept_norms = dense_norms.clone()
        if is_finite and (i := members[0]) in large:
            kept_counts[i], kept_norms[i] = keep_large(layers[i], large[i], backups, scratch)
            continue
        counts, norms_of_kept = keep(layers, values, members, cutoff, backups, scratch, generator)
        for i, count, norm in zip(members, counts, norms_of_kept, strict=True):
            kept_counts[i], kept_norms[i] = int(count), norm

    factor_of, empty = factors(layers, kept_norms, dense_norms)
    lengths = factor_of * torch.where(empty, dense_norms, kept_norms)
    # Where nothing is kept the unfiltered direction is used.
    kept_counts = {i: count for i, count in kept_counts.items() if not empty[i]}
    moves = []
    for i, (layer, factor) in enumerate(zip(layers, factor_of.tolist(), strict=True)):
        move = _plan(layer, values[i], i in kept_counts, factor, backups)
        if layer.is_adaptive:  # ||T^2 d|| is not known before
            step = storage_order(move.backup)
            lengths[i] = torch.linalg.vector_norm(step, dtype=lengths.dtype) * factor
        moves.append(move)
    _apply(moves, scratch)
    return total(lengths), [kept_counts.get(i, size) for i, size in enumerate(sizes)], dense_norms


def _dense_norms(values: Sequence[Tensor], large: Mapping[int, Large]) -> Tensor:
    if not large:
        return norms(values, _HOME)
    others = [i for i in range(len(values)) if i not in large]
    is_wide = any(value.dtype == torch.float64 for value in values)
    dense_norms = torch.empty(len(values), dtype=torch.float64 if is_wide else torch.float32)
    if others:
        dense_norms[others] = norms([values[i] for i in others], _HOME).to(dense_norms.dtype)
    for i, part in large.items():
        dense_norms[i] = part.norm
    return dense_norms


def _plan(layer: Layer, value: Tensor, is_kept: bool, factor: float, backups: Backups) -> _Move:
    """Returns how a tensor moves; ASAM's T^2 d is written to the backup here.

    `value` is T d, unfiltered; if `is_kept`, the backup holds its kept components.
    """
    backup = backups.buffer(layer.param)
    if layer.is_adaptive:
        step = storage_order(backup)
        source = step if is_kept else storage_order(value, layer.param)
        torch.mul(source, storage_order(layer.scale(), layer.param), out=step)
    is_in_backup = is_kept or layer.is_adaptive
    return _Move(layer.param, backup, backup if is_in_backup else layer.direction, factor)


def _apply(moves: Sequence[_Move], scratch: Scratch) -> None:
    """Saves w and adds the step, each tensor by the cheapest of four paths."""
    by_factor: dict[float, list[_Move]] = {}
    small = []
    for move in moves:
        if move.param.dtype == torch.float16:
            _add_in_float32(move)
        elif not move.is_in_backup:
            by_factor.setdefault(move.factor, []).append(move)
        elif move.param.numel() * 4 <= TOGETHER:
            small.append(move)
        else:
            _add_through_scratch(move, scratch)
    for factor, together in by_factor.items():
        _add_directions(together, factor)
    if small:
        _add_backups(small)


def _add_in_float32(move: _Move) -> None:
    """For small float16 gradients the factor is beyond float16's range."""
    moved = move.param.float().add_(move.direction, alpha=move.factor)
    move.backup.copy_(move.param)
    move.param.copy_(moved)


def _add_directions(moves: Sequence[_Move], factor: float) -> None:
    params = [move.param for move in moves]
    torch._foreach_copy_([move.backup for move in moves], params)
    torch._foreach_add_(params, [move.direction for move in moves], alpha=factor)


def _add_backups(moves: Sequence[_Move]) -> None:
    params, backups = [move.param for move in moves], [move.backup for move in moves]
    for move in moves:
        move.backup.mul_(move.factor)  # _foreach_mul_ would round the factor to bfloat16 first
    moved = torch._foreach_add(params, backups)
    torch._foreach_copy_(backups, params)
    torch._foreach_copy_(params, moved)


def _add_through_scratch(move: _Move, scratch: Scratch) -> None:
    weights, backup = storage_order(move.param), storage_order(move.backup)
    # In blocks that stay in the processor's cache: each number is read from memory and written there once.
    size = BLOCK * torch.get_num_threads()
    block = buffer(scratch, "score", weights.dtype, 1, min(size, len(weights)))[0]
    for start in range(0, len(weights), size):
        part, saved = weights[start : start + size], backup[start : start + size]
        moved = block[: len(part)]
        if part.dtype == torch.bfloat16:  # the factor would be rounded first
            torch.mul(saved, move.factor, out=moved).add_(part)
        else:
            torch.add(part, saved, alpha=move.factor, out=moved)
        saved.copy_(part)
        part.copy_(moved)
