"""From a trial's spec to its optimizer, with lr, rho and q_p as tensors on the device."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from zsharp.optim import find_method, make_optimizer
from zsharp.training.spec import TrialSpec

DEFAULT_LR = 1e-3


def build_optimizer(model: nn.Module, spec: TrialSpec, device: torch.device) -> Optimizer:
    """Returns the optimizer of `spec` for `model`.

    Tensors of at most one dimension are in a second group without weight decay, unless the spec says otherwise.
    The base optimizer is torch's fused one, which takes its learning rate from the device. The spec has passed
    `check_spec`.
    """
    train, method = spec.train, find_method(spec.method)
    params = dict(spec.params)
    weight_decay = params.pop("weight_decay", train.weight_decay)
    momentum = params.pop("momentum", train.momentum)
    params.pop("label_smoothing", None)
    lr = params.pop("lr", DEFAULT_LR)
    assert set(params) <= set(method.defaults)

    settings: dict[str, Any] = {**method.defaults, **params}
    decayed = [param for param in model.parameters() if param.ndim > 1]
    others = [param for param in model.parameters() if param.ndim <= 1]
    if method.radius == "sqrt_layers":
        settings["rho"] *= math.sqrt(len(decayed))
    for name in ("rho", "q_p"):
        if name in settings:
            settings[name] = torch.tensor(settings[name], dtype=torch.float64, device=device)
    if method.defaults:
        settings["seed"] = train.seed + 2
    if train.base_optimizer == "sgd":
        settings["momentum"] = momentum
    elif device.type == "cuda":
        settings["capturable"] = True  # in a CUDA graph
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": weight_decay if train.decay_norms_and_biases else 0.0},
    ]
    for group in groups:
        group["lr"] = torch.tensor(lr, dtype=torch.float32, device=device)
    return make_optimizer(
        [group for group in groups if group["params"]],
        method.name,
        train.base_optimizer,
        lr=lr,
        fused=True,
        **settings,
    )
