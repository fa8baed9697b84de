"""Measures how much the loss rises, on average, when noise is added to the weights."""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

import torch

from zsharp.sharpness.loss_surface import LossSurface, normal_vector


@dataclass(frozen=True)
class AverageCase:
    """A mean over draws of the noise.

    Attributes:
        increase: Mean of L(w + e) - L(w).
        standard_error: Standard error of the increase, from the spread between the pairs.
        num_pairs: Number of draws e, each also used as -e.
    """

    increase: float
    standard_error: float
    num_pairs: int


def average_case(surface: LossSurface, *, sigma: float, num_pairs: int = 8, seed: int = 0) -> AverageCase:
    """Returns the mean of L(w + e) - L(w) over e ~ N(0, sigma^2 I).

    Each draw is used with both signs: this cancels the gradient's contribution, which has mean zero and would only
    add spread. To second order the mean is sigma^2 tr(H) / 2. In float32 an increase below 1e-6 of the loss is
    rounding error. Costs 2 num_pairs + 1 forward passes.

    Args:
        sigma: Standard deviation of each component of e.
        num_pairs: Number of draws, at least 2.

    Raises:
        ValueError: If sigma is not positive or there are fewer than two pairs.

    References:
        Andriushchenko et al. 2023 (average-case sharpness, not adaptive); the pairs are ours.
    """
    if not (sigma > 0 and num_pairs >= 2):
        raise ValueError(f"sigma {sigma}, num_pairs {num_pairs}; valid: 0 < sigma, 2 <= num_pairs")
    generator = torch.Generator().manual_seed(seed)
    base = surface.loss()
    increases = []
    for _ in range(num_pairs):
        offset = sigma * normal_vector(surface, generator)
        increases.append((surface.loss(offset) + surface.loss(-offset)) / 2 - base)
    if not all(map(math.isfinite, increases)):
        return AverageCase(math.nan, math.nan, num_pairs)
    return AverageCase(fmean(increases), stdev(increases) / math.sqrt(num_pairs), num_pairs)
