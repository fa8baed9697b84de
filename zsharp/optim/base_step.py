"""Lets the base optimizer alone take what every method's `step` takes, so that loops need no special case."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from zsharp.optim.checks import check_model


def with_same_step(optimizer: Optimizer) -> Optimizer:
    """Returns the optimizer itself, whose `step` now takes a model and a scaler as `SharpnessAware.step` does."""
    kind = type(optimizer)
    if kind not in _made:
        _made[kind] = _extended(kind)
    optimizer.__class__ = _made[kind]
    return optimizer


_made: dict[type[Optimizer], type[Optimizer]] = {}


def _extended(kind: type[Optimizer]) -> type[Optimizer]:
    def step(
        self: Optimizer,
        closure: Any = None,
        *,
        model: nn.Module | None = None,
        scaler: GradScaler | None = None,
        sync_ascent: bool = False,
    ) -> Tensor | None:
        """Takes the base optimizer's step; with one pass there is nothing to do for the model."""
        check_model(model)
        if scaler is None or closure is None:
            return kind.step(self, closure)  # type: ignore[no-any-return]
        with torch.enable_grad():
            loss: Tensor = closure()
        scaler.step(self)
        return loss

    # torch would wrap it to call the hooks of a step, which the inner step does.
    step.hooked = True  # type: ignore[attr-defined]

    def reduce(self: Optimizer, _protocol: object) -> Any:
        return _blank, (kind,), self.__getstate__()

    own = {"step": step, "__reduce_ex__": reduce, "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), own)


def _blank(kind: type[Optimizer]) -> Optimizer:
    """Returns an optimizer for `__setstate__` to fill; copies and pickles of a class made here need it."""
    plain = kind.__new__(kind)
    plain.__setstate__({"param_groups": [], "defaults": {}, "state": {}})  # has torch add the hooks
    return with_same_step(plain)
