"""Computes how far each tensor moves: the factor on its direction.

With d the direction (the gradient, or what Friendly-SAM leaves of it), m its mask, and T = abs(w) + eta for
ASAM but 1 otherwise:

    norm="global":  e   = rho * T^2 m d   / ||T m d||     one norm over all tensors (paper, eq. 8)
    norm="layer":   e_l = rho * T^2 m d_l / ||T m d_l||   each tensor by itself (the authors' code)

Where nothing is kept, ||T m d|| = 0, the unfiltered direction is used instead: everywhere for the global
norm (paper, eq. 9), in that tensor and with the global norm of T d for the layer norm. The latter is also
the share of 1-D tensors under `norm="layer", one_dim="dense"`. A gradient of zero gives e = 0. One that
is not finite, or whose norm is not, makes all factors NaN, even where a filter would drop it.

References:
    Foret et al. 2021 (SAM), eq. 2; Kwon et al. 2021 (ASAM), eq. 7; Li et al. 2024 (Friendly-SAM);
    Yun, arXiv 2505.02369 (ZSharp).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsharp.optim.ascent.layer import Layer, key_of, number

_NORM_FLOOR = 1e-12


def factors(layers: Sequence[Layer], kept_norms: Tensor, dense_norms: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the factor rho / norm of each tensor, and whether its unfiltered direction is to be used.

    Args:
        kept_norms: ||T m d|| of each, shape [L].
        dense_norms: ||T d|| of each, shape [L], on the same device.

    Returns:
        Factors of the norms' dtype and bools, both of shape [L] on the norms' device.
    """
    groups: dict[tuple[str, object], list[int]] = {}
    for i, layer in enumerate(layers):
        groups.setdefault((_norm_kind(layer), key_of(layer.rho)), []).append(i)
    together = [i for i, layer in enumerate(layers) if layer.rules.norm == "global"]
    dense_total = total(dense_norms)
    poison = dense_total * 0  # 0, or NaN if a gradient is not finite
    all_factors, all_empty = [kept_norms] * len(layers), [kept_norms] * len(layers)
    for (kind, _), members in groups.items():
        if kind == "global":
            norm, fallback = total(pick(kept_norms, together)), total(pick(dense_norms, together))
        elif kind == "own":
            norm, fallback = pick(kept_norms, members), dense_total
        else:
            norm = fallback = dense_total
        empty = norm == 0
        rho = number(layers[members[0]].rho, norm.dtype, norm.device)
        factor = rho / (torch.where(empty, fallback, norm) + _NORM_FLOOR) + poison
        if len(groups) == 1:  # the usual case, with fewer launches
            return factor.expand(len(layers)), empty.expand(len(layers))
        per_layer = zip(factor.expand(len(members)), empty.expand(len(members)), strict=True)
        for i, (layer_factor, is_empty) in zip(members, per_layer, strict=True):
            all_factors[i], all_empty[i] = layer_factor, is_empty
    return torch.stack(all_factors), torch.stack(all_empty)


def pick(values: Tensor, members: Sequence[int]) -> Tensor:
    """Returns the members' entries of a vector. Indexing would copy the positions to the device and wait."""
    return values if len(members) == len(values) else torch.stack([values[i] for i in members])


def total(norms: Tensor) -> Tensor:
    """Returns the norm over all tensors from the norms of each."""
    value: Tensor = torch.linalg.vector_norm(norms)
    return value


def norms(values: Sequence[Tensor], home: torch.device) -> Tensor:
    """Returns 2-norms of tensors on any devices, accumulated in at least float32; shape [L] on `home`."""
    wide = torch.float64 if any(value.dtype == torch.float64 for value in values) else torch.float32
    if all(value.device == home for value in values):
        return torch.stack(torch._foreach_norm(list(values), 2.0, wide))
    all_norms: list[Tensor] = [torch.empty(0)] * len(values)
    by_device: dict[torch.device, list[int]] = {}
    for i, value in enumerate(values):
        by_device.setdefault(value.device, []).append(i)
    for members in by_device.values():
        for i, norm in zip(
            members, torch._foreach_norm([values[i] for i in members], 2.0, wide), strict=True
        ):
            all_norms[i] = norm.to(home)
    return torch.stack(all_norms)


def _norm_kind(layer: Layer) -> str:
    if layer.rules.norm == "global":
        return "global"
    return "own" if layer.is_filtered or layer.rules.filter == "none" else "total"
