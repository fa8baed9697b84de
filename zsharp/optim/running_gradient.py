"""Friendly-SAM's running gradient of each parameter, kept apart from the base optimizer's state."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler


@dataclass
class RunningGradients:
    """The running mean of the gradients before this step.

    It lies apart from the optimizer's `state`, because Adam takes a state that is not empty for its own.

    Attributes:
        values: The running gradient of each parameter that has had one.
        waiting: Gradients of a first pass under a scaler with their decay, until the step is known to be taken.
    """

    values: dict[Tensor, Tensor] = field(default_factory=dict)
    waiting: dict[Tensor, tuple[Tensor, float]] = field(default_factory=dict)

    def direction(
        self, param: Tensor, grad: Tensor, sigma: float, lmbda: float, scaler: GradScaler | None
    ) -> Tensor:
        """Returns the gradient less sigma times the running one; the first has none and is returned whole.

        Without a scaler the running gradient is updated at once, with one when `settle` is called.
        """
        if scaler is not None:
            grad = grad / scaler.scale(torch.ones((), device=grad.device))
            self.waiting[param] = (grad, lmbda)
        direction = grad
        if param in self.values:
            running = self.values[param] = self.values[param].to(grad)  # if the model changed its type
            direction = grad - sigma * running
        if scaler is None:
            self._add(param, grad, lmbda)
        return direction

    def settle(self, found_inf: Tensor | None) -> None:
        """Takes in the waiting gradients, unless a gradient of the step overflowed.

        Args:
            found_inf: 1 if one did, 0 if not, as `GradScaler` tells optimizers that skip steps by themselves.
        """
        for param, (grad, lmbda) in self.waiting.items():
            if found_inf is not None:
                if param not in self.values and bool(found_inf):  # read once, in the first step
                    continue
                grad = torch.where(found_inf.to(grad.device) == 0, grad, self.values.get(param, grad))
            self._add(param, grad, lmbda)
        self.waiting.clear()

    def _add(self, param: Tensor, grad: Tensor, lmbda: float) -> None:
        """A gradient that is not finite leaves no trace."""
        # In float16 the sum of finite numbers overflows.
        is_finite = torch.isfinite(grad.sum(dtype=torch.float32 if grad.dtype == torch.float16 else None))
        if param in self.values:
            running = self.values[param]
            running.lerp_(torch.where(is_finite, grad, running), 1 - lmbda)
        else:
            self.values[param] = torch.where(is_finite, grad, 0)
