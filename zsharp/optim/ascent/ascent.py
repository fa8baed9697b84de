"""Moves an optimizer's weights to w + e, by the path that suits their device."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from zsharp.optim.ascent import device as device_ascent
from zsharp.optim.ascent import host as host_ascent
from zsharp.optim.ascent import sharded as sharded_ascent
from zsharp.optim.ascent.backups import Backups
from zsharp.optim.ascent.host_filter import Scratch
from zsharp.optim.ascent.layer import Layer, Observed, is_sharded, local_part
from zsharp.optim.ascent.radius import norms, total
from zsharp.optim.checks import check_names
from zsharp.optim.methods import ONE_PASS, SWITCHES, Rules
from zsharp.optim.state import Progress
from zsharp.optim.triton import ascent as triton_ascent

_CPU = torch.device("cpu")


def ascend(
    groups: Iterable[dict[str, Any]],
    state: Mapping[Tensor, Mapping[str, Any]],
    progress: Progress,
    backups: Backups,
    scratch: Scratch,
    scaler: GradScaler | None,
) -> None:
    """Moves the weights from w to w + e, leaves w in `backups`, and records in `progress` what moved and how far.

    Parameters without a gradient are left alone; if none has one, nothing happens. `msam` and `stale_sam` need no
    gradient; they stay at w as long as there is no step to remember. `state` is the base optimizer's.
    """
    layers = [layer for group in groups for layer in _layers(group, state, progress, scaler)]
    if not layers:
        return
    home = layers[0].param.device
    moving = [layer for layer in layers if not layer.is_skipped]
    num_components = max(1, sum(layer.param.numel() for layer in layers))
    gradients = [_gradient(layer) for layer in layers]
    if not moving:
        zero = torch.zeros((), device=home)
        kept = torch.zeros(0, dtype=torch.int64)
        progress.last = Observed(zero, kept, zero, total(_norms(gradients, home)))
        return
    if sharded_ascent.supports(moving):
        length, kept, dense_norms = sharded_ascent.ascend(moving, backups, progress.generator(home))
    elif _is_host({layer.param.device for layer in moving}):
        length, counts, dense_norms = host_ascent.ascend(moving, backups, scratch, progress.generator(_CPU))
        kept = torch.tensor(counts)
    elif triton_ascent.supports(moving):
        length, kept, dense_norms = triton_ascent.ascend(moving, backups, home)
    else:
        draws = {layer.param.device for layer in moving if layer.rules.filter == "random"}
        generators = {device: progress.generator(device) for device in draws}
        length, kept, dense_norms = device_ascent.ascend(moving, backups, home, generators)
    progress.moved = [layer.param for layer in moving]
    is_plain = len(moving) == len(layers) and all(
        layer.direction is gradient for layer, gradient in zip(layers, gradients, strict=True)
    )
    if is_plain and not any(layer.is_adaptive for layer in layers):
        grad_norm = total(dense_norms)  # they are the gradients' own: saves a pass
    else:
        grad_norm = total(_norms(gradients, home))
    progress.last = Observed(length, kept, kept.sum() / num_components, grad_norm)


def _layers(
    group: dict[str, Any],
    state: Mapping[Tensor, Mapping[str, Any]],
    progress: Progress,
    scaler: GradScaler | None,
) -> list[Layer]:
    check_names(group)
    rules = Rules(**{name: group[name] for name in SWITCHES})
    rho = -group["rho"] if group.get("maximize") else group["rho"]
    is_one_pass = rules.ascent in ONE_PASS
    params = [
        param for param in group["params"] if (param.requires_grad if is_one_pass else param.grad is not None)
    ]
    if rules.ascent == "msam":
        # The momentum already points down what is optimized, so `maximize` changes nothing.
        rho = group["rho"]
        directions = [-_momentum(state.get(param, {}), param) for param in params]
    elif rules.ascent == "stale_sam":
        directions = [progress.running.last_gradient(param) for param in params]
    else:
        directions = [param.grad for param in params]
    if any(gradient.is_sparse for gradient in directions):
        raise RuntimeError("sparse gradients have no per-layer statistics: use dense embeddings")
    if rules.ascent == "friendly_sam":
        sigma, lmbda = group["sigma"], group["lmbda"]
        directions = [
            progress.running.direction(param, gradient, sigma, lmbda, scaler)
            for param, gradient in zip(params, directions, strict=True)
        ]
    elif rules.ascent == "centred_sam":
        directions = _centred(directions)
    return [
        Layer(param, direction, rules, rho, group["q_p"], group["eta"])
        for param, direction in zip(params, directions, strict=True)
    ]


def _momentum(state: Mapping[str, Any], param: Tensor) -> Tensor:
    """Returns what SGD calls `momentum_buffer` and Adam `exp_avg`; zeros before the first step."""
    for name in ("momentum_buffer", "exp_avg"):
        if isinstance(state.get(name), Tensor):
            momentum: Tensor = state[name]
            return momentum
    return torch.zeros_like(param)


def _centred(gradients: list[Tensor]) -> list[Tensor]:
    """Returns gradients less their means; of sharded ones this process's parts, less the means of the whole tensors.

    As for the filter, means are summed in float64 and rounded once.
    """
    if gradients and is_sharded(gradients[0]):
        sums = list(sharded_ascent.total_sums(gradients))
    else:
        sums = [gradient.sum(dtype=torch.float64) for gradient in gradients]
    return [
        local_part(gradient) - (total_of / max(1, gradient.numel())).to(gradient.dtype)
        for gradient, total_of in zip(gradients, sums, strict=True)
    ]


def _gradient(layer: Layer) -> Tensor:
    """The gradient at w, or what stands for it where that is not known yet."""
    gradient = layer.param.grad
    return layer.direction if gradient is None or layer.rules.ascent in ONE_PASS else gradient


def _norms(gradients: list[Tensor], home: torch.device) -> Tensor:
    return sharded_ascent.norms(gradients) if is_sharded(gradients[0]) else norms(gradients, home)


def _is_host(devices: set[torch.device]) -> bool:
    """Whether Python may read numbers: free on the CPU, but a compiler cannot trace it."""
    return devices == {_CPU} and not torch.compiler.is_compiling()
