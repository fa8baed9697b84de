"""Finds the largest loss near w by projected gradient ascent."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zsharp.sharpness.loss_surface import LossSurface, normal_vector


@dataclass(frozen=True)
class WorstCase:
    """The result of an ascent from w.

    Attributes:
        increase: Largest loss after the first step, minus the loss at w; NaN if a loss is NaN. The ascent may miss
            the maximum over the ball, so this is a lower bound; below 0 if every step overshot.
        losses: At w and after each step.
    """

    increase: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class GroupedWorstCase:
    """The mean of the worst cases of groups of examples.

    Attributes:
        increase: Mean over the groups, each weighted by its number of examples.
        num_groups: Number of groups.
    """

    increase: float
    num_groups: int


def worst_case(
    surface: LossSurface,
    *,
    rho: float,
    num_steps: int = 1,
    step_size: float | None = None,
    adaptive: bool = False,
    eta: float = 0.01,
    seed: int = 0,
) -> WorstCase:
    """Returns max L(w + e) - L(w) over ||e / T|| <= rho, as found by normalised gradient ascent.

    T is 1, or abs(w) + eta if adaptive. The first step goes to the surface of the ball, e = rho T^2 g / ||T g||:
    the perturbation of SAM, or of ASAM if adaptive. Each later step adds `step_size` times T g / ||T g|| to e / T
    and projects onto the ball. Costs `num_steps` gradient evaluations and one forward pass.

    Args:
        rho: Radius; in units of the weights, or relative to them if adaptive.
        step_size: Length of the later steps; half of rho if not given.
        adaptive: Whether the ball is an ellipsoid with axes in proportion to abs(w) + eta.
        eta: Lets weights that are zero move, too.
        seed: Seed of the random direction used where the gradient is exactly zero.

    Raises:
        ValueError: If rho, the step size, the number of steps or eta is not positive.

    References:
        Foret et al. 2021 (SAM), eq. 2; Kwon et al. 2021 (ASAM), eq. 7; the projected ascent is that
        of Andriushchenko and Flammarion 2022, with a first step of rho.
    """
    step_size = rho / 2 if step_size is None else step_size
    if not (rho > 0 and step_size > 0 and num_steps >= 1 and eta > 0):
        given = f"rho {rho}, step_size {step_size}, num_steps {num_steps}, eta {eta}"
        raise ValueError(f"{given}; valid: all positive")
    scale = surface.weights.abs() + eta if adaptive else torch.ones_like(surface.weights)
    position = torch.zeros_like(surface.weights)
    losses = []
    for step in range(num_steps):
        loss, gradient = surface.loss_and_gradient(scale * position)
        losses.append(loss)
        direction = scale * gradient
        if not direction.any():
            direction = normal_vector(surface, torch.Generator().manual_seed(seed))
        position = position + _scaled_to(direction, step_size if step else rho)
        if torch.linalg.vector_norm(position) > rho:
            position = _scaled_to(position, rho)
    losses.append(surface.loss(scale * position))
    worst = math.nan if any(map(math.isnan, losses)) else max(losses[1:])
    return WorstCase(worst - losses[0], tuple(losses))


def m_sharpness(surface: LossSurface, *, rho: float, m: int, num_steps: int = 1) -> GroupedWorstCase:
    """Returns the mean over groups of m examples of each group's own worst case.

    Groups follow the order of the examples, regardless of batches; the last one may be smaller. Costs as much as
    `worst_case`, in passes of m examples. In mode `train` batch norm sees one group at a time.

    Raises:
        ValueError: If m, rho or the number of steps is not positive.

    References:
        Foret et al. 2021 (SAM), section 4.2.
    """
    if m < 1:
        raise ValueError(f"m is {m}; valid: whole numbers from 1")
    inputs, targets = (torch.cat(parts) for parts in zip(*surface.batches, strict=True))
    groups = list(zip(torch.split(inputs, m), torch.split(targets, m), strict=True))
    increases = [
        len(group[1]) * worst_case(surface.restricted_to(group), rho=rho, num_steps=num_steps).increase
        for group in groups
    ]
    return GroupedWorstCase(math.fsum(increases) / surface.num_examples, len(groups))


def _scaled_to(vector: Tensor, length: float) -> Tensor:
    # Divide by the largest component first: squares of small gradients underflow in float32.
    vector = vector / vector.abs().max()
    scaled: Tensor = vector * (length / torch.linalg.vector_norm(vector))
    return scaled
