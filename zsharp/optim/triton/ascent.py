"""The ascent on a GPU with Triton: a fixed number of launches for a whole model, no host synchronisation."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zsharp.optim.ascent.backups import Backups
from zsharp.optim.ascent.device import full_counts
from zsharp.optim.ascent.layer import Layer, key_of
from zsharp.optim.ascent.radius import factors, norms, total
from zsharp.optim.triton.cutoffs import is_available, put_cutoffs
from zsharp.optim.triton.kept import apply_kept, measure_kept

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def supports(layers: Sequence[Layer]) -> bool:
    """Whether the kernels can move these tensors: ranked by zscore or magnitude, each alone, on one CUDA device."""
    device = layers[0].param.device
    if not is_available(device) or torch.compiler.is_compiling():
        return False
    rules = {id(layer.rules): layer.rules for layer in layers}.values()  # layers of a group share theirs
    return (
        any(layer.is_filtered for layer in layers)
        and all(
            rule.ascent != "asam"
            and rule.filter in ("none", "zscore", "magnitude")
            and rule.threshold == "layer"
            for rule in rules
        )
        and all(
            layer.param.device == device
            and layer.param.dtype in _DTYPES
            and layer.direction.dtype == layer.param.dtype
            for layer in layers
        )
    )


def ascend(
    layers: Sequence[Layer], backups: Backups, home: torch.device, *, block: int = 4096
) -> tuple[Tensor, Tensor, Tensor]:
    """Moves the weights of `layers` to w + e and leaves w in `backups`.

    `layers` has at least one tensor, none skipped, such as `supports` accepts; `block` as in `cutoffs`.

    Returns:
        ||e||, the number of components kept of each tensor (int64 [L]), and ||d|| of each, all on `home`.
    """
    directions = [layer.direction for layer in layers]
    # Tensors without a filter have centre 0 and cutoff -1, which keep everything.
    centre = torch.zeros(len(layers), device=home)
    limit = torch.full((len(layers),), -1.0, device=home)
    batches: dict[tuple[object, ...], list[int]] = {}
    for i, layer in enumerate(layers):
        if layer.is_filtered:
            batches.setdefault((layer.rules.filter, key_of(layer.q_p)), []).append(i)
    for members in batches.values():
        first = layers[members[0]]
        kind: Literal["magnitude", "zscore"] = "magnitude" if first.rules.filter == "magnitude" else "zscore"
        put_cutoffs([directions[i] for i in members], members, first.q_p, kind, centre, limit, block=block)

    squares, counts = measure_kept(directions, centre, limit, block=block)
    dense_norms = norms(directions, home)
    kept_norms = squares.sqrt().to(dense_norms.dtype)
    factor, empty = factors(layers, kept_norms, dense_norms)
    centre, limit = torch.where(empty, 0.0, centre), torch.where(empty, -1.0, limit)
    params = [layer.param for layer in layers]
    wholes = [backups.buffer(param) for param in params]
    apply_kept(params, directions, wholes, centre, limit, factor.float().contiguous(), block=block)
    counts = torch.where(empty, full_counts(tuple(param.numel() for param in params), home), counts)
    return total(factor * torch.where(empty, dense_norms, kept_norms)), counts, dense_norms
