"""One parameter tensor with the settings of its ascent, and what an ascent reports."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsharp.optim.methods import Rules


@dataclass(frozen=True)
class Layer:
    """A parameter tensor with its direction and settings."""

    param: Tensor  # the weights w; changed in place by an ascent
    direction: Tensor  # where the loss rises: the gradient, or what Friendly-SAM leaves of it
    rules: Rules  # how it is turned into a perturbation
    rho: Tensor | float  # radius, a float or a 0-d tensor on the parameter's device
    # Percentile of the filter, likewise; tensors that share a pooled threshold share it.
    q_p: Tensor | float = 0.0
    eta: float = 0.0  # ASAM's floor of T

    @property
    def is_skipped(self) -> bool:
        """Whether the tensor is left where it is."""
        return self.rules.ascent == "none" or (self.rules.one_dim == "skip" and self.param.ndim <= 1)

    @property
    def is_filtered(self) -> bool:
        """Whether components of the tensor are dropped."""
        return self.rules.filter != "none" and (self.param.ndim > 1 or self.rules.one_dim == "filter")

    @property
    def is_adaptive(self) -> bool:
        """Whether the perturbation scales with the weights."""
        return self.rules.ascent == "asam"

    def scale(self) -> Tensor:
        """ASAM's T = abs(w) + eta, a new tensor."""
        return self.param.abs() + self.eta


@dataclass(frozen=True)
class Observed:
    """What an ascent reports; nothing here was read back to the host.

    Attributes:
        norm: ||e|| over all tensors, a 0-d tensor.
        kept: Number of components kept of each tensor that moved, in the order of the parameters; int64 [L].
        kept_fraction: Share of the components of all tensors with a gradient that were kept, a 0-d tensor.
        grad_norm: ||g|| over all tensors with a gradient, a 0-d tensor; of `msam`, ||v||; of `stale_sam`, the last.
    """

    norm: Tensor
    kept: Tensor
    kept_fraction: Tensor
    grad_norm: Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of the tensor (a DTensor, as FSDP2 makes them).

    Compares names of types: importing torch.distributed would cost every user half a second.
    """
    kind = type(tensor)
    if kind is nn.Parameter or kind is Tensor:
        return False
    return any(base.__name__ == "DTensor" for base in kind.__mro__)


def local_part(tensor: Any) -> Tensor:
    """Returns this process's part of a sharded tensor, sharing its memory; other tensors as they are."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return part


def pools(layers: Iterable[Layer]) -> list[list[int]]:
    """Returns the positions of filtered tensors, grouped by threshold: pooled tensors together, others alone."""
    by_threshold: dict[tuple[object, ...], list[int]] = {}
    for i, layer in enumerate(layers):
        if layer.is_filtered:
            alone = i if layer.rules.threshold == "layer" else -1
            by_threshold.setdefault((layer.rules.filter, key_of(layer.q_p), alone), []).append(i)
    return list(by_threshold.values())


def key_of(value: Tensor | float) -> object:
    """Returns what tells settings apart without reading a tensor: its identity, or the number itself."""
    return value if isinstance(value, float | int) else id(value)


def number(value: Tensor | float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns a 0-d tensor; a float is filled in on the device, because a copy from the host would be waited for."""
    if isinstance(value, Tensor):
        return value.to(device, dtype)
    return torch.full((), value, dtype=dtype, device=device)


def storage_order(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Returns a 1-d view of a dense tensor in the order of its memory, whatever its strides.

    Args:
        tensor: Non-overlapping and dense, such as contiguous or channels-last.
        like: Copy first if the strides differ from this tensor's, so that positions in both views agree.
    """
    if like is not None and tensor.stride() != like.stride():
        aligned = torch.empty_strided(like.size(), like.stride(), dtype=tensor.dtype, device=tensor.device)
        tensor = aligned.copy_(tensor)
    if tensor.is_contiguous():
        return tensor.view(-1)
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(order).view(-1)
