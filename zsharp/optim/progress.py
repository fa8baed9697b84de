"""What an optimizer's ascents change from step to step, and how much of it a checkpoint holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zsharp.optim.ascent.layer import Observed
from zsharp.optim.running_gradient import RunningGradients


@dataclass
class Progress:
    """An object of its own, because `torch.compile` forgets what is assigned to attributes of an optimizer.

    Attributes:
        seed: Of the random filter's generators.
        num_steps: Steps taken.
        moved: Parameters that are at w + e.
        last: What the last ascent found.
        loss_increase: loss(w + e) - loss(w) of the last step with two passes in closures.
        running: Friendly-SAM's running gradients.
        generators: Sources of the random filter's numbers, by device.
    """

    seed: int
    num_steps: int = 0
    moved: list[Tensor] = field(default_factory=list)
    last: Observed | None = None
    loss_increase: Tensor | None = None
    running: RunningGradients = field(default_factory=RunningGradients)
    generators: dict[torch.device, torch.Generator] = field(default_factory=dict)

    def generator(self, device: torch.device) -> torch.Generator:
        """Returns the device's generator, seeded if it is new."""
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]

    def state_dict(self, order: Sequence[Tensor]) -> dict[str, Any]:
        """Returns what a resumed run needs, with the parameters as their positions in `order`."""
        running = self.running.values
        return {
            "running": {i: running[param] for i, param in enumerate(order) if param in running},
            "generators": {
                str(device): generator.get_state() for device, generator in self.generators.items()
            },
            "num_steps": self.num_steps,
        }

    def load_state_dict(self, state: dict[str, Any], order: Sequence[Tensor]) -> None:
        """Loads what `state_dict` returned; of an empty state, no steps and no running gradients."""
        self.running = RunningGradients(
            {order[i]: value.to(order[i].device).clone() for i, value in state.get("running", {}).items()}
        )
        for device, generator_state in state.get("generators", {}).items():
            self.generator(torch.device(device)).set_state(generator_state.cpu())
        self.num_steps = state.get("num_steps", 0)
