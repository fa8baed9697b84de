"""Every measure against the formula of a loss that has one."""

import math

import pytest
import torch
from scipy.optimize import brentq
from surfaces import full_hessian, linear, mlp, quadratic, rescaled, symmetric
from torch import nn
from torch.nn import functional as F

from zsharp.sharpness import (
    LossSurface,
    average_case,
    hessian_trace,
    largest_eigenvalue,
    m_sharpness,
    worst_case,
)

RHO = 0.3
EIGENVALUES = [6.0, 2.0, 1.0, 0.5, -0.5]
A = symmetric(EIGENVALUES)
W = torch.tensor([0.5, -1.0, 0.2, 0.8, -0.1], dtype=torch.float64)


def half_square(matrix, w):
    return 0.5 * float(w @ matrix @ w)


def largest_in_ball(matrix, w, rho):
    """Maximum of (w + e)'A(w + e) / 2 - w'Aw / 2: e = (mu - A)^-1 Aw, for the mu above A that gives length rho."""
    size = len(w)

    def step(mu):
        return torch.linalg.solve(mu * torch.eye(size, dtype=w.dtype) - matrix, matrix @ w)

    top = float(torch.linalg.eigvalsh(matrix)[-1])
    mu = brentq(lambda mu: float(step(mu).norm()) - rho, top + 1e-9, top + 1e6, xtol=1e-13)
    return half_square(matrix, w + step(mu)) - half_square(matrix, w)


def test_one_step_of_a_quadratic():
    g = A @ W
    expected = half_square(A, W + RHO * g / g.norm()) - half_square(A, W)
    result = worst_case(quadratic(W, A), rho=RHO)
    assert result.increase == pytest.approx(expected, rel=1e-12)
    assert result.losses == pytest.approx((half_square(A, W), half_square(A, W) + expected), rel=1e-12)


def test_many_steps_find_the_maximum_over_the_ball():
    expected = largest_in_ball(A, W, RHO)
    one, many = (worst_case(quadratic(W, A), rho=RHO, num_steps=n) for n in (1, 40))
    assert many.increase == pytest.approx(expected, rel=1e-9)
    assert one.increase < expected * (1 - 1e-4)
    assert many.losses[:2] == one.losses
    assert len(many.losses) == 41
    assert many.increase == max(many.losses[1:]) - many.losses[0]


def test_at_a_minimum_the_worst_case_is_half_rho_squared_times_the_largest_eigenvalue():
    """The gradient there is exactly zero, so the first direction is random."""
    surface = quadratic(torch.zeros(5), A)
    result = worst_case(surface, rho=RHO, num_steps=60, seed=1)
    assert result.increase == pytest.approx(0.5 * RHO**2 * 6.0, rel=1e-9)
    assert worst_case(surface, rho=RHO, seed=1).increase != worst_case(surface, rho=RHO, seed=2).increase


def test_the_adaptive_ball_is_scaled_by_the_weights():
    eta = 0.1
    scale = W.abs() + eta
    g = A @ W
    e = RHO * scale**2 * g / (scale * g).norm()
    result = worst_case(quadratic(W, A), rho=RHO, adaptive=True, eta=eta)
    assert result.increase == pytest.approx(half_square(A, W + e) - half_square(A, W), rel=1e-12)
    many = worst_case(quadratic(W, A), rho=RHO, adaptive=True, eta=eta, num_steps=60)
    # in u = e / T the loss is quadratic again, with the matrix TAT around w / T
    expected = largest_in_ball(scale[:, None] * A * scale, W / scale, RHO)
    assert many.increase == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [1.0, 1e-30])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_the_step_of_a_linear_loss_has_length_rho_at_any_scale(size, num_steps):
    """Gradients whose squares float32 does not hold."""
    vectors = size * torch.tensor([[3.0, 4.0, 0.0]])
    surface = linear([0.0, 0.0, 0.0], vectors, [1], dtype=torch.float32)
    assert worst_case(surface, rho=RHO, num_steps=num_steps).increase == pytest.approx(
        RHO * 5 * size, rel=1e-5
    )


def test_adaptive_does_not_see_a_rescaling_that_leaves_the_function_alone():
    """The plain worst case does (Dinh et al. 2017)."""
    plain, adaptive = (
        [
            worst_case(surface, rho=0.1, adaptive=flag, eta=1e-12, num_steps=3).increase
            for surface in rescaled()
        ]
        for flag in (False, True)
    )
    assert adaptive[1] == pytest.approx(adaptive[0], rel=1e-6)
    assert plain[1] > 2 * plain[0]


@pytest.mark.parametrize("m", [1, 2, 3, 7, 100])
def test_m_sharpness_of_a_linear_loss(m):
    """rho times the norm of each group's mean gradient; groups reach across batches, the last is smaller."""
    vectors = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = torch.split(vectors, m)
    expected = sum(len(group) * RHO * float(group.mean(0).norm()) for group in groups) / 7
    result = m_sharpness(linear([0.1, 0.2, 0.3], vectors, [4, 1, 2]), rho=RHO, m=m)
    assert result.increase == pytest.approx(expected, rel=1e-12)
    assert result.num_groups == len(groups)


def test_the_average_case_of_a_quadratic():
    sigma, num_pairs = 0.2, 400
    result = average_case(quadratic(W, A), sigma=sigma, num_pairs=num_pairs)
    expected = 0.5 * sigma**2 * sum(EIGENVALUES)
    assert abs(result.increase - expected) < 3 * result.standard_error
    # the variance of e'Ae / 2 is sigma^4 ||A||^2 / 2; the gradient at w has no part in it
    expected_error = sigma**2 * math.sqrt(sum(x * x for x in EIGENVALUES) / 2 / num_pairs)
    assert result.standard_error == pytest.approx(expected_error, rel=0.2)
    assert result.num_pairs == num_pairs


def test_the_largest_eigenvalue_is_not_the_one_of_largest_size():
    matrix = symmetric([-9.0, -8.0, 2.0, 1.0, 0.0, 0.5])
    result = largest_eigenvalue(quadratic(torch.ones(6), matrix), tolerance=1e-8)
    assert result.value == pytest.approx(2.0, rel=1e-8)
    assert result.converged and result.residual <= 2e-8
    assert result.num_products <= 7


def test_an_eigenvalue_that_has_not_converged_says_so():
    matrix = symmetric([1 + i / 40 for i in range(40)])
    surface = quadratic(torch.ones(40), matrix)
    result = largest_eigenvalue(surface, max_products=4, tolerance=1e-3)
    assert (result.converged, result.num_products) == (False, 4)
    assert result.residual > 1e-3 * result.value
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert float((eigenvalues - result.value).abs().min()) <= result.residual
    assert 0.5 * float(eigenvalues[-1]) < result.value < float(eigenvalues[-1])
    assert largest_eigenvalue(surface, max_products=42, tolerance=1e-3).converged


def test_a_loss_without_curvature():
    surface = linear([1.0, 2.0], [[1.0, -1.0]], [1])
    result = largest_eigenvalue(surface)
    assert (result.value, result.residual, result.converged) == (0, 0, True)
    assert hessian_trace(surface, num_vectors=3).value == 0


def test_the_trace():
    diagonal = hessian_trace(quadratic(W, torch.diag(torch.arange(5.0))), num_vectors=4)
    assert diagonal.value == pytest.approx(10.0, rel=1e-12)  # exact for random signs
    assert diagonal.standard_error == pytest.approx(0, abs=1e-12)
    result = hessian_trace(quadratic(W, A), num_vectors=200)
    assert abs(result.value - sum(EIGENVALUES)) < 3 * result.standard_error
    off_diagonal = A - torch.diag(A.diag())
    expected_error = math.sqrt(2 * float(off_diagonal.square().sum()) / 200)
    assert result.standard_error == pytest.approx(expected_error, rel=0.2)


def unequal_batches(inputs, targets):
    sizes = [1, len(targets) - 4, 3]
    return list(zip(torch.split(inputs, sizes), torch.split(targets, sizes), strict=True))


def known_hessian(kind):
    """A surface and its Hessian from the formula, or for the network from torch.autograd.functional."""
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Flatten(0)).double()
    if kind == "mlp":
        model, batch = mlp()
        surface = LossSurface(model, unequal_batches(*batch), F.cross_entropy)
        return surface, full_hessian(surface)
    if kind == "linear regression":
        y = torch.randn(30, generator=generator, dtype=torch.float64)
        return LossSurface(model, unequal_batches(X, y), nn.MSELoss()), 2 * X.T @ X / 30
    y = torch.randint(2, (30,), generator=generator).double()
    p = torch.sigmoid(model(X)).detach()
    hessian = X.T @ torch.diag(p * (1 - p)) @ X / 30
    return LossSurface(model, unequal_batches(X, y), F.binary_cross_entropy_with_logits), hessian


@pytest.mark.parametrize("kind", ["linear regression", "logistic regression", "mlp"])
def test_known_hessians(kind):
    surface, hessian = known_hessian(kind)
    size = len(surface.weights)
    columns = torch.stack([surface.hessian_product(row) for row in torch.eye(size, dtype=torch.float64)], 1)
    assert torch.allclose(columns, hessian, rtol=1e-9, atol=1e-12)
    result = largest_eigenvalue(surface, max_products=size + 1, tolerance=1e-6)
    assert result.converged
    assert result.value == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-9)
    trace = hessian_trace(surface, num_vectors=100)
    assert abs(trace.value - float(hessian.trace())) < 3 * trace.standard_error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: worst_case(s, rho=0), "rho 0,"),
        (lambda s: worst_case(s, rho=0.1, num_steps=0), "num_steps 0,"),
        (lambda s: worst_case(s, rho=0.1, step_size=-1), "step_size -1,"),
        (lambda s: worst_case(s, rho=0.1, adaptive=True, eta=0), "eta 0;"),
        (lambda s: m_sharpness(s, rho=0.1, m=0), "m is 0"),
        (lambda s: average_case(s, sigma=0), "sigma 0,"),
        (lambda s: average_case(s, sigma=1, num_pairs=1), "num_pairs 1;"),
        (lambda s: largest_eigenvalue(s, max_products=1), "max_products is 1"),
        (lambda s: hessian_trace(s, num_vectors=1), "num_vectors is 1"),
    ],
)
def test_settings_that_make_no_sense(call, message):
    with pytest.raises(ValueError, match=message):
        call(quadratic(W, A))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_gives_no_number(bad):
    surface = linear([1.0, 2.0], [[bad, 1.0]], [1])
    assert not math.isfinite(worst_case(surface, rho=0.1, num_steps=3).increase)
    assert not math.isfinite(m_sharpness(surface, rho=0.1, m=1).increase)
    assert math.isnan(average_case(surface, sigma=1).increase)
    curved = quadratic([1.0, 2.0], [[bad, 1.0], [1.0, 1.0]])
    assert math.isnan(hessian_trace(curved).value)
    result = largest_eigenvalue(curved)
    assert not math.isfinite(result.value) and not result.converged
