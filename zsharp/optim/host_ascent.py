"""The ascent on the CPU: numpy's selection and in-place passes over buffers that stay.

Fresh memory is what costs most here: a temporary of a large layer takes several times longer to touch for the first
time than to compute. So the kept gradient is put where the weights are saved afterwards, and all else into scratch
space of the size of the largest layer.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zsharp.optim.filters import STD_FLOOR, rank
from zsharp.optim.layer import Layer, pools, storage_order
from zsharp.optim.radius import factors, norms, total

Scratch = dict[tuple[str, torch.dtype], Tensor]
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
        ||e||, the number of components kept of each tensor, and ||d|| of each.
    """
    values = [layer.direction * layer.scale() if layer.is_adaptive else layer.direction for layer in layers]
    dense_norms = norms(values, torch.device("cpu"))
    kept_norms, counts = dense_norms.clone(), [layer.param.numel() for layer in layers]
    kept_in_backup = set()
    for pool in pools(layers):
        cutoff = (
            _pooled_cutoff(layers, pool, scratch, generator)
            if layers[pool[0]].rules.threshold == "global"
            else None
        )
        for i in pool:
            if float(layers[i].q_p) == 0:
                continue
            kept = storage_order(layers[i].backup)
            counts[i] = _select(layers[i], kept, cutoff, scratch, generator)
            kept.mul_(storage_order(values[i], layers[i].param))
            kept_norms[i] = torch.linalg.vector_norm(kept, dtype=kept_norms.dtype)
            kept_in_backup.add(i)

    found, empty = factors(layers, kept_norms, dense_norms)
    lengths = found * torch.where(empty, dense_norms, kept_norms)
    plain: dict[float, list[int]] = {}
    for i, (factor, is_empty) in enumerate(zip(found.tolist(), empty.tolist(), strict=True)):
        layer = layers[i]
        if is_empty:
            counts[i] = layer.param.numel()
        if i not in kept_in_backup and not layer.is_adaptive:
            plain.setdefault(factor, []).append(i)
            continue
        value = storage_order(
            layer.backup if i in kept_in_backup and not is_empty else values[i], layer.param
        )
        length = _move(layer, value, factor, scratch)
        if length is not None:
            lengths[i] = length
    for factor, members in plain.items():
        params = [layers[i].param for i in members]
        torch._foreach_copy_([layers[i].backup for i in members], params)
        torch._foreach_add_(params, [layers[i].direction for i in members], alpha=factor)
    return total(lengths), counts, dense_norms


def _move(layer: Layer, value: Tensor, factor: float, scratch: Scratch) -> Tensor | None:
    """Saves w and adds the step; returns the step's norm where it is not the factor times the value's."""
    weights, backup = storage_order(layer.param), storage_order(layer.backup)
    moved = _buffer(scratch, "moved", weights.dtype, len(weights))
    if layer.is_adaptive:
        step = value * storage_order(layer.scale(), layer.param)
        torch.add(weights, step, alpha=factor, out=moved)
        length: Tensor | None = torch.linalg.vector_norm(step) * factor
    else:
        torch.add(weights, value, alpha=factor, out=moved)
        length = None
    backup.copy_(weights)
    weights.copy_(moved)
    return length


def _select(
    layer: Layer, mask: Tensor, cutoff: float | None, scratch: Scratch, generator: torch.Generator
) -> int:
    """Writes 1 where a component is kept and 0 elsewhere into `mask`, of any dtype; returns the number kept."""
    if not len(mask):
        return 0
    score = _scores(layer, scratch, generator)
    if cutoff is None:
        ordered = _buffer(scratch, "ordered", score.dtype, len(score)).numpy()
        np.copyto(ordered, score.numpy())
        position = rank(float(layer.q_p), len(score))
        ordered.partition(position)
        cutoff = float(ordered[position])
    # A mask of numbers: multiplying by bools takes four times as long.
    torch.gt(score, cutoff, out=mask)
    exact = mask.dtype == torch.float64 or (mask.dtype == torch.float32 and len(mask) <= _EXACT_COUNT)
    return int(mask.sum(dtype=None if exact else torch.float64))


def _pooled_cutoff(
    layers: Sequence[Layer], pool: list[int], scratch: Scratch, generator: torch.Generator
) -> float:
    state = generator.get_state()
    parts = [_scores(layers[i], scratch, generator).numpy().copy() for i in pool]
    generator.set_state(state)  # the masks draw the same numbers again
    pooled = np.concatenate(parts)
    if not len(pooled):
        return 0.0
    position = rank(float(layers[pool[0]].q_p), len(pooled))
    return float(np.partition(pooled, position)[position])


def _scores(layer: Layer, scratch: Scratch, generator: torch.Generator) -> Tensor:
    """What components are ranked by (`zsharp.optim.filters`), in storage order, in scratch space."""
    direction = storage_order(layer.direction, layer.param)
    if direction.dtype in (torch.float16, torch.bfloat16):
        direction = direction.float()
    score = _buffer(scratch, "score", direction.dtype, len(direction))
    if layer.rules.filter == "random":
        return torch.rand(len(direction), generator=generator, out=score)
    if layer.rules.filter == "magnitude":
        return torch.abs(direction, out=score)
    mean = np.add.reduce(direction.numpy(), dtype=np.float64) / max(1, len(direction))
    np.subtract(direction.numpy(), direction.numpy().dtype.type(mean), out=score.numpy())
    score.abs_()
    if layer.rules.threshold == "global":
        score /= torch.linalg.vector_norm(score) / max(1, len(score)) ** 0.5 + STD_FLOOR
    return score


def _buffer(scratch: Scratch, name: str, dtype: torch.dtype, length: int) -> Tensor:
    """Returns scratch space that is at least that long, cut to length."""
    buffer = scratch.get((name, dtype))
    if buffer is None or len(buffer) < length:
        buffer = scratch[name, dtype] = torch.empty(length, dtype=dtype)
    return buffer[:length]
