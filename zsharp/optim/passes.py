"""Closures run at w and at w + e: the passes of one step, over one batch or over groups of examples."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from zsharp.optim.batch_norm import frozen_batch_norm

if TYPE_CHECKING:
    from zsharp.optim.sharpness_aware import SharpnessAware

Closure = Callable[[], Tensor]


def run_passes(
    optimizer: "SharpnessAware",
    closure: Closure,
    model: nn.Module | None,
    scaler: GradScaler | None,
    sync_ascent: bool,
) -> tuple[Tensor, Tensor | None]:
    """Runs the closure at w and, where an ascent is due, at w + e; leaves the weights there with their gradients.

    Returns:
        The loss at w, and loss(w + e) - loss(w) if there was a second pass; both detached.
    """
    is_due = optimizer.is_ascent_due
    with torch.enable_grad(), _unsynchronised(model, is_due and not sync_ascent):
        loss = closure().detach()
    if not is_due:
        return loss, None
    optimizer.first_step(zero_grad=True, scaler=scaler)
    try:
        with torch.enable_grad(), _frozen(model):
            return loss, closure().detach() - loss
    except BaseException:
        optimizer.restore()
        raise


def run_groups(optimizer: "SharpnessAware", closures: Sequence[Closure], model: nn.Module | None) -> Tensor:
    """Runs both passes of each group; leaves the weights at w and the mean gradient in the parameters.

    Returns:
        The mean of the losses at w, detached.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    sums: dict[Tensor, Tensor] = {}
    losses = []
    for closure in closures:
        with torch.enable_grad():
            losses.append(closure().detach())
        if optimizer.is_ascent_due:
            optimizer.first_step(zero_grad=True)
            try:
                with torch.enable_grad(), _frozen(model):
                    closure()
            finally:
                optimizer.restore()
        for param in params:
            if param.grad is not None:
                sums[param] = param.grad.clone() if param not in sums else sums[param].add_(param.grad)
    for param, gradient in sums.items():
        param.grad = gradient.div_(len(closures))
    return torch.stack(losses).mean()


def _unsynchronised(model: nn.Module | None, is_wanted: bool) -> AbstractContextManager[Any]:
    no_sync = getattr(model, "no_sync", None) if is_wanted else None
    return nullcontext() if no_sync is None else no_sync()


def _frozen(model: nn.Module | None) -> AbstractContextManager[Any]:
    return nullcontext() if model is None else frozen_batch_norm(model)
