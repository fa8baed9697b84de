"""Slices of the loss along random directions."""

import numpy as np
import pytest
import torch
from surfaces import mlp, quadratic, rescaled
from torch import nn
from torch.nn import functional as F

from zsharp.sharpness import LossSurface, loss_slice

A = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("seeds", [[3], [3, 4]])
def test_lines_and_planes_through_a_quadratic(seeds):
    w, steps = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([-1, 0, 0.5], dtype=torch.float64)
    directions = [
        torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds
    ]
    result = loss_slice(quadratic(w, A), seeds=seeds, coordinates=steps.tolist(), normalise=False)
    points = w
    for d in directions:
        points = points[..., None, :] + steps[:, None] * d
    expected = 0.5 * torch.einsum("...i,ij,...j->...", points, A, points)
    assert result.coordinates.tolist() == steps.tolist()
    np.testing.assert_allclose(result.losses, expected.numpy(), rtol=1e-12, strict=True)


def test_filters_have_the_length_of_those_in_the_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).double()
    seen = []

    class Recorder(LossSurface):
        def loss(self, offset=None):
            seen.append(self.split(offset))
            return super().loss(offset)

    batch = (torch.randn(5, 2, 3, 3, dtype=torch.float64), torch.randint(4, (5,)))
    surface = Recorder(model, [batch], F.cross_entropy)
    loss_slice(surface, coordinates=[1.0])
    for name in ("0.weight", "3.weight"):
        moved, weight = seen[0][name].flatten(1), surface.params[name].flatten(1)
        assert torch.allclose(moved.norm(dim=1), weight.norm(dim=1), rtol=1e-12)
        assert not torch.allclose(moved, weight)
    for name in ("0.bias", "1.weight", "1.bias", "3.bias"):
        assert not seen[0][name].any()


def test_normalised_slices_do_not_see_a_rescaling():
    plain, other = (loss_slice(surface, seeds=[1]).losses for surface in rescaled())
    assert plain == pytest.approx(other, rel=1e-10)
    assert plain.std() > 0.001


def test_seeds_and_defaults():
    model, batch = mlp()
    surface = LossSurface(model, [batch], F.cross_entropy)
    first = loss_slice(surface)
    assert first.coordinates.tolist() == pytest.approx(np.linspace(-1, 1, 21))
    assert first.losses[10] == surface.loss()
    assert np.array_equal(first.losses, loss_slice(surface, seeds=[0]).losses)
    assert not np.array_equal(first.losses, loss_slice(surface, seeds=[1]).losses)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": []}, "one, or two"),
        ({"seeds": [1, 1]}, "one, or two"),
        ({"seeds": [1, 2, 3]}, "one, or two"),
        ({"coordinates": []}, "coordinates"),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(ValueError, match=message):
        loss_slice(quadratic([1.0, 1.0], A), **settings)
