"""The base optimizer's step through a `GradScaler`: gradients are unscaled once, or the step is left out whole."""

from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from zsharp.optim.running_gradient import RunningGradients


def check_scaler(scaler: GradScaler, wrapper: Optimizer) -> None:
    """Raises RuntimeError if `unscale_` was called on the wrapper: the gradients would be divided twice."""
    if id(wrapper) in getattr(scaler, "_per_optimizer_states", ()):
        raise RuntimeError(
            "scaler.unscale_() was called on this optimizer, whose steps the scaler takes with its base "
            "optimizer; valid: scaler.unscale_(optimizer.base_optimizer), before second_step()"
        )


def scaled_step(base_optimizer: Optimizer, scaler: GradScaler, running: RunningGradients) -> None:
    """Takes the step, and the waiting gradients into the running ones, unless a gradient overflowed."""

    def settle(base_optimizer: Optimizer, args: object, kwargs: object) -> None:
        running.settle(getattr(base_optimizer, "found_inf", None))

    settling = base_optimizer.register_step_pre_hook(settle)
    try:
        scaler.step(base_optimizer)
    finally:
        settling.remove()
