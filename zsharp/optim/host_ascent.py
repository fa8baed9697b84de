"""The ascent on the CPU: numpy's selection and in-place passes over buffers that stay.

Fresh memory is what costs most here: a temporary of a large layer takes several times longer to touch for the first
time than to compute. So the kept direction is put where the weights are saved afterwards, and all else into scratch
space of the size of the largest layer. Small tensors cost calls instead; those of one size are ranked together.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zsharp.optim.filters import STD_FLOOR, rank
from zsharp.optim.layer import Layer, pools, storage_order
from zsharp.optim.radius import factors, norms, total

Scratch = dict[tuple[str, torch.dtype], Tensor]
_HOME = torch.device("cpu")
_TOGETHER = 2**18  # components that are ranked, or moved, in one call
_EXACT_COUNT = 2**24  # integers that float32 holds


def ascend(
    layers: Sequence[Layer], scratch: Scratch, generator: torch.Generator
) -> tuple[Tensor, list[int], Tensor]:
    """Moves the weights of `layers` to w + e and leaves w in their backups.

    Args:
        layers: At least one tensor, none skipped, all on the CPU.
        scratch: Kept from call to call.
        generator: Source of the random filter's numbers.

    Returns:
        ||e||, the number of components kept of each tensor, and ||T d|| of each.
    """
    values = [layer.direction * layer.scale() if layer.is_adaptive else layer.direction for layer in layers]
    dense_norms = norms(values, _HOME)
    kept_norms, counts = dense_norms, [layer.param.numel() for layer in layers]
    filtered: set[int] = set()
    for members, cutoff in _batches(layers, generator):
        if not filtered:
            kept_norms = dense_norms.clone()
        kept_counts, norms_of_kept = _filter(layers, values, members, cutoff, scratch, generator)
        for i, count, norm in zip(members, kept_counts, norms_of_kept, strict=True):
            counts[i], kept_norms[i] = int(count), norm
        filtered.update(members)

    found, empty = factors(layers, kept_norms, dense_norms)
    lengths = found * torch.where(empty, dense_norms, kept_norms)
    factor_of = found.tolist()
    for i in [i for i in filtered if empty[i]] if filtered else []:
        filtered.discard(i)  # nothing is kept of it: the whole direction is used
        counts[i] = layers[i].param.numel()
    for i, layer in enumerate(layers):
        if layer.is_adaptive:
            step = storage_order(layer.backup)
            value = step if i in filtered else storage_order(values[i], layer.param)
            torch.mul(value, storage_order(layer.scale(), layer.param), out=step)
            lengths[i] = torch.linalg.vector_norm(step, dtype=lengths.dtype) * factor_of[i]
            filtered.add(i)
    halves = {i for i, layer in enumerate(layers) if layer.param.dtype == torch.float16}
    for i in halves:
        _add_half(layers[i], layers[i].backup if i in filtered else layers[i].direction, factor_of[i])
    whole = [i for i in range(len(layers)) if i not in halves]
    _add_directions(layers, [i for i in whole if i not in filtered], factor_of)
    _add_backups(layers, [i for i in whole if i in filtered], factor_of, scratch)
    return total(lengths), counts, dense_norms


def _batches(layers: Sequence[Layer], generator: torch.Generator) -> list[tuple[list[int], float | None]]:
    """Filtered tensors of one size and setting, to be ranked in one call; with their cutoff where it is pooled."""
    found: list[tuple[list[int], float | None]] = []
    by_size: dict[tuple[object, ...], list[int]] = {}
    for pool in pools(layers):
        first = layers[pool[0]]
        if float(first.q_p) == 0:
            continue
        if first.rules.threshold == "global":
            cutoff = _pooled_cutoff([layers[i] for i in pool], generator)
            found += [([i], cutoff) for i in pool]
            continue
        key = (
            first.rules.filter,
            float(first.q_p),
            first.param.shape.numel(),
            first.direction.dtype,
            first.param.dtype,
        )
        by_size.setdefault(key, []).append(pool[0])
    for members in by_size.values():
        num = max(1, _TOGETHER // max(1, layers[members[0]].param.numel()))
        found += [(members[i : i + num], None) for i in range(0, len(members), num)]
    return found


def _filter(
    layers: Sequence[Layer],
    values: Sequence[Tensor],
    members: list[int],
    cutoff: float | None,
    scratch: Scratch,
    generator: torch.Generator,
) -> tuple[list[float], Tensor]:
    """Puts the kept components of tensors of one size into their backups; returns their numbers and norms."""
    layer = layers[members[0]]
    num = layer.param.numel()
    wide = torch.float64 if layer.direction.dtype == torch.float64 else torch.float32
    if num == 0:
        return [0.0] * len(members), torch.zeros(len(members), dtype=wide)
    directions = _rows(
        [storage_order(layers[i].direction, layers[i].param) for i in members], "directions", scratch
    )
    score = _buffer(scratch, "score", wide, len(members), num)
    _rank(directions if directions.dtype == wide else directions.to(wide), layer, score, generator)
    if cutoff is None:
        ordered = _buffer(scratch, "ordered", wide, len(members), num)
        ordered.copy_(score)
        position = rank(float(layer.q_p), num)
        ordered.numpy().partition(position, axis=1)
        cutoffs = ordered[:, position : position + 1]
    else:
        cutoffs = torch.full((1, 1), cutoff, dtype=wide)
    backups = [storage_order(layers[i].backup) for i in members]
    alone = len(members) == 1
    kept = backups[0].view(1, -1) if alone else _buffer(scratch, "kept", layer.param.dtype, len(members), num)
    # A mask of numbers: multiplying by bools takes four times as long.
    torch.gt(score, cutoffs, out=kept)
    is_exact = kept.dtype == torch.float64 or (kept.dtype == torch.float32 and num <= _EXACT_COUNT)
    counts = kept.sum(1, dtype=None if is_exact else torch.float64)
    is_same = layer.is_adaptive is False and all(values[i] is layers[i].direction for i in members)
    kept.mul_(
        directions
        if is_same
        else _rows([storage_order(values[i], layers[i].param) for i in members], "values", scratch)
    )
    if not alone:
        torch._foreach_copy_(backups, list(kept.unbind()))
    found_counts: list[float] = counts.tolist()
    return found_counts, torch.linalg.vector_norm(kept, dim=1, dtype=wide)


def _rank(directions: Tensor, layer: Layer, score: Tensor, generator: torch.Generator) -> None:
    """Writes what components are ranked by (`zsharp.optim.filters`) into `score`, both [m, n]."""
    if layer.rules.filter == "random":
        torch.rand(score.shape, generator=generator, out=score)
    elif layer.rules.filter == "magnitude":
        torch.abs(directions, out=score)
    else:
        with np.errstate(invalid="ignore"):  # infinities, of a loss scaled too far
            means = (
                np.add.reduce(directions.numpy(), axis=1, dtype=np.float64, keepdims=True) / score.shape[1]
            )
            np.subtract(directions.numpy(), means.astype(directions.numpy().dtype), out=score.numpy())
        score.abs_()
        if layer.rules.threshold == "global":
            score /= torch.linalg.vector_norm(score, dim=1, keepdim=True) / score.shape[1] ** 0.5 + STD_FLOOR


def _pooled_cutoff(layers: Sequence[Layer], generator: torch.Generator) -> float:
    state = generator.get_state()
    parts = []
    for layer in (layer for layer in layers if layer.param.numel()):
        direction = storage_order(layer.direction, layer.param).view(1, -1)
        wide = direction if direction.dtype == torch.float64 else direction.float()
        score = torch.empty_like(wide)
        _rank(wide, layer, score, generator)
        parts.append(score.view(-1))
    generator.set_state(state)  # the masks draw the same numbers again
    if not parts:
        return 0.0
    pooled = torch.cat(parts).numpy()
    position = rank(float(layers[0].q_p), len(pooled))
    return float(np.partition(pooled, position)[position])


def _add_directions(layers: Sequence[Layer], members: list[int], factor_of: list[float]) -> None:
    """Saves w and adds the step for tensors whose whole direction is used."""
    by_factor: dict[float, list[int]] = {}
    for i in members:
        by_factor.setdefault(factor_of[i], []).append(i)
    for factor, together in by_factor.items():
        params = [layers[i].param for i in together]
        torch._foreach_copy_([layers[i].backup for i in together], params)
        torch._foreach_add_(params, [layers[i].direction for i in together], alpha=factor)


def _add_backups(
    layers: Sequence[Layer], members: list[int], factor_of: list[float], scratch: Scratch
) -> None:
    """Saves w and adds the step for tensors whose kept direction lies in the backup."""
    small = [i for i in members if layers[i].param.numel() * 4 <= _TOGETHER]
    if small:
        params, backups = [layers[i].param for i in small], [layers[i].backup for i in small]
        torch._foreach_mul_(backups, [factor_of[i] for i in small])
        moved = torch._foreach_add(params, backups)
        torch._foreach_copy_(backups, params)
        torch._foreach_copy_(params, moved)
    for i in [i for i in members if layers[i].param.numel() * 4 > _TOGETHER]:
        weights, backup = storage_order(layers[i].param), storage_order(layers[i].backup)
        new = _buffer(scratch, "score", weights.dtype, 1, weights.numel())[0]
        torch.add(weights, backup, alpha=factor_of[i], out=new)
        backup.copy_(weights)
        weights.copy_(new)


def _add_half(layer: Layer, direction: Tensor, factor: float) -> None:
    """Saves w and adds the step in float32: for small gradients the factor is beyond float16's range."""
    moved = layer.param.float().add_(direction, alpha=factor)
    layer.backup.copy_(layer.param)
    layer.param.copy_(moved)


def _rows(tensors: Sequence[Tensor], name: str, scratch: Scratch) -> Tensor:
    """1-d tensors of one size as the rows of [m, n]; a copy in scratch space unless there is only one."""
    if len(tensors) == 1:
        return tensors[0].view(1, -1)
    rows = _buffer(scratch, name, tensors[0].dtype, len(tensors), tensors[0].numel())
    return torch.stack(list(tensors), out=rows)


def _buffer(scratch: Scratch, name: str, dtype: torch.dtype, num_rows: int, num_columns: int) -> Tensor:
    """Scratch space of shape [num_rows, num_columns]; what it held before is lost."""
    num = num_rows * num_columns
    buffer = scratch.get((name, dtype))
    if buffer is None or buffer.numel() < num:
        buffer = scratch[name, dtype] = torch.empty(num, dtype=dtype)
    return buffer[:num].view(num_rows, num_columns)
