"""Which components the CPU keeps: numpy's selection over scratch space, tensors of one size together."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zsharp.optim.ascent.backups import Backups, index_dtype
from zsharp.optim.ascent.filters import STD_FLOOR, rank
from zsharp.optim.ascent.layer import Layer, pools, storage_order

Scratch = dict[tuple[str, torch.dtype], Tensor]
TOGETHER = 2**18  # components that are ranked, or moved, in one call
_EXACT_COUNT = 2**24  # integers that float32 holds
_BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16}


def batches(layers: Sequence[Layer], generator: torch.Generator) -> list[tuple[list[int], float | None]]:
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
        num = max(1, TOGETHER // max(1, layers[members[0]].param.numel()))
        found += [(members[i : i + num], None) for i in range(0, len(members), num)]
    return found


def find_kept(
    layers: Sequence[Layer],
    values: Sequence[Tensor],
    members: list[int],
    cutoff: float | None,
    backups: Backups,
    scratch: Scratch,
    generator: torch.Generator,
) -> tuple[list[float], Tensor, dict[int, Tensor]]:
    """Finds the kept components of tensors of one size.

    Returns:
        How many there are of each tensor, their norms, and the positions of those to be saved in part; the others'
        kept components are put into their backups.
    """
    layer = layers[members[0]]
    num = layer.param.numel()
    wide = torch.float64 if layer.direction.dtype == torch.float64 else torch.float32
    if num == 0:
        return [0.0] * len(members), torch.zeros(len(members), dtype=wide), {}
    directions = _rows(
        [storage_order(layers[i].direction, layers[i].param) for i in members], "directions", scratch
    )
    score = buffer(scratch, "score", wide, len(members), num)
    _rank(directions if directions.dtype == wide else directions.to(wide), layer, score, generator)
    if cutoff is None:
        ordered = buffer(scratch, "ordered", wide, len(members), num)
        ordered.copy_(score)
        position = rank(float(layer.q_p), num)
        ordered.numpy().partition(position, axis=1)
        cutoffs = ordered[:, position : position + 1].clone()
    else:
        cutoffs = torch.full((1, 1), cutoff, dtype=wide)
    in_place = len(members) == 1 and not _may_be_part(layer, backups)
    if in_place:
        kept = storage_order(backups.whole(layer.param)).view(1, -1)
    else:
        kept = buffer(scratch, "ordered", layer.param.dtype, len(members), num)
    # A mask of numbers: multiplying by bools takes four times as long.
    torch.gt(score, cutoffs, out=kept)
    is_exact = kept.dtype == torch.float64 or (kept.dtype == torch.float32 and num <= _EXACT_COUNT)
    counts: list[float] = kept.sum(1, dtype=None if is_exact else torch.float64).tolist()
    positions = {
        i: _positions(row)
        for i, row, count in zip(members, kept, counts, strict=True)
        if _may_be_part(layers[i], backups) and backups.is_smaller_in_part(layers[i].param, int(count))
    }
    is_same = layer.is_adaptive is False and all(values[i] is layers[i].direction for i in members)
    kept.mul_(
        directions
        if is_same
        else _rows([storage_order(values[i], layers[i].param) for i in members], "values", scratch)
    )
    whole = [] if in_place else [j for j, i in enumerate(members) if i not in positions]
    if whole:
        wholes = [storage_order(backups.whole(layers[members[j]].param)) for j in whole]
        torch._foreach_copy_(wholes, [kept[j] for j in whole])
    return counts, torch.linalg.vector_norm(kept, dim=1, dtype=wide), positions


def _rank(directions: Tensor, layer: Layer, score: Tensor, generator: torch.Generator) -> None:
    """Writes what components are ranked by (`zsharp.optim.ascent.filters`) into `score`, both [m, n]."""
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


def _may_be_part(layer: Layer, backups: Backups) -> bool:
    """Whether only the kept components may be saved: float16 and ASAM go through the whole tensor anyway."""
    return backups.save == "sparse" and not layer.is_adaptive and layer.param.dtype in _BITS


def _positions(mask: Tensor) -> Tensor:
    """Where a mask of numbers is not zero."""
    bits = mask.view(_BITS[mask.dtype]).numpy()  # numpy knows no bfloat16
    return torch.from_numpy(np.flatnonzero(bits != 0)).to(index_dtype(mask.numel()))


def _rows(tensors: Sequence[Tensor], name: str, scratch: Scratch) -> Tensor:
    """1-d tensors of one size as the rows of [m, n]; a copy in scratch space unless there is only one."""
    if len(tensors) == 1:
        return tensors[0].view(1, -1)
    rows = buffer(scratch, name, tensors[0].dtype, len(tensors), tensors[0].numel())
    return torch.stack(list(tensors), out=rows)


def buffer(scratch: Scratch, name: str, dtype: torch.dtype, num_rows: int, num_columns: int) -> Tensor:
    """Scratch space of shape [num_rows, num_columns]; what it held before is lost."""
    num = num_rows * num_columns
    buffer = scratch.get((name, dtype))
    if buffer is None or buffer.numel() < num:
        buffer = scratch[name, dtype] = torch.empty(num, dtype=dtype)
    return buffer[:num].view(num_rows, num_columns)
