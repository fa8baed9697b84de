"""Casts weights to bfloat16 by one call a pass, where autocast would launch a kernel for each layer."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class CastWeights:
    """The weights and biases of a model's linear and convolution layers, which autocast computes with in bfloat16.

    The numbers are autocast's own, bit for bit: it rounds each of these once a pass, and their gradients are float32
    copies of bfloat16 ones. Others, such as norms, embeddings and tensors that two layers share, are left to it.

    Args:
        model: One whose layers are called as they are, not taken apart: its float32 weights are bfloat16 inside.
    """

    def __init__(self, model: nn.Module) -> None:
        uses = Counter(id(param) for _, param in model.named_parameters(remove_duplicate=False))
        self._slots = [
            (module, name, param)
            for module in model.modules()
            if type(module) in _LAYERS
            for name, param in module.named_parameters(recurse=False)
            if param.requires_grad and param.dtype == torch.float32 and uses[id(param)] == 1
        ]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Has the layers compute with weights that are cast now; a loss from inside can be differentiated later."""
        if not self._slots:
            yield
            return
        cast = _Cast.apply(*(param for _, _, param in self._slots))  # type: ignore[no-untyped-call]
        try:
            # Not `setattr`, which takes parameters only; `torch.func.functional_call` does as much.
            for (module, name, _), value in zip(self._slots, cast, strict=True):
                module._parameters[name] = value
            yield
        finally:
            for module, name, param in self._slots:
                module._parameters[name] = param


class _Cast(torch.autograd.Function):
    """To bfloat16 and, for gradients, back: all tensors by one call."""

    @staticmethod
    def forward(ctx: Any, *params: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(_all_as(list(params), torch.bfloat16))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        wide = iter(_all_as([grad for grad in grads if grad is not None], torch.float32))
        return tuple(None if grad is None else next(wide) for grad in grads)


def _all_as(values: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(value, dtype=dtype) for value in values]
    torch._foreach_copy_(copies, values)
    return copies
