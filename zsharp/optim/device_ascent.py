"""The ascent on any device: tensor operations only, static shapes, nothing read back to the host.

Also what `torch.compile` traces, on the CPU too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsharp.optim.backups import Backups
from zsharp.optim.filters import masks
from zsharp.optim.layer import Layer, pools
from zsharp.optim.radius import factors, norms, total


def ascend(
    layers: Sequence[Layer],
    backups: Backups,
    home: torch.device,
    generators: dict[torch.device, torch.Generator],
) -> tuple[Tensor, Tensor, Tensor]:
    """Moves the weights of `layers` to w + e and leaves w in `backups`, whole.

    Args:
        layers: At least one tensor, none skipped; tensors may lie on several devices.
        backups: Where w is saved.
        home: The device that norms are taken on.
        generators: Sources of the random filter's numbers, by device.

    Returns:
        ||e||, the number of components kept of each tensor (int64 [L]), and ||T d|| of each, all on `home`.
    """
    scales = [layer.scale() if layer.is_adaptive else None for layer in layers]
    dense = [
        layer.direction if t is None else layer.direction * t for layer, t in zip(layers, scales, strict=True)
    ]
    kept_masks = _masks(layers, generators)
    kept = [d if mask is None else torch.where(mask, d, 0) for d, mask in zip(dense, kept_masks, strict=True)]
    dense_norms = norms(dense, home)
    any_filter = any(mask is not None for mask in kept_masks)
    kept_norms = norms(kept, home) if any_filter else dense_norms
    found, empty = factors(layers, kept_norms, dense_norms)

    steps, counts = [], []
    for i, (layer, mask, scale) in enumerate(zip(layers, kept_masks, scales, strict=True)):
        step = kept[i] if mask is None else torch.where(empty[i].to(dense[i].device), dense[i], kept[i])
        step = step if scale is None else step * scale
        factor = found[i].to(step.device)  # it may be beyond float16's range
        steps.append((step.to(factor.dtype) * factor).to(step.dtype))
        full = torch.full((), layer.param.numel(), dtype=torch.int64, device=home)
        counts.append(full if mask is None else torch.where(empty[i], full, mask.sum().to(home)))
    if any(scale is not None for scale in scales):
        length = total(norms(steps, home))
    else:
        length = total(found * torch.where(empty, dense_norms, kept_norms))
    params = [layer.param for layer in layers]
    torch._foreach_copy_([backups.whole(param) for param in params], params)
    torch._foreach_add_(params, steps)
    return length, torch.stack(counts), dense_norms


def _masks(layers: Sequence[Layer], generators: dict[torch.device, torch.Generator]) -> list[Tensor | None]:
    """Masks of the filtered tensors; those that share percentile and device are ranked in as few calls as can be."""
    found: list[Tensor | None] = [None] * len(layers)
    batches: dict[tuple[object, ...], list[int]] = {}
    for pool in pools(layers):
        for i in pool:
            layer = layers[i]
            q_p = layer.q_p if isinstance(layer.q_p, float | int) else id(layer.q_p)
            key = (layer.rules.filter, layer.rules.threshold, q_p, layer.direction.device)
            batches.setdefault(key, []).append(i)
    for members in batches.values():
        first = layers[members[0]]
        directions = [layers[i].direction for i in members]
        generator = generators.get(first.direction.device)
        ranked = masks(directions, first.q_p, first.rules.filter, first.rules.threshold, generator)
        for i, mask in zip(members, ranked, strict=True):
            found[i] = mask
    return found
