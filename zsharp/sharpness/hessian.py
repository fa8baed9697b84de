"""Estimates the largest eigenvalue and the trace of the Hessian from Hessian-vector products."""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from zsharp.sharpness.loss_surface import LossSurface, normal_vector


@dataclass(frozen=True)
class LargestEigenvalue:
    """A Ritz value: at most the largest eigenvalue, up to rounding, and within `residual` of some eigenvalue.

    Attributes:
        value: v'Hv for the unit vector v that Lanczos' method found; not finite if a product was not.
        residual: ||Hv - value v||, from one more product, with v itself.
        converged: Whether the residual is at most `tolerance * abs(value)`.
        num_products: Number of Hessian-vector products taken.
    """

    value: float
    residual: float
    converged: bool
    num_products: int


@dataclass(frozen=True)
class Trace:
    """A mean over random vectors.

    Attributes:
        value: Mean of v'Hv.
        standard_error: Standard error of the value, from the spread between the vectors.
        num_vectors: Number of vectors, and of Hessian-vector products.
    """

    value: float
    standard_error: float
    num_vectors: int


def largest_eigenvalue(
    surface: LossSurface, *, max_products: int = 30, tolerance: float = 1e-2, seed: int = 0
) -> LargestEigenvalue:
    """Returns the algebraically largest eigenvalue of the Hessian of L at w.

    Runs Lanczos' method from a random vector, keeping each new vector orthogonal to all earlier ones, until the
    residual it predicts is small enough. Holds up to `max_products` vectors [d] in memory.

    Args:
        max_products: Upper limit on Hessian-vector products, at least 2; the last one measures the residual.
        tolerance: Largest residual that counts as converged, relative to the value.

    Raises:
        ValueError: If fewer than two products are allowed.

    References:
        Lanczos 1950; Parlett 1980, The Symmetric Eigenvalue Problem (full reorthogonalisation).
    """
    if max_products < 2:
        raise ValueError(f"max_products is {max_products}; valid: whole numbers from 2")
    start = normal_vector(surface, torch.Generator().manual_seed(seed))
    vector, num_products = _ritz_vector(surface, start, max_products - 1, tolerance)
    image = surface.hessian_product(vector)
    value = torch.dot(vector, image)
    residual = torch.linalg.vector_norm(image - value * vector).item()
    converged = residual <= tolerance * abs(value.item())
    return LargestEigenvalue(value.item(), residual, converged, num_products + 1)


def hessian_trace(surface: LossSurface, *, num_vectors: int = 16, seed: int = 0) -> Trace:
    """Returns Hutchinson's estimate of the trace of the Hessian of L at w: the mean of v'Hv over random signs v.

    Costs `num_vectors` Hessian-vector products.

    Raises:
        ValueError: If there are fewer than two vectors.

    References:
        Hutchinson 1990.
    """
    if num_vectors < 2:
        raise ValueError(f"num_vectors is {num_vectors}; valid: whole numbers from 2")
    generator = torch.Generator().manual_seed(seed)
    forms = []
    for _ in range(num_vectors):
        signs = torch.randint(2, (len(surface.weights),), generator=generator) * 2 - 1
        vector = signs.to(surface.weights)
        forms.append(torch.dot(vector, surface.hessian_product(vector)).item())
    if not all(map(math.isfinite, forms)):
        return Trace(math.nan, math.nan, num_vectors)
    return Trace(fmean(forms), stdev(forms) / math.sqrt(num_vectors), num_vectors)


def _ritz_vector(
    surface: LossSurface, start: Tensor, max_products: int, tolerance: float
) -> tuple[Tensor, int]:
    """Returns the unit vector of the largest Ritz value, and the number of products taken.

    In the basis that Lanczos' method builds, the Hessian is tridiagonal: `diagonal` and `off_diagonal` hold it.
    Its eigenvector of the largest eigenvalue, written out in that basis, is the result.
    """
    basis = [start / torch.linalg.vector_norm(start)]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    while True:
        image = surface.hessian_product(basis[-1])
        diagonal.append(torch.dot(basis[-1], image).item())
        if not math.isfinite(diagonal[-1]):
            return image, len(diagonal)
        for vector in basis + basis:  # once loses orthogonality to rounding, twice is enough (Parlett 1980)
            image = image - torch.dot(vector, image) * vector
        beta = torch.linalg.vector_norm(image).item()
        projected = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        for i, value in enumerate(off_diagonal):
            projected[i, i + 1] = projected[i + 1, i] = value
        values, vectors = torch.linalg.eigh(projected)
        expected_residual = beta * abs(vectors[-1, -1].item())
        # The measured residual exceeds the predicted one by rounding; aiming at half the tolerance leaves room.
        is_small = expected_residual <= tolerance / 2 * abs(values[-1].item())
        if is_small or len(diagonal) == min(max_products, len(start)):
            weights = vectors[:, -1].to(start)
            ritz = sum((w * b for w, b in zip(weights, basis, strict=True)), torch.zeros_like(start))
            return ritz / torch.linalg.vector_norm(ritz), len(diagonal)
        off_diagonal.append(beta)
        basis.append(image / beta)
