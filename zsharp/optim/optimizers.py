"""The optimizers by their usual names, and one factory for all methods."""

from collections.abc import Iterable
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from zsharp.optim.base_step import with_same_step
from zsharp.optim.checks import check_base_class
from zsharp.optim.methods import VARIANTS, Filter, OneDim, Rules, Scope, find_method
from zsharp.optim.sharpness_aware import SharpnessAware
from zsharp.parameters import ASCENT_PARAMETERS

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
BASE_OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
_OF_THE_ASCENT = (*ASCENT_PARAMETERS, "interval", "start_step", "seed")


class SAM(SharpnessAware):
    """Sharpness-aware minimization: e = rho * g / ||g||.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.05)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)

    References:
        Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021.
    """

    def __init__(
        self,
        params: Params,
        base_optimizer: type[Optimizer],
        *,
        rho: Tensor | float = 0.05,
        filter: Filter = "none",
        q_p: Tensor | float = 0.0,
        threshold: Scope = "layer",
        norm: Scope = "global",
        one_dim: OneDim = "filter",
        **kwargs: Any,
    ) -> None:
        rules = Rules("sam", filter, threshold, norm, one_dim)
        super().__init__(params, base_optimizer, rules=rules, rho=rho, q_p=q_p, **kwargs)


class ASAM(SharpnessAware):
    """Adaptive SAM: e = rho * T^2 g / ||T g|| with T = abs(w) + eta, for every tensor.

    The authors' code has T = 1 for biases, so a rho tuned there is not the best rho here.

    References:
        Kwon et al., "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep
        Neural Networks", ICML 2021, eq. 7.
    """

    def __init__(
        self,
        params: Params,
        base_optimizer: type[Optimizer],
        *,
        rho: Tensor | float = 0.5,
        eta: float = 0.01,
        filter: Filter = "none",
        q_p: Tensor | float = 0.0,
        threshold: Scope = "layer",
        norm: Scope = "global",
        one_dim: OneDim = "filter",
        **kwargs: Any,
    ) -> None:
        rules = Rules("asam", filter, threshold, norm, one_dim)
        super().__init__(params, base_optimizer, rules=rules, rho=rho, eta=eta, q_p=q_p, **kwargs)


class FriendlySAM(SharpnessAware):
    """Friendly-SAM: SAM along d = g - sigma * m, with m the running mean of the gradients before this step.

    The paper's m includes the present gradient; its code, followed here, subtracts before it updates, and
    its first step is plain SAM.

    References:
        Li et al., "Friendly Sharpness-Aware Minimization", CVPR 2024, Algorithm 1.
    """

    def __init__(
        self,
        params: Params,
        base_optimizer: type[Optimizer],
        *,
        rho: Tensor | float = 0.05,
        sigma: float = 1.0,
        lmbda: float = 0.9,
        filter: Filter = "none",
        q_p: Tensor | float = 0.0,
        threshold: Scope = "layer",
        norm: Scope = "global",
        one_dim: OneDim = "filter",
        **kwargs: Any,
    ) -> None:
        rules = Rules("friendly_sam", filter, threshold, norm, one_dim)
        super().__init__(
            params, base_optimizer, rules=rules, rho=rho, sigma=sigma, lmbda=lmbda, q_p=q_p, **kwargs
        )


class ZSharp(SharpnessAware):
    """SAM along the components whose Z-score within their layer is large.

    Args:
        params: Parameters or groups.
        base_optimizer: Class of the optimizer that descends.
        rho: Radius. With `variant="official"` each tensor moves by rho, so ||e|| is about rho times the root
            of their number, 4 to 10 times larger than the `paper`'s at the same rho.
        q_p: Percentile of abs(z) below which components are dropped; 0.95 keeps the top 5 %.
        variant: `paper` or `official`; sets the four switches below where they are not given.
        filter: What components are ranked by.
        threshold: Percentile per tensor or over all.
        norm: Radius over all tensors or for each.
        one_dim: Whether 1-D tensors are filtered, used whole, or left alone.
        kwargs: `seed`, and the base optimizer's own.

    References:
        Yun, "Sharpness-Aware Minimization with Z-Score Gradient Filtering", arXiv 2505.02369.
    """

    def __init__(
        self,
        params: Params,
        base_optimizer: type[Optimizer],
        *,
        rho: Tensor | float = 0.05,
        q_p: Tensor | float = 0.95,
        variant: Literal["paper", "official"] = "paper",
        filter: Filter | None = None,
        threshold: Scope | None = None,
        norm: Scope | None = None,
        one_dim: OneDim | None = None,
        **kwargs: Any,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}; valid: {', '.join(VARIANTS)}")
        preset = VARIANTS[variant]
        rules = Rules(
            "sam",
            filter or preset.filter,
            threshold or preset.threshold,
            norm or preset.norm,
            one_dim or preset.one_dim,
        )
        super().__init__(params, base_optimizer, rules=rules, rho=rho, q_p=q_p, **kwargs)


def make_optimizer(
    params: Params, method: str = "zsharp", base_optimizer: str | type[Optimizer] = "adamw", **kwargs: Any
) -> Optimizer:
    """Returns the optimizer of a method; for `base`, the base optimizer itself.

    All of them are used alike: `step(closure, model=model)` works for `base` too, which ignores the settings of the
    ascent that it is passed.

    Args:
        params: Parameters or groups.
        method: A name in `METHODS`.
        base_optimizer: `sgd`, `adam`, `adamw`, or any `torch.optim` class.
        kwargs: Settings that replace the method's defaults (`rho`, `q_p`, ...), `seed`, and the base
            optimizer's own.

    Raises:
        ValueError: If the method or the base optimizer is unknown, or a number is outside its range.
        TypeError: If the method has no such setting.
    """
    row = find_method(method)
    if isinstance(base_optimizer, str):
        if base_optimizer not in BASE_OPTIMIZERS:
            raise ValueError(
                f"unknown base optimizer {base_optimizer!r}; valid: {', '.join(BASE_OPTIMIZERS)}"
            )
        base_optimizer = BASE_OPTIMIZERS[base_optimizer]
    check_base_class(base_optimizer)
    if row.rules.ascent == "none":
        own = signature(base_optimizer).parameters  # Adadelta has a rho
        kept = {name: value for name, value in kwargs.items() if name in own or name not in _OF_THE_ASCENT}
        return with_same_step(base_optimizer(params, **kept))
    for name in kwargs:
        if name in ASCENT_PARAMETERS and name not in row.defaults:
            raise TypeError(f"{method} has no setting {name!r}; its own are {', '.join(row.defaults)}")
    return SharpnessAware(params, base_optimizer, rules=row.rules, **{**row.defaults, **kwargs})
