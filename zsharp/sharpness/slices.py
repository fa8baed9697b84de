"""Evaluates the loss along one or two random directions through w, on a grid."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsharp.sharpness.loss_surface import LossSurface, normal_vector

_COORDINATES = tuple(i / 10 for i in range(-10, 11))


@dataclass(frozen=True)
class LossSlice:
    """Losses on a grid around w.

    Attributes:
        coordinates: float64 [n], multiples of each direction; the same along both axes.
        losses: float64 [n], or [n, n] with the first direction along the rows.
    """

    coordinates: NDArray[np.float64]
    losses: NDArray[np.float64]


def loss_slice(
    surface: LossSurface,
    *,
    seeds: Sequence[int] = (0,),
    coordinates: Sequence[float] = _COORDINATES,
    normalise: bool = True,
) -> LossSlice:
    """Returns the loss at w + a d_1, or at w + a d_1 + b d_2, for random directions d and all coordinates a, b.

    A direction is drawn from a standard normal. Filter normalisation then gives each of its filters (a slice along
    the first axis: the weights into one output channel or neuron) the length of that filter in w, and does not
    move parameters with fewer than two dimensions (biases, norm layers). This makes slices of differently scaled
    networks comparable. Costs one forward pass per point.

    Args:
        seeds: The seed of each direction: one for a line, two different ones for a plane.
        coordinates: Coordinates of the grid points, along each direction.

    Raises:
        ValueError: If there are not one or two different seeds, or no coordinates.

    References:
        Li et al. 2018, *Visualizing the Loss Landscape of Neural Nets*, section 4.
    """
    if len(seeds) not in (1, 2) or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds are {tuple(seeds)}; valid: one, or two different ones")
    if not len(coordinates):
        raise ValueError("coordinates are empty; valid: at least one number")
    directions = [_direction(surface, seed, normalise) for seed in seeds]
    losses = [
        surface.loss(sum(a * d for a, d in zip(point, directions, strict=True)))  # type: ignore[arg-type]
        for point in itertools.product(coordinates, repeat=len(seeds))
    ]
    grid = np.array(losses, dtype=np.float64).reshape((len(coordinates),) * len(seeds))
    return LossSlice(np.array(coordinates, dtype=np.float64), grid)


def _direction(surface: LossSurface, seed: int, normalise: bool) -> Tensor:
    direction = normal_vector(surface, torch.Generator().manual_seed(seed))
    if normalise:
        for name, part in surface.split(direction).items():  # views of `direction`: this changes it in place
            part *= _filter_norms(surface.params[name]) / _filter_norms(part) if part.dim() > 1 else 0
    return direction


def _filter_norms(weight: Tensor) -> Tensor:
    axes = tuple(range(1, weight.dim()))
    norms: Tensor = torch.linalg.vector_norm(weight, dim=axes, keepdim=True)
    return norms
