"""Where w is kept while the weights are at w + e: whole copies, or only the components that moved."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from zsharp.optim.ascent.layer import storage_order

Save = Literal["dense", "sparse"]
_WIDE = 2**31  # from this length on, positions need 64 bits


@dataclass
class Backups:
    """What the weights are restored from.

    Attributes:
        save: `sparse` allows parts, where they are smaller.
        wholes: A buffer for each parameter saved whole, of its shape and strides; kept from step to step.
        parts: For each parameter saved in part the positions in its memory and the values there; of this step only.
    """

    save: Save = "dense"
    wholes: dict[Tensor, Tensor] = field(default_factory=dict)
    parts: dict[Tensor, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Memory of all buffers and parts."""
        parts = [tensor for part in self.parts.values() for tensor in part]
        return sum(tensor.nbytes for tensor in [*self.wholes.values(), *parts])

    def whole(self, param: Tensor) -> Tensor:
        """Returns the parameter's buffer, made if there is none of its type, device and memory layout."""
        buffer = self.wholes.get(param)
        if buffer is None or not _is_alike(buffer, param):
            self.wholes[param] = buffer = torch.empty_like(param, requires_grad=False)
        return buffer

    def is_smaller_in_part(self, param: Tensor, num_kept: int) -> bool:
        """Whether so many values and their positions take less memory than the whole."""
        num_bytes = num_kept * (index_dtype(param.numel()).itemsize + param.element_size())
        return num_bytes < param.numel() * param.element_size()

    def keep_part(self, param: Tensor, positions: Tensor) -> Tensor:
        """Saves the weights at these positions alone, gives up the buffer, and returns them."""
        values = storage_order(param).index_select(0, positions)
        self.parts[param] = positions, values
        self.wholes.pop(param, None)
        return values

    def restore(self, moved: Sequence[Tensor]) -> None:
        """Puts the saved values back into the parameters that moved."""
        whole = [param for param in moved if param not in self.parts]
        if whole:
            torch._foreach_copy_(whole, [self.wholes[param] for param in whole])
        for param, (positions, values) in self.parts.items():
            storage_order(param).index_copy_(0, positions.long(), values)
        self.parts.clear()


def index_dtype(num: int) -> torch.dtype:
    """Returns the smallest integer type for positions among `num` elements."""
    return torch.int32 if num < _WIDE else torch.int64


def _is_alike(buffer: Tensor, param: Tensor) -> bool:
    """Whether the parameter still has the type, device and memory layout that it had."""
    return (buffer.dtype, buffer.device, buffer.stride()) == (param.dtype, param.device, param.stride())
