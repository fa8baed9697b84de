"""From a trial's spec to its optimizer, with lr, rho and q_p as tensors on the device."""

import math
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from zsharp.names import did_you_mean
from zsharp.optim import find_method, make_optimizer
from zsharp.optim.ascent.layer import is_sharded
from zsharp.training.spec import TrainSpec, TrialSpec

DEFAULT_LR = 1e-3


def build_optimizer(model: nn.Module, spec: TrialSpec, device: torch.device) -> Optimizer:
    """Returns the optimizer of `spec` for `model`.

    Tensors of at most one dimension are in a group without weight decay, unless the spec says otherwise; each factor
    of `train.lr_scale` has groups of its own, with the factor as `lr_scale`. Parameters that `train.freeze` names, or
    that need no gradient, are in none: `requires_grad` of the former is turned off here.
    The base optimizer is torch's fused one where there is one, which takes its learning rate from the device, or as a
    plain number where parameters are sharded. The spec has passed `check_spec`.
    """
    train, method = spec.train, find_method(spec.method)
    params = dict(spec.params)
    weight_decay = params.pop("weight_decay", train.weight_decay)
    momentum = params.pop("momentum", train.momentum)
    params.pop("label_smoothing", None)
    lr = params.pop("lr", DEFAULT_LR)
    assert set(params) <= set(method.defaults)

    settings: dict[str, Any] = {**method.defaults, **params}
    groups = _groups(model, train, weight_decay)
    num_matrices = sum(param.ndim > 1 for group in groups for param in group["params"])
    if method.radius == "sqrt_layers":
        settings["rho"] *= math.sqrt(num_matrices)
    for name in ("rho", "q_p"):
        if name in settings:
            settings[name] = torch.tensor(settings[name], dtype=torch.float64, device=device)
    if method.defaults:
        settings["seed"] = train.seed + 2
    if train.base_optimizer == "sgd":
        settings["momentum"] = momentum
    is_whole = not any(is_sharded(param) for group in groups for param in group["params"])
    if train.base_optimizer != "sgd" and device.type == "cuda" and is_whole:
        settings["capturable"] = True  # in a CUDA graph
    for group in groups:
        # torch computes with sharded tensors and whole ones in one call only where they are numbers.
        group["lr"] = torch.tensor(lr, dtype=torch.float32, device=device) if is_whole else lr
    return make_optimizer(
        groups,
        method.name,
        train.base_optimizer,
        lr=lr,
        # torch's fused SGD takes no sharded parameters.
        fused=is_whole or train.base_optimizer != "sgd",
        **settings,
    )


def freeze(model: nn.Module, train: TrainSpec) -> None:
    """Turns off the gradients of the parameters that `train.freeze` names.

    Raises:
        ValueError: If a pattern of `train.freeze` or `train.lr_scale` matches no parameter, or nothing is left.
    """
    names = [name for name, _ in model.named_parameters()]
    for setting, patterns in (("freeze", train.freeze), ("lr_scale", train.lr_scale)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"train.{setting}: {pattern!r} matches no parameter; {did_you_mean(pattern, names)}"
                    f"the model has {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
                )
    for name, param in model.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in train.freeze):
            param.requires_grad_(False)
    if not any(param.requires_grad for param in model.parameters()):
        raise ValueError("train.freeze leaves no parameter to train")


def _groups(model: nn.Module, train: TrainSpec, weight_decay: float) -> list[dict[str, Any]]:
    freeze(model, train)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        scales = [factor for pattern, factor in train.lr_scale.items() if fnmatchcase(name, pattern)]
        scale, is_matrix = (scales or [1.0])[-1], param.ndim > 1
        group = groups.setdefault((scale, not is_matrix), {"params": [], "lr_scale": scale})
        group["params"].append(param)
        group["weight_decay"] = weight_decay if is_matrix or train.decay_norms_and_biases else 0.0
    return [groups[key] for key in sorted(groups)]
