"""Checks what an optimizer is given: settings in range, parameters that it can move and restore."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from zsharp.optim.ascent.layer import is_sharded
from zsharp.optim.methods import Rules
from zsharp.parameters import ASCENT_PARAMETERS, PARAMETERS
from zsharp.settings import settings_of

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_CHOICES = {switch.name: switch.choices for switch in settings_of(Rules).values()}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises TypeError if a number is none, ValueError if it is outside its range or a name is not valid."""
    for name in ASCENT_PARAMETERS:
        try:
            value = float(settings[name])
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} is {settings[name]!r}; valid: a number, or a tensor of one") from None
        PARAMETERS[name].check(value)
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


def check_base_class(base_optimizer: object) -> None:
    """Raises TypeError if what should build the base optimizer is one already, a name, or cannot be called."""
    if isinstance(base_optimizer, Optimizer) or not callable(base_optimizer):
        given = (
            base_optimizer if isinstance(base_optimizer, str) else f"of type {type(base_optimizer).__name__}"
        )
        raise TypeError(
            f"base_optimizer is {given}; valid: a class such as torch.optim.AdamW, which is built here with the "
            "arguments that follow"
        )


def check_base(base_optimizer: object, ours: Iterable[str]) -> None:
    """Refuses base optimizers that cannot descend at w + e.

    Raises:
        TypeError: If it is no optimizer, or its steps need a closure.
        ValueError: If its settings have our names: it would read ours from the groups.
    """
    valid = "all of torch.optim but Adadelta and LBFGS"
    name = type(base_optimizer).__name__
    if not isinstance(base_optimizer, Optimizer):
        raise TypeError(f"base_optimizer builds a {name}; valid: a class such as torch.optim.AdamW")
    parameters = list(inspect.signature(base_optimizer.step).parameters.values())
    if parameters and parameters[0].default is inspect.Parameter.empty and parameters[0].kind in _POSITIONAL:
        raise TypeError(
            f"base_optimizer is {name}, whose steps evaluate the loss at several points; valid: {valid}"
        )
    both = [name for name in ours if name in base_optimizer.defaults]
    if both:
        raise ValueError(
            f"the settings {', '.join(both)} of {name} have the names of the ascent's; "
            f"valid: base optimizers without such settings: {valid}"
        )


def check_momentum(group: Mapping[str, Any]) -> None:
    """Raises ValueError if `msam` should ascend against a momentum that the base optimizer does not have."""
    if group["ascent"] == "msam" and not group.get("momentum") and "betas" not in group:
        given = f"momentum is {group['momentum']}" if "momentum" in group else "it has none"
        raise ValueError(
            f"msam ascends against the base optimizer's momentum, and {given}; "
            "valid: SGD with a momentum such as 0.9, Adam, AdamW"
        )


def params_or_groups(params: Any) -> Any:
    """Returns parameters or groups as they were given; raises TypeError if they are a model or its method."""
    if isinstance(params, torch.nn.Module) or callable(params):
        raise TypeError(f"params is {_described(params)}; valid: its parameters, as model.parameters()")
    if params is None or isinstance(params, str | int | float):
        raise TypeError(f"params is {params!r}; valid: parameters, as model.parameters(), or groups of them")
    return params


def check_group(group: object) -> None:
    """Raises TypeError if a group of parameters is malformed."""
    if not isinstance(group, Mapping) or "params" not in group:
        raise TypeError(f"a group is {_described(group)}; valid: a dict with the parameters in 'params'")
    params_or_groups(group["params"])


def checked_loss(closure: object) -> Tensor:
    """Calls a closure and returns its loss, detached; raises TypeError if that is none."""
    if not callable(closure):
        raise TypeError(f"the closure is {_described(closure)}; valid: a function that returns the loss")
    loss = closure()
    if not isinstance(loss, Tensor):
        raise TypeError(f"the closure returned {_described(loss)}; valid: the loss, a tensor")
    return loss.detach()


def check_model(model: object) -> None:
    """Raises TypeError if a model is none."""
    if model is not None and not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is {_described(model)}; valid: a torch.nn.Module")


def check_params(params: Iterable[Tensor], others: Iterable[Tensor] = ()) -> None:
    """Refuses parameters that an ascent would move wrongly.

    Raises:
        TypeError: If a parameter is no tensor, complex, or sharded otherwise than `fully_shard` does.
        ValueError: If the elements of a parameter do not fill its memory, or two parameters share theirs.
    """
    params, others = list(params), list(others)
    addresses = {_address(param) for param in others}
    for param in params:
        if not isinstance(param, Tensor):
            raise TypeError(f"a parameter is {_described(param)}; valid: tensors, as model.parameters()")
        if is_lazy(param):
            continue  # it has no memory yet
        if _is_flat(param):
            raise TypeError(
                "a parameter is flattened by FullyShardedDataParallel: tensors lose their bounds, and with them "
                "their means and percentiles; valid: torch.distributed.fsdp.fully_shard, or DistributedDataParallel"
            )
        shape = tuple(param.shape)
        if param.is_complex():
            raise TypeError(
                f"a parameter of shape {shape} is complex: its components have no percentile; "
                "valid: real tensors, such as its torch.view_as_real"
            )
        if is_sharded(param):
            _check_placements(param, shape)
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
    _check_meshes([*params, *others])


def check_scaler(scaler: GradScaler, optimizer: Optimizer) -> None:
    """Raises RuntimeError if `unscale_` was called on a wrapper: its gradients would be divided twice."""
    if id(optimizer) in getattr(scaler, "_per_optimizer_states", ()):
        raise RuntimeError(
            "scaler.unscale_() was called on this optimizer, but the scaler steps through its base optimizer; "
            "valid: scaler.unscale_(optimizer.base_optimizer), before second_step()"
        )


def _check_meshes(params: Sequence[Tensor]) -> None:
    """Raises TypeError if some parameters are sharded and others not, or over different processes."""
    meshes = {getattr(param, "device_mesh", None) for param in params}
    if len(meshes) > 1:
        num_whole = sum(not is_sharded(param) for param in params)
        raise TypeError(
            f"of {len(params)} parameters {num_whole} are not sharded, the others over {len(meshes - {None})} device "
            "mesh(es): their statistics cannot be summed together; valid: all of them sharded over one mesh, as "
            "fully_shard(model) does, or none"
        )


def _check_placements(param: Any, shape: tuple[int, ...]) -> None:
    kinds = [type(placement).__name__ for placement in param.placements]
    if kinds.count("Shard") != 1 or set(kinds) - {"Shard", "Replicate"}:
        raise TypeError(
            f"a parameter of shape {shape} has the placements {', '.join(map(str, param.placements))}, as tensor "
            "parallelism gives: two processes may hold the same components, which would count twice; "
            "valid: sharded along one dimension of the device mesh, as torch.distributed.fsdp.fully_shard does"
        )


def _is_flat(param: Tensor) -> bool:
    """Whether it is a parameter of the older FSDP, or its view of one."""
    return any(getattr(param, mark, False) for mark in ("_is_flat_param", "_fsdp_flattened"))


def _address(param: Tensor) -> int:
    """Returns where a parameter's memory starts; 0 for a subclass, whose memory is not its own."""
    return param.data_ptr() if type(param) in (Tensor, torch.nn.Parameter) else 0


def _described(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
