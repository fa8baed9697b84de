"""The ascent over sharded parameters (FSDP2): every process moves its own shard, by statistics of the whole tensors.

No tensor is gathered. What a percentile needs of the other shards is found by radix selection: the scores are not
negative, so that their bits sort as they do, and eight bits at a time each process counts its scores by digit. A step
costs six all-reduces, whatever the number of tensors: one of sums, for the means; one of counts for each of the four
digits of float32; one of squared norms. That is 8 + 4 * 1024 + 5 * 8 bytes for each filtered tensor. A threshold that
is pooled over tensors costs one more.

Means are summed in float64 and rounded once, so that masks equal those of whole tensors bit for bit; only a pooled
threshold, which divides by standard deviations, may differ where two scores are equal up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zsharp.optim.ascent.backups import Backups
from zsharp.optim.ascent.filters import RANK_TOLERANCE, STD_FLOOR
from zsharp.optim.ascent.layer import Layer, is_sharded, number, pools
from zsharp.optim.ascent.layer import local_part as local
from zsharp.optim.ascent.radius import factors, total

_DIGIT_BITS = 8
_NUM_DIGITS = 2**_DIGIT_BITS
# Components whose digits are counted in one call: few launches, and memory that does not grow with the model.
_TOGETHER = 2**24


def supports(layers: Sequence[Layer]) -> bool:
    """Returns whether the parameters are sharded; `zsharp.optim.checks` refuses a mixture."""
    return any(is_sharded(layer.param) for layer in layers)


def ascend(
    layers: Sequence[Layer], backups: Backups, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Moves this process's shards to w + e and leaves w in `backups`; all processes call it together.

    `layers` has at least one tensor, none skipped, all sharded over one group of processes.

    Args:
        generator: For the random filter, in the same state in all processes.

    Returns:
        ||e||, the number of components kept of each whole tensor (int64 [L]), and ||T d|| of each.
    """
    directions = [local(layer.direction) for layer in layers]
    scales = [local(layer.scale()) if layer.is_adaptive else None for layer in layers]
    dense = [d if t is None else d * t for d, t in zip(directions, scales, strict=True)]
    kept = list(dense)
    counts = [torch.full((), value.numel(), device=value.device) for value in dense]
    for i, mask in _masks(layers, directions, generator).items():
        kept[i], counts[i] = torch.where(mask, dense[i], 0), mask.sum()

    # With ASAM the step is T times what is kept, and its length is not known from the norm of that.
    kept_steps = [value if t is None else value * t for value, t in zip(kept, scales, strict=True)]
    dense_steps = [value if t is None else value * t for value, t in zip(dense, scales, strict=True)]
    rows = [
        torch.stack([_square(value) for value in values]) for values in (kept, dense, kept_steps, dense_steps)
    ]
    sums = _all_reduce(torch.stack([*rows, torch.stack(counts).double()]), layers)
    wide = torch.float64 if any(d.dtype == torch.float64 for d in directions) else torch.float32
    kept_norms, dense_norms, kept_lengths, dense_lengths = sums[:4].sqrt().to(wide)
    factor_of, empty = factors(layers, kept_norms, dense_norms)
    sizes = [torch.full_like(sums[4, i], layer.param.numel()) for i, layer in enumerate(layers)]
    num_kept = torch.where(empty, torch.stack(sizes), sums[4]).long()
    lengths = factor_of * torch.where(empty, dense_lengths, kept_lengths)
    for i, layer in enumerate(layers):
        step = torch.where(empty[i], dense_steps[i], kept_steps[i])
        weights = local(layer.param)
        backups.buffer(layer.param).copy_(weights)
        weights.copy_(weights + step.to(wide) * factor_of[i])
    return total(lengths), num_kept, dense_norms


def norms(values: Sequence[Tensor]) -> Tensor:
    """Returns the 2-norms of whole tensors from their shards, shape [L]; all processes call it together."""
    wide = torch.float64 if any(value.dtype == torch.float64 for value in values) else torch.float32
    squares = torch.stack([_square(local(value)) for value in values])
    return _all_reduce(squares, values).sqrt().to(wide)


def total_sums(values: Sequence[Tensor]) -> Tensor:
    """Returns the sum of each whole tensor from its shards, float64 [L]; all processes call it together."""
    return _all_reduce(torch.stack([local(value).sum(dtype=torch.float64) for value in values]), values)


def _masks(
    layers: Sequence[Layer], directions: Sequence[Tensor], generator: torch.Generator
) -> dict[int, Tensor]:
    """Returns which components of this process's shards are kept, for the filtered tensors that have any."""
    units = [pool for pool in pools(layers) if sum(layers[i].param.numel() for i in pool)]
    members = [i for unit in units for i in unit]
    if not members:
        return {}
    scores = _scores(layers, directions, members, generator)
    unit_of = {i: unit for unit, pool in enumerate(units) for i in pool}
    sizes = [sum(layers[i].param.numel() for i in pool) for pool in units]
    home = directions[members[0]].device
    percentiles = torch.stack([number(layers[pool[0]].q_p, torch.float64, home) for pool in units])
    last = torch.stack([torch.full((), size - 1, dtype=torch.float64, device=home) for size in sizes])
    ranks = (percentiles * last + RANK_TOLERANCE).long()
    cutoffs = _order_statistics(scores, unit_of, ranks, max(sizes), layers)
    cutoffs = torch.where(percentiles == 0, -1.0, cutoffs)
    return {i: (score > cutoffs[unit_of[i]]).view(directions[i].shape) for i, score in scores.items()}


def _scores(
    layers: Sequence[Layer], directions: Sequence[Tensor], members: Sequence[int], generator: torch.Generator
) -> dict[int, Tensor]:
    """Returns what components are ranked by (`zsharp.optim.ascent.filters`), 1-d, for each member's shard."""
    wide = torch.float64 if any(directions[i].dtype == torch.float64 for i in members) else torch.float32
    flat = {i: directions[i].reshape(-1).to(wide) for i in members}
    centred = [i for i in members if layers[i].rules.filter == "zscore"]
    if centred:
        sums = _all_reduce(torch.stack([flat[i].sum(dtype=torch.float64) for i in centred]), layers)
        for i, total_of in zip(centred, sums, strict=True):
            flat[i] = flat[i] - (total_of / layers[i].param.numel()).to(directions[i].dtype)
    pooled = [i for i in centred if layers[i].rules.threshold == "global"]
    if pooled:
        squares = _all_reduce(torch.stack([_square(flat[i]) for i in pooled]), layers)
        for i, square in zip(pooled, squares, strict=True):
            flat[i] = flat[i] / ((square / layers[i].param.numel()).sqrt().to(wide) + STD_FLOOR)
    for i in members:
        if layers[i].rules.filter == "random":
            flat[i] = _random(layers[i].param, wide, generator)
    return {i: score.abs() for i, score in flat.items()}


def _random(param: Any, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Returns this shard's part of the whole tensor's random numbers, 1-d: all processes draw the same ones."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    numbers = torch.rand(param.shape, dtype=dtype, device=generator.device, generator=generator)
    shape, offset = compute_local_shape_and_global_offset(param.shape, param.device_mesh, param.placements)
    for dim, (size, start) in enumerate(zip(shape, offset, strict=True)):
        numbers = numbers.narrow(dim, min(start, numbers.shape[dim] - size), size)
    return numbers.reshape(-1)


def _order_statistics(
    scores: dict[int, Tensor],
    unit_of: dict[int, int],
    ranks: Tensor,
    largest: int,
    layers: Sequence[Layer],
) -> Tensor:
    """Returns the score of each rank (from 0) among all shards' scores of a unit, shape [U]: radix selection.

    Args:
        scores: At least 0, 1-d, by tensor.
        unit_of: Which threshold each tensor belongs to.
        ranks: The wanted rank in each unit, int64 [U].
        largest: Components of the largest unit.
    """
    dtype = next(iter(scores.values())).dtype
    as_integer = torch.int64 if dtype == torch.float64 else torch.int32
    buckets = _buckets(scores, unit_of, as_integer)
    left = ranks.clone()
    prefix = torch.zeros(len(ranks), dtype=as_integer, device=ranks.device)
    num_bits = torch.iinfo(as_integer).bits
    for shift in range(num_bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        # Sent as int32 where that can count the components.
        count_type = torch.int32 if largest < 2**31 else torch.int64
        counts = torch.zeros(len(ranks) * _NUM_DIGITS, dtype=count_type, device=ranks.device)
        for keys, units in buckets:
            slots = units * _NUM_DIGITS + ((keys >> shift) & (_NUM_DIGITS - 1))
            if shift + _DIGIT_BITS == num_bits:
                takes_part = torch.ones_like(keys, dtype=count_type)
            else:
                takes_part = ((keys ^ prefix[units]) >> (shift + _DIGIT_BITS) == 0).to(count_type)
            counts.scatter_add_(0, slots, takes_part)
        up_to = _all_reduce(counts, layers).view(len(ranks), _NUM_DIGITS).cumsum(1)
        digits = (up_to <= left[:, None]).sum(1, keepdim=True).clamp(max=_NUM_DIGITS - 1)
        before = up_to.gather(1, (digits - 1).clamp(min=0)).squeeze(1)
        digits = digits.squeeze(1)
        left = left - torch.where(digits > 0, before, 0)
        prefix = prefix | (digits << shift).to(as_integer)
    scores_at: Tensor = prefix.view(dtype)
    return scores_at


def _buckets(
    scores: dict[int, Tensor], unit_of: dict[int, int], as_integer: torch.dtype
) -> list[tuple[Tensor, Tensor]]:
    """Returns the scores' bits as integers with the unit of each (int64), several tensors at once."""
    together: list[list[int]] = []
    size = 0
    for i, score in scores.items():
        if not together or size + score.numel() > _TOGETHER:
            together.append([])
            size = 0
        together[-1].append(i)
        size += score.numel()
    return [
        (
            torch.cat([scores[i].view(as_integer) for i in bucket]),
            torch.cat([torch.full_like(scores[i], unit_of[i], dtype=torch.int64) for i in bucket]),
        )
        for bucket in together
    ]


def _square(value: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(value, dtype=torch.float64)
    return norm.square()


def _all_reduce(values: Tensor, sharded: Sequence[Layer] | Sequence[Tensor]) -> Tensor:
    """Returns the sum over all processes that hold a shard, on the device of `values`."""
    from torch.distributed import all_reduce

    first: Any = sharded[0].param if isinstance(sharded[0], Layer) else sharded[0]
    mesh = first.device_mesh
    dim = next(i for i, placement in enumerate(first.placements) if placement.is_shard())
    # With offloading the shards are on the host, where the group may not be able to talk.
    sent = values.to(mesh.device_type)
    all_reduce(sent, group=mesh.get_group(dim))
    summed: Tensor = sent.to(values.device)
    return summed
