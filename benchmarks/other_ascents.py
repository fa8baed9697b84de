"""Ascents of others, written from their descriptions, to time ours against.

The authors': for each tensor in turn mean, standard deviation, `torch.quantile` of the absolute Z-scores, boolean
indexing, a norm, and a rebinding restore. The usual SAM loop: a norm, an addition and a rebinding restore for each.
"""

import torch
from torch import nn


def authors_ascent(params: list[nn.Parameter]) -> None:
    """The authors' ascent and restore."""
    authors_perturb(params)
    for p in params:
        p.data = p.old


def sam_loop_ascent(params: list[nn.Parameter]) -> None:
    """The usual SAM ascent and restore."""
    sam_loop_perturb(params)
    for p in params:
        p.data = p.old


@torch.no_grad()
def authors_perturb(params: list[nn.Parameter], rho: float = 0.05, q: float = 0.95) -> None:
    """The authors' ascent, as described; tensors that torch.quantile cannot take are left out."""
    whole = torch.stack([p.grad.norm() for p in params]).norm()
    for p in params:
        g = p.grad
        p.old = p.data.clone()
        if g.ndim > 1 and g.numel() <= 2**24:
            z = (g - g.mean()) / (g.std() + 1e-12)
            kept = g.clone()
            kept[~(z.abs() > torch.quantile(z.abs().flatten(), q))] = 0
            norm = kept.norm()
            e = kept * (rho / (norm + 1e-12)) if norm > 0 else g * rho / whole
        else:
            e = g * rho / (whole + 1e-12)
        p.data.add_(e)


@torch.no_grad()
def sam_loop_perturb(params: list[nn.Parameter], rho: float = 0.05) -> None:
    """The usual SAM ascent, tensor by tensor."""
    scale = rho / (torch.stack([p.grad.norm() for p in params]).norm() + 1e-12)
    for p in params:
        p.old = p.data.clone()
        p.add_(p.grad * scale)
