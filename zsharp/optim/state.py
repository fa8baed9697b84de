"""What a sharpness-aware optimizer remembers from step to step beside the base optimizer's state."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from zsharp.optim.ascent.layer import Observed


@dataclass
class RunningGradients:
    """Friendly-SAM's running mean of the gradients before this step; of `stale_sam`, the last of them.

    Kept apart from the optimizer's `state`, because Adam takes a state that is not empty for its own.
    """

    # The running gradient of each parameter that has had a gradient.
    values: dict[Tensor, Tensor] = field(default_factory=dict)
    # With a scaler: the gradients of the first pass and their decay, until the scaler has decided whether the
    # step is taken.
    waiting: dict[Tensor, tuple[Tensor, float]] = field(default_factory=dict)
    # Whether the values are zeros that only show what there will be; see `make_room`.
    are_placeholders: bool = False

    def make_room(self, params: Sequence[Tensor]) -> None:
        """Adds zeros for parameters without a running gradient, which the first gradient replaces.

        `torch.distributed.checkpoint` loads into what the state of a new optimizer has.
        """
        if not self.values:
            self.values = {param: torch.zeros_like(param) for param in params if param.requires_grad}
            self.are_placeholders = True

    def direction(
        self, param: Tensor, grad: Tensor, sigma: float, lmbda: float, scaler: GradScaler | None
    ) -> Tensor:
        """Returns the gradient less sigma times the running one; the first gradient is returned as it is.

        The running gradient is updated at once, or with a scaler when `settle` is called.
        """
        if self.are_placeholders:
            self.values.clear()
            self.are_placeholders = False
        if scaler is not None:
            grad = grad / scaler.scale(torch.ones((), device=grad.device))
            self.waiting[param] = (grad, lmbda)
        direction = grad
        if param in self.values:
            running = self.values[param] = self.values[param].to(grad)  # the model may have changed its dtype
            direction = grad - sigma * running
        if scaler is None:
            self._add(param, grad, lmbda)
        return direction

    def last_gradient(self, param: Tensor) -> Tensor:
        """Returns the gradient that was remembered last; zeros if there is none."""
        gradient = self.values.get(param)
        return torch.zeros_like(param) if gradient is None else gradient.to(param.dtype)

    def remember(self, param: Tensor, grad: Tensor, scaler: GradScaler | None) -> None:
        """Puts a gradient where the last one was, at once, or with a scaler when `settle` is called."""
        if scaler is None:
            self._add(param, grad, 0.0)
        else:
            self.waiting[param] = (grad, 0.0)

    def settle(self, found_inf: Tensor | None) -> None:
        """Adds the waiting gradients, unless a gradient of the step overflowed.

        Args:
            found_inf: 1 on overflow, else 0; what `GradScaler` passes to optimizers that skip steps themselves.
        """
        for param, (grad, lmbda) in self.waiting.items():
            if found_inf is not None:
                # Reading a number waits for the device; only a parameter's first gradient needs it.
                if param not in self.values and bool(found_inf):
                    continue
                grad = torch.where(found_inf.to(grad.device) == 0, grad, self.values.get(param, grad))
            self._add(param, grad, lmbda)
        self.waiting.clear()

    def _add(self, param: Tensor, grad: Tensor, lmbda: float) -> None:
        """Updates the mean; a gradient that is not finite leaves it unchanged."""
        # One sum is cheaper than a look at every element. In float16 a sum of finite numbers may overflow.
        is_finite = torch.isfinite(grad.sum(dtype=torch.float32 if grad.dtype == torch.float16 else None))
        if param in self.values:
            running = self.values[param]
            running.lerp_(torch.where(is_finite, grad, running), 1 - lmbda)
        else:
            self.values[param] = torch.where(is_finite, grad, 0)


@dataclass
class Progress:
    """What steps change. An object of its own, because `torch.compile` loses what is assigned to an optimizer."""

    seed: int  # seeds the random filter's generators
    num_steps: int = 0  # steps taken
    moved: list[Tensor] = field(default_factory=list)  # parameters that are at w + e
    last: Observed | None = None  # what the last ascent found
    # loss(w + e) - loss(w) of the last step that ran two passes of a closure.
    loss_increase: Tensor | None = None
    running: RunningGradients = field(default_factory=RunningGradients)  # Friendly-SAM's running gradients
    # The random filter's generators, by device.
    generators: dict[torch.device, torch.Generator] = field(default_factory=dict)

    def generator(self, device: torch.device) -> torch.Generator:
        """Returns the device's generator, seeded if it is new."""
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]

    def state_dict(self, params: Sequence[Tensor]) -> dict[str, Any]:
        """Returns what a resumed run needs; parameters are saved as their positions in `params`."""
        running = self.running.values
        return {
            "running": {i: running[param] for i, param in enumerate(params) if param in running},
            "generators": {
                str(device): generator.get_state() for device, generator in self.generators.items()
            },
            "num_steps": self.num_steps,
        }

    def load_state_dict(self, state: dict[str, Any], params: Sequence[Tensor]) -> None:
        """Loads what `state_dict` returned; an empty state resets steps and running gradients."""
        self.running = RunningGradients(
            {
                params[int(i)]: value.to(params[int(i)].device).clone()
                for i, value in state.get("running", {}).items()
            },
            are_placeholders=state.get("num_steps") == 0,
        )
        for device, generator_state in state.get("generators", {}).items():
            self.generator(torch.device(device)).set_state(generator_state.cpu())
        self.num_steps = state.get("num_steps", 0)


def scaled_step(base_optimizer: Optimizer, scaler: GradScaler, running: RunningGradients) -> None:
    """Steps through a scaler: gradients are unscaled once, and after an overflow nothing changes.

    The running gradients follow the scaler's decision. Only a hook inside its step sees that decision in time.
    """

    def settle(base_optimizer: Optimizer, args: object, kwargs: object) -> None:
        running.settle(getattr(base_optimizer, "found_inf", None))

    hook = base_optimizer.register_step_pre_hook(settle)
    try:
        scaler.step(base_optimizer)
    finally:
        hook.remove()
