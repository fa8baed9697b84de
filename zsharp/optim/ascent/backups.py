"""Where w is kept while the weights are at w + e."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zsharp.optim.ascent.layer import local_part


@dataclass
class Backups:
    """Copies that the weights are restored from."""

    # One for each parameter that has moved, of its shape and strides, or of its shard's; kept from step to step.
    buffers: dict[Tensor, Tensor] = field(default_factory=dict)

    def buffer(self, param: Tensor) -> Tensor:
        """Returns the parameter's buffer; a new one if its dtype, device or memory layout has changed."""
        here = local_part(param)
        buffer = self.buffers.get(param)
        if buffer is None or _layout(buffer) != _layout(here):
            self.buffers[param] = buffer = torch.empty_like(here, requires_grad=False)
        return buffer

    def restore(self, moved: Sequence[Tensor]) -> None:
        """Copies the saved values back into these parameters."""
        torch._foreach_copy_([local_part(param) for param in moved], [self.buffers[param] for param in moved])


def _layout(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.device, tensor.shape, tensor.stride()
