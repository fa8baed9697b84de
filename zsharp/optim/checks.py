"""Checks what an optimizer is given: settings in range, parameters that it can move and restore."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from zsharp.optim.methods import Rules
from zsharp.parameters import ASCENT_PARAMETERS, PARAMETERS
from zsharp.settings import settings_of

_CHOICES = {switch.name: switch.choices for switch in settings_of(Rules).values()}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises ValueError if a number is outside its range, or a name is not valid."""
    for name in ASCENT_PARAMETERS:
        PARAMETERS[name].check(float(settings[name]))
    check_names(settings)


def check_names(settings: Mapping[str, Any]) -> None:
    """Raises ValueError if a name among the settings is not valid; reads no tensor."""
    for name, choices in _CHOICES.items():
        if name in settings and settings[name] not in choices:
            raise ValueError(f"{name} is {settings[name]!r}; valid: {', '.join(choices)}")


def check_removed(settings: Mapping[str, Any]) -> None:
    """Raises ValueError if `save` is among the settings, which version 0.1 had."""
    if "save" in settings:
        raise ValueError(
            f"save is {settings['save']!r}, but this setting was removed; use the optimizer without it: "
            "it keeps one copy of the weights"
        )


def check_base(base_optimizer: Optimizer, ours: Iterable[str]) -> None:
    """Raises ValueError if a base optimizer's settings have our names: it would read ours from the groups."""
    both = [name for name in ours if name in base_optimizer.defaults]
    if both:
        raise ValueError(
            f"the settings {', '.join(both)} of {type(base_optimizer).__name__} have the names of the ascent's; "
            "valid: base optimizers without such settings: all of torch.optim but Adadelta"
        )


def check_params(params: Iterable[Tensor], others: Iterable[Tensor] = ()) -> None:
    """Refuses parameters that an ascent would move wrongly.

    Raises:
        TypeError: If a parameter is complex, or sharded (DTensor, FSDP).
        ValueError: If the elements of a parameter do not fill its memory, or two parameters share theirs.
    """
    addresses = {_address(param) for param in others}
    for param in params:
        if _is_sharded(param):
            raise TypeError(
                "a parameter is sharded (DTensor or FSDP): its mean and percentile would be those of one shard; "
                "valid: whole tensors, such as under DistributedDataParallel"
            )
        shape = tuple(param.shape)
        if param.is_complex():
            raise TypeError(
                f"a parameter of shape {shape} is complex: its components have no percentile; "
                "valid: real tensors, such as its torch.view_as_real"
            )
        if type(param) not in (Tensor, torch.nn.Parameter):
            continue
        if torch.empty_like(param, device="meta").stride() != param.stride():
            raise ValueError(
                f"a parameter of shape {shape} and strides {param.stride()} does not fill its memory; "
                "valid: contiguous or permuted tensors, such as its contiguous()"
            )
        address = _address(param)
        if address and address in addresses:
            raise ValueError(
                f"a parameter of shape {shape} shares its memory with another one: it would move twice; "
                "valid: one Parameter object in both places"
            )
        addresses.add(address)


def check_scaler(scaler: GradScaler, optimizer: Optimizer) -> None:
    """Raises RuntimeError if `unscale_` was called on a wrapper: its gradients would be divided twice."""
    if id(optimizer) in getattr(scaler, "_per_optimizer_states", ()):
        raise RuntimeError(
            "scaler.unscale_() was called on this optimizer, but the scaler steps through its base optimizer; "
            "valid: scaler.unscale_(optimizer.base_optimizer), before second_step()"
        )


def _is_sharded(param: Tensor) -> bool:
    """Compares names of types: importing torch.distributed would cost every user half a second."""
    kinds = {kind.__name__ for kind in type(param).__mro__} | {type(getattr(param, "data", param)).__name__}
    marks = ("_is_flat_param", "_fsdp_flattened")  # FSDP's parameters and its views of them
    return "DTensor" in kinds or any(getattr(param, mark, False) for mark in marks)


def _address(param: Tensor) -> int:
    """Returns where a parameter's memory starts; 0 for a subclass, whose memory is not its own."""
    return param.data_ptr() if type(param) in (Tensor, torch.nn.Parameter) else 0
