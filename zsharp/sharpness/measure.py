"""Takes all measures of a model at once, at a bounded cost, as one flat row."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from zsharp.sharpness.average_case import average_case
from zsharp.sharpness.hessian import hessian_trace, largest_eigenvalue
from zsharp.sharpness.loss_surface import LossFunction, LossSurface, ParamFilter
from zsharp.sharpness.worst_case import m_sharpness, worst_case

MEASURES = {
    "loss": "loss at w, in nats for cross-entropy, as all increases",
    "worst_1step": "increase after one ascent step of length rho, that of SAM",
    "worst_nstep": "largest increase along 10 steps of projected ascent in the ball of radius rho",
    "m_sharpness": "mean over groups of m examples of each group's own worst_1step",
    "adaptive": "increase after one ascent step of length adaptive_rho relative to abs(w) + 0.01, that of ASAM",
    "average": "mean increase under normal noise of standard deviation sigma on every weight, 8 pairs",
    "average_se": "its standard error",
    "hessian_max": "largest eigenvalue of the Hessian, in units of loss per squared weight",
    "hessian_max_residual": "||Hv - hessian_max v|| for the unit vector v found, same units",
    "hessian_max_converged": "1 if the residual is at most 1 % of the eigenvalue, else 0",
    "hessian_trace": "trace of the Hessian from 8 random vectors, same units",
    "hessian_trace_se": "its standard error",
}
"""What `measure` returns, by name; in Parquet files the names are `sharpness.<name>`."""

_NUM_STEPS = 10
_NUM_PAIRS = 8
_MAX_PRODUCTS = 20
_NUM_VECTORS = 8


def measure(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    loss_function: LossFunction = F.cross_entropy,
    *,
    rho: float = 0.05,
    m: int = 32,
    seed: int = 0,
    adaptive_rho: float = 0.5,
    sigma: float = 0.01,
    mode: Literal["eval", "train"] = "eval",
    param_filter: ParamFilter | None = None,
    max_examples: int = 1024,
) -> dict[str, float | None]:
    """Returns every measure of `MEASURES` by its name; None where it is not finite.

    In passes over the examples, this costs 12 gradient evaluations, 20 forward passes and at most 28
    Hessian-vector products, each as long as three to four gradient evaluations: about 130 gradient evaluations at
    most. To compare models, keep everything but the model fixed.

    Args:
        model: As for `LossSurface`; it is not changed.
        batches: (inputs, targets) on the model's device.
        loss_function: Maps (outputs, targets) to the mean over the examples.
        rho: Radius of the ball for the worst cases.
        m: Size of the groups of m-sharpness.
        seed: Seed of all random vectors and of the model's own randomness.
        adaptive_rho: Radius of the adaptive worst case; ASAM's rho is about ten times SAM's.
        sigma: Standard deviation of the noise in the average case. Noise of length rho would be too short: its
            effect, rho^2 tr(H) / 2d, is lost in the rounding of a float32 loss.
        mode: The model's mode.
        param_filter: Maps (name, parameter) to whether it moves. Default: those that require gradients.
        max_examples: Only the first this many examples are used.

    Raises:
        ValueError: If there is no example or no parameter, or rho, adaptive_rho, sigma or m is not positive.
    """
    surface = LossSurface(
        model, _first(batches, max_examples), loss_function, mode=mode, param_filter=param_filter, seed=seed
    )
    ascent = worst_case(surface, rho=rho, num_steps=_NUM_STEPS, seed=seed)
    average = average_case(surface, sigma=sigma, num_pairs=_NUM_PAIRS, seed=seed)
    largest = largest_eigenvalue(surface, max_products=_MAX_PRODUCTS, seed=seed)
    trace = hessian_trace(surface, num_vectors=_NUM_VECTORS, seed=seed)
    row = {
        "loss": ascent.losses[0],
        "worst_1step": ascent.losses[1] - ascent.losses[0],
        "worst_nstep": ascent.increase,
        "m_sharpness": m_sharpness(surface, rho=rho, m=m).increase,
        "adaptive": worst_case(surface, rho=adaptive_rho, adaptive=True, seed=seed).increase,
        "average": average.increase,
        "average_se": average.standard_error,
        "hessian_max": largest.value,
        "hessian_max_residual": largest.residual,
        "hessian_max_converged": float(largest.converged),
        "hessian_trace": trace.value,
        "hessian_trace_se": trace.standard_error,
    }
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _first(batches: Sequence[tuple[Tensor, Tensor]], num_examples: int) -> list[tuple[Tensor, Tensor]]:
    kept = []
    for inputs, targets in batches:
        kept.append((inputs[:num_examples], targets[:num_examples]))
        num_examples = max(0, num_examples - len(targets))
    return kept
