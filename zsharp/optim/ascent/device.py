"""The ascent on any device: tensor operations only, static shapes, nothing read back to the host.

`torch.compile` traces this path on the CPU too.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from zsharp.optim.ascent.backups import Backups
from zsharp.optim.ascent.filters import masks
from zsharp.optim.ascent.layer import Layer, key_of, pools
from zsharp.optim.ascent.radius import factors, norms, total


def ascend(
    layers: Sequence[Layer],
    backups: Backups,
    home: torch.device,
    generators: dict[torch.device, torch.Generator],
) -> tuple[Tensor, Tensor, Tensor]:
    """Moves the weights of `layers` to w + e and leaves w in `backups`.

    `layers` has at least one tensor, none skipped, on any devices; norms are computed on `home`.

    Returns:
        ||e||, the number of components kept of each tensor (int64 [L]), and ||T d|| of each, all on `home`.
    """
    directions = [layer.direction for layer in layers]
    scales = _scales(layers)
    dense = directions if scales is None else _times(directions, scales)
    kept_masks = _masks(layers, generators)
    kept = [d if mask is None else torch.where(mask, d, 0) for d, mask in zip(dense, kept_masks, strict=True)]
    any_filter = any(mask is not None for mask in kept_masks)
    dense_norms = norms(dense, home)
    kept_norms = norms(kept, home) if any_filter else dense_norms
    factor_of, empty = factors(layers, kept_norms, dense_norms)
    # Where nothing is kept the unfiltered direction is used.

    steps = [
        direction if mask is None else torch.where(empty[i].to(direction.device), dense[i], direction)
        for i, (direction, mask) in enumerate(zip(kept, kept_masks, strict=True))
    ]
    steps = _scaled(steps if scales is None else _times(steps, scales), factor_of)
    counts = full_counts(tuple(layer.param.numel() for layer in layers), home)
    if any_filter:
        num_kept = [
            counts[i] if mask is None else torch.where(empty[i], counts[i], mask.sum().to(home))
            for i, mask in enumerate(kept_masks)
        ]
        counts = torch.stack(num_kept)
    lengths = (
        factor_of * torch.where(empty, dense_norms, kept_norms) if scales is None else norms(steps, home)
    )
    params = [layer.param for layer in layers]
    torch._foreach_copy_([backups.buffer(param) for param in params], params)
    torch._foreach_add_(params, steps)
    return total(lengths), counts, dense_norms


def full_counts(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns the numbers of components, int64 [L]; cached, because a CUDA graph cannot hold a copy from the host."""
    if torch.compiler.is_compiling():
        return torch.tensor(sizes, dtype=torch.int64, device=device)
    return _full_counts(sizes, device)


@lru_cache(maxsize=64)
def _full_counts(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(sizes, dtype=torch.int64, device=device)


def _scales(layers: Sequence[Layer]) -> list[Tensor] | None:
    """Returns ASAM's T of each tensor, 1 for those of other ascents; None if no tensor uses ASAM."""
    if not any(layer.is_adaptive for layer in layers):
        return None
    if all(layer.is_adaptive and layer.eta == layers[0].eta for layer in layers):
        scales: tuple[Tensor, ...] = torch._foreach_abs([layer.param for layer in layers])
        torch._foreach_add_(scales, layers[0].eta)
        return list(scales)
    return [layer.scale() if layer.is_adaptive else torch.ones_like(layer.param) for layer in layers]


def _times(values: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    products: tuple[Tensor, ...] = torch._foreach_mul(values, others)
    return list(products)


def _scaled(steps: list[Tensor], factor_of: Tensor) -> list[Tensor]:
    """Returns each step times its factor, rounded to its own dtype last: a factor may exceed float16's range."""
    is_one_factor = len(steps) == 1 or factor_of.stride(0) == 0  # `factors` expands a single number
    if is_one_factor and all(
        step.dtype == factor_of.dtype and step.device == factor_of.device for step in steps
    ):
        products: tuple[Tensor, ...] = torch._foreach_mul(steps, factor_of[0])
        return list(products)
    scaled = []
    for step, factor in zip(steps, factor_of, strict=True):
        here = factor.to(step.device)
        scaled.append((step.to(here.dtype) * here).to(step.dtype))
    return scaled


def _masks(layers: Sequence[Layer], generators: dict[torch.device, torch.Generator]) -> list[Tensor | None]:
    """Returns the masks of the filtered tensors; those of one percentile and device are ranked together."""
    kept_masks: list[Tensor | None] = [None] * len(layers)
    batches: dict[tuple[object, ...], list[int]] = {}
    for pool in pools(layers):
        for i in pool:
            layer = layers[i]
            key = (layer.rules.filter, layer.rules.threshold, key_of(layer.q_p), layer.direction.device)
            batches.setdefault(key, []).append(i)
    for members in batches.values():
        first = layers[members[0]]
        directions = [layers[i].direction for i in members]
        generator = generators.get(first.direction.device)
        ranked = masks(directions, first.q_p, first.rules.filter, first.rules.threshold, generator)
        for i, mask in zip(members, ranked, strict=True):
            kept_masks[i] = mask
    return kept_masks
