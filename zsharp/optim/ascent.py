"""From gradients at w to the perturbation e: pure functions, no host synchronisation.

With d the direction (the gradient, or what Friendly-SAM leaves of it), m its mask, and T = abs(w) + eta for
ASAM but 1 otherwise:

    norm="global":  e   = rho * T^2 m d   / ||T m d||     one norm over all tensors (paper, eq. 8)
    norm="layer":   e_l = rho * T^2 m d_l / ||T m d_l||   each tensor by itself (the authors' code)

Where nothing is kept, ||T m d|| = 0, the unfiltered direction is used instead: everywhere for the global
norm (paper, eq. 9), in that tensor and with the global norm of T d for the layer norm. The latter is also
the share of 1-D tensors under `norm="layer", one_dim="dense"`. A gradient of zero gives e = 0.

References:
    Foret et al. 2021 (SAM), eq. 2; Kwon et al. 2021 (ASAM), eq. 7; Li et al. 2024 (Friendly-SAM);
    Yun, arXiv 2505.02369 (ZSharp).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsharp.optim.filters import masks
from zsharp.optim.methods import Rules

_NORM_FLOOR = 1e-12


@dataclass(frozen=True)
class Layer:
    """One parameter tensor on its way through the ascent.

    Attributes:
        param: The weights w.
        direction: Where the loss rises; same shape as `param`.
        rules: How it is turned into a perturbation.
        rho: Radius, a float or a 0-d tensor on the parameter's device.
        q_p: Percentile of the filter, likewise; tensors that share a pooled threshold share it.
        eta: ASAM's floor of T.
    """

    param: Tensor
    direction: Tensor
    rules: Rules
    rho: Tensor | float
    q_p: Tensor | float = 0.0
    eta: float = 0.0

    @property
    def is_skipped(self) -> bool:
        """Whether the tensor is left where it is."""
        return self.rules.one_dim == "skip" and self.param.ndim <= 1

    @property
    def is_filtered(self) -> bool:
        """Whether components of the tensor are dropped."""
        return self.rules.filter != "none" and (self.param.ndim > 1 or self.rules.one_dim == "filter")


@dataclass(frozen=True)
class Perturbation:
    """What the ascent found, per tensor in the order given.

    Attributes:
        steps: The perturbation e; None for skipped tensors.
        kept: Number of components kept, 0-d int64 tensors on the first tensor's device.
        norm: ||e|| over all tensors, a 0-d tensor.
        grad_norm: ||d|| (for ASAM ||T d||) over all tensors that are not skipped, a 0-d tensor.
        kept_fraction: Share of all components that were kept, a 0-d tensor.
    """

    steps: list[Tensor | None]
    kept: list[Tensor]
    norm: Tensor
    grad_norm: Tensor
    kept_fraction: Tensor


def perturbation(layers: Sequence[Layer], generator: torch.Generator | None = None) -> Perturbation:
    """Returns the perturbation of `layers` (at least one); changes nothing.

    Tensors may lie on several devices; norms are taken on the first one's.

    Args:
        layers: The tensors with their directions and settings.
        generator: Source of the random filter's numbers.
    """
    assert layers
    home = layers[0].param.device
    active = [layer for layer in layers if not layer.is_skipped]
    zero = torch.zeros((), device=home)
    num_components = sum(layer.param.numel() for layer in layers)
    if not active:
        none_kept = [torch.zeros((), dtype=torch.int64, device=home) for _ in layers]
        return Perturbation([None] * len(layers), none_kept, zero, zero, zero)

    kept_masks = _masks(active, generator)
    scales = [layer.param.abs() + layer.eta if layer.rules.ascent == "asam" else None for layer in active]
    dense = [_times(layer.direction, scale) for layer, scale in zip(active, scales, strict=True)]
    used = [d if mask is None else torch.where(mask, d, 0) for d, mask in zip(dense, kept_masks, strict=True)]
    dense_norms = _norms(dense, home)
    used_norms = dense_norms if all(mask is None for mask in kept_masks) else _norms(used, home)
    dense_total = _total(dense_norms)
    in_global = [i for i, layer in enumerate(active) if layer.rules.norm == "global"]
    global_used = _total([used_norms[i] for i in in_global]) if in_global else zero
    global_dense = _total([dense_norms[i] for i in in_global]) if in_global else zero

    steps, lengths, kept = [], [], []
    for i, layer in enumerate(active):
        if layer.rules.norm == "global":
            norm, fallback = global_used, global_dense
        elif layer.is_filtered or layer.rules.filter == "none":
            norm, fallback = used_norms[i], dense_total
        else:
            norm = fallback = dense_total
        empty = norm == 0
        scale = torch.as_tensor(layer.rho, dtype=norm.dtype, device=home) / (
            torch.where(empty, fallback, norm) + _NORM_FLOOR
        )
        step = used[i]
        count = torch.full((), step.numel(), dtype=torch.int64, device=home)
        length = scale * used_norms[i]
        mask = kept_masks[i]
        if mask is not None:
            step = torch.where(empty.to(step.device), dense[i], step)
            count = torch.where(empty, count, mask.sum().to(home))
            length = scale * torch.where(empty, dense_norms[i], used_norms[i])
        step = _times(step, scales[i]) * scale.to(step.device, step.dtype)
        steps.append(step)
        lengths.append(length if scales[i] is None else torch.linalg.vector_norm(step).to(home))
        kept.append(count)

    by_layer = iter(zip(steps, kept, strict=True))
    all_steps, all_kept = [], []
    for layer in layers:
        step_or_none, count = (None, torch.zeros((), dtype=torch.int64, device=home))
        if not layer.is_skipped:
            step_or_none, count = next(by_layer)
        all_steps.append(step_or_none)
        all_kept.append(count)
    fraction = torch.stack(all_kept).sum() / num_components
    return Perturbation(all_steps, all_kept, _total(lengths), dense_total, fraction)


def _masks(layers: Sequence[Layer], generator: torch.Generator | None) -> list[Tensor | None]:
    """Masks of the filtered tensors; those with the same pooled threshold are filtered together."""
    found: list[Tensor | None] = [None] * len(layers)
    pools: dict[tuple[object, ...], list[int]] = {}
    for i, layer in enumerate(layers):
        if layer.is_filtered:
            q_key = layer.q_p if isinstance(layer.q_p, float) else id(layer.q_p)
            pools.setdefault((layer.rules.filter, layer.rules.threshold, q_key), []).append(i)
    for members in pools.values():
        first = layers[members[0]]
        directions = [layers[i].direction for i in members]
        pool_masks = masks(directions, first.q_p, first.rules.filter, first.rules.threshold, generator)
        for i, mask in zip(members, pool_masks, strict=True):
            found[i] = mask
    return found


def _times(value: Tensor, scale: Tensor | None) -> Tensor:
    return value if scale is None else value * scale


def _norms(values: Sequence[Tensor], home: torch.device) -> list[Tensor]:
    """2-norms as 0-d tensors on `home`, accumulated in at least float32."""
    wide = torch.float64 if any(v.dtype == torch.float64 for v in values) else torch.float32
    by_device: dict[torch.device, list[int]] = {}
    for i, value in enumerate(values):
        by_device.setdefault(value.device, []).append(i)
    norms: list[Tensor] = [torch.empty(0)] * len(values)
    for members in by_device.values():
        for i, norm in zip(
            members, torch._foreach_norm([values[i] for i in members], 2.0, wide), strict=True
        ):
            norms[i] = norm.to(home)
    return norms


def _total(norms: Sequence[Tensor]) -> Tensor:
    total: Tensor = torch.linalg.vector_norm(torch.stack(list(norms)))
    return total
