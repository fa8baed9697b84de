"""The ascent on the CPU: numpy's selection and in-place passes over buffers that stay.

Fresh memory is what costs most here: a temporary of a large layer takes several times longer to touch for the first
time than to compute. So the kept direction is put where the weights are saved afterwards, and all else into scratch
space of the size of the largest layer. Small tensors cost calls instead; those of one size are ranked together.

A sparse save needs no place for the whole direction either: only the positions that are kept. Both saves round the
same numbers in the same order, so that they lead to equal weights.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zsharp.optim.ascent.backups import Backups
from zsharp.optim.ascent.host_filter import TOGETHER, Scratch, batches, buffer, find_kept
from zsharp.optim.ascent.layer import Layer, storage_order
from zsharp.optim.ascent.radius import factors, norms, total

_HOME = torch.device("cpu")


def ascend(
    layers: Sequence[Layer], backups: Backups, scratch: Scratch, generator: torch.Generator
) -> tuple[Tensor, list[int], Tensor]:
    """Moves the weights of `layers` to w + e and leaves w in `backups`.

    Args:
        layers: At least one tensor, none skipped, all on the CPU.
        backups: Where w is saved.
        scratch: Kept from call to call.
        generator: Source of the random filter's numbers.

    Returns:
        ||e||, the number of components kept of each tensor, and ||T d|| of each.
    """
    values = [layer.direction * layer.scale() if layer.is_adaptive else layer.direction for layer in layers]
    dense_norms = norms(values, _HOME)
    kept_norms, counts = dense_norms, [layer.param.numel() for layer in layers]
    filtered: set[int] = set()
    parts: dict[int, Tensor] = {}
    for members, cutoff in batches(layers, generator):
        if not filtered:
            kept_norms = dense_norms.clone()
        kept_counts, norms_of_kept, positions = find_kept(
            layers, values, members, cutoff, backups, scratch, generator
        )
        for i, count, norm in zip(members, kept_counts, norms_of_kept, strict=True):
            counts[i], kept_norms[i] = int(count), norm
        filtered.update(members)
        parts.update(positions)

    found, empty = factors(layers, kept_norms, dense_norms)
    lengths = found * torch.where(empty, dense_norms, kept_norms)
    factor_of = found.tolist()
    for i in [i for i in filtered if empty[i]] if filtered else []:
        filtered.discard(i)  # nothing is kept of it: the whole direction is used
        parts.pop(i, None)
        counts[i] = layers[i].param.numel()
    for i, layer in enumerate(layers):
        if layer.is_adaptive:
            step = storage_order(backups.whole(layer.param))
            value = step if i in filtered else storage_order(values[i], layer.param)
            torch.mul(value, storage_order(layer.scale(), layer.param), out=step)
            lengths[i] = torch.linalg.vector_norm(step, dtype=lengths.dtype) * factor_of[i]
            filtered.add(i)
    halves = {i for i, layer in enumerate(layers) if layer.param.dtype == torch.float16}
    for i in halves:
        backup = backups.whole(layers[i].param)
        _add_half(layers[i], backup if i in filtered else layers[i].direction, backup, factor_of[i])
    for i in [i for i in parts if not math.isfinite(factor_of[i])]:
        _widen(layers[i], parts.pop(i), backups)  # it makes NaN of zeros too
    _add_parts(layers, parts, factor_of, backups)
    rest = [i for i in range(len(layers)) if i not in halves and i not in parts]
    _add_directions(layers, [i for i in rest if i not in filtered], factor_of, backups)
    _add_backups(layers, [i for i in rest if i in filtered], factor_of, backups, scratch)
    return total(lengths), counts, dense_norms


def _widen(layer: Layer, positions: Tensor, backups: Backups) -> None:
    """Puts the kept direction into the backup, as if the save had been dense."""
    direction = storage_order(layer.direction, layer.param).to(layer.param.dtype)
    whole = storage_order(backups.whole(layer.param)).zero_()
    whole.index_copy_(0, positions.long(), direction.index_select(0, positions))


def _add_parts(
    layers: Sequence[Layer], parts: dict[int, Tensor], factor_of: list[float], backups: Backups
) -> None:
    """Saves w and adds the step at the positions of tensors that are saved in part."""
    for i, positions in parts.items():
        param = layers[i].param
        direction = storage_order(layers[i].direction, param).index_select(0, positions)
        moved = direction.to(param.dtype).mul_(factor_of[i]).add_(backups.keep_part(param, positions))
        storage_order(param).index_copy_(0, positions.long(), moved)


def _add_directions(
    layers: Sequence[Layer], members: list[int], factor_of: list[float], backups: Backups
) -> None:
    """Saves w and adds the step for tensors whose whole direction is used."""
    by_factor: dict[float, list[int]] = {}
    for i in members:
        by_factor.setdefault(factor_of[i], []).append(i)
    for factor, together in by_factor.items():
        params = [layers[i].param for i in together]
        torch._foreach_copy_([backups.whole(param) for param in params], params)
        torch._foreach_add_(params, [layers[i].direction for i in together], alpha=factor)


def _add_backups(
    layers: Sequence[Layer],
    members: list[int],
    factor_of: list[float],
    backups: Backups,
    scratch: Scratch,
) -> None:
    """Saves w and adds the step for tensors whose kept direction lies in the backup."""
    small = [i for i in members if layers[i].param.numel() * 4 <= TOGETHER]
    if small:
        params = [layers[i].param for i in small]
        wholes = [backups.whole(param) for param in params]
        for i, whole in zip(small, wholes, strict=True):
            whole.mul_(factor_of[i])  # _foreach_mul_ would round the factor to bfloat16 first
        moved = torch._foreach_add(params, wholes)
        torch._foreach_copy_(wholes, params)
        torch._foreach_copy_(params, moved)
    for i in [i for i in members if layers[i].param.numel() * 4 > TOGETHER]:
        weights, whole = storage_order(layers[i].param), storage_order(backups.whole(layers[i].param))
        new = buffer(scratch, "score", weights.dtype, 1, weights.numel())[0]
        torch.mul(whole, factor_of[i], out=new).add_(weights)
        whole.copy_(weights)
        weights.copy_(new)


def _add_half(layer: Layer, direction: Tensor, backup: Tensor, factor: float) -> None:
    """Saves w and adds the step in float32: for small gradients the factor is beyond float16's range."""
    moved = layer.param.float().add_(direction, alpha=factor)
    backup.copy_(layer.param)
    layer.param.copy_(moved)
