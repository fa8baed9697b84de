"""Selects the kept components on the CPU: numpy's selection and scratch space, tensors of one size together."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zsharp.optim.ascent.backups import Backups
from zsharp.optim.ascent.filters import STD_FLOOR, rank
from zsharp.optim.ascent.layer import Layer, pools, storage_order
from zsharp.optim.ascent.order_statistic import order_statistic

Scratch = dict[tuple[str, torch.dtype], Tensor]
TOGETHER = 2**18  # components that are ranked, or moved, in one call
_EXACT_COUNT = 2**24  # float32 holds all integers up to here


def batches(layers: Sequence[Layer], generator: torch.Generator) -> list[tuple[list[int], float | None]]:
    """Returns filtered tensors of one size and setting, to be ranked in one call, with their cutoff if it is pooled."""
    all_batches: list[tuple[list[int], float | None]] = []
    by_size: dict[tuple[object, ...], list[int]] = {}
    for pool in pools(layers):
        first = layers[pool[0]]
        if float(first.q_p) == 0:
            continue
        if first.rules.threshold == "global":
            cutoff = _pooled_cutoff([layers[i] for i in pool], generator)
            all_batches += [([i], cutoff) for i in pool]
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
        all_batches += [(members[i : i + num], None) for i in range(0, len(members), num)]
    return all_batches


def keep(
    layers: Sequence[Layer],
    values: Sequence[Tensor],
    members: list[int],
    cutoff: float | None,
    backups: Backups,
    scratch: Scratch,
    generator: torch.Generator,
) -> tuple[list[float], Tensor]:
    """Writes the kept components of tensors of one size to their backups, and zeros elsewhere.

    Args:
        values: T d of each.
        members: Which of them, as `batches` grouped them.
        cutoff: Pooled over more tensors than these; None to rank each by itself.
        backups: The kept components stay there until w takes their room.

    Returns:
        How many components are kept of each member, and their norms.
    """
    layer = layers[members[0]]
    num = layer.param.numel()
    wide = torch.float64 if layer.direction.dtype == torch.float64 else torch.float32
    if num == 0:
        return [0.0] * len(members), torch.zeros(len(members), dtype=wide)
    flat_directions = [storage_order(layers[i].direction, layers[i].param) for i in members]
    directions = _rows(flat_directions, "directions", scratch)
    score = buffer(scratch, "score", wide, len(members), num)
    _rank(directions if directions.dtype == wide else directions.to(wide), layer, score, generator)
    if cutoff is None:
        cutoffs = torch.from_numpy(order_statistic(score.numpy(), rank(float(layer.q_p), num)))[:, None]
    else:
        cutoffs = torch.full((1, 1), cutoff, dtype=wide)
    flat_backups = [storage_order(backups.buffer(layers[i].param)) for i in members]
    if len(members) == 1:
        kept = flat_backups[0].view(1, -1)
    else:
        kept = buffer(scratch, "kept", layer.param.dtype, len(members), num)
    # A mask of numbers: multiplying by bools takes four times as long.
    torch.gt(score, cutoffs, out=kept)
    is_exact = kept.dtype == torch.float64 or (kept.dtype == torch.float32 and num <= _EXACT_COUNT)
    counts: list[float] = kept.sum(1, dtype=None if is_exact else torch.float64).tolist()
    if all(values[i] is layers[i].direction for i in members):
        kept.mul_(directions)
    else:  # ASAM's
        kept.mul_(_rows([storage_order(values[i], layers[i].param) for i in members], "values", scratch))
    if len(members) > 1:
        torch._foreach_copy_(flat_backups, list(kept))
    return counts, torch.linalg.vector_norm(kept, dim=1, dtype=wide)


def _rank(directions: Tensor, layer: Layer, score: Tensor, generator: torch.Generator) -> None:
    """Writes what components are ranked by (`zsharp.optim.ascent.filters`) into `score`, both [m, n]."""
    if layer.rules.filter == "random":
        torch.rand(score.shape, generator=generator, out=score)
    elif layer.rules.filter == "magnitude":
        torch.abs(directions, out=score)
    else:
        with np.errstate(invalid="ignore"):  # infinities, where a scaled loss overflowed
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
    pooled = torch.cat(parts)
    return float(order_statistic(pooled[None].numpy(), rank(float(layers[0].q_p), len(pooled)))[0])


def _rows(tensors: Sequence[Tensor], name: str, scratch: Scratch) -> Tensor:
    """Returns 1-d tensors of one size as the rows of [m, n]: a copy in scratch space, or a view of a single tensor."""
    if len(tensors) == 1:
        return tensors[0].view(1, -1)
    rows = buffer(scratch, name, tensors[0].dtype, len(tensors), tensors[0].numel())
    return torch.stack(list(tensors), out=rows)


def buffer(scratch: Scratch, name: str, dtype: torch.dtype, num_rows: int, num_columns: int) -> Tensor:
    """Returns scratch space of shape [num_rows, num_columns]; its earlier content is lost."""
    num = num_rows * num_columns
    buffer = scratch.get((name, dtype))
    if buffer is None or buffer.numel() < num:
        buffer = scratch[name, dtype] = torch.empty(num, dtype=dtype)
    return buffer[:num].view(num_rows, num_columns)
