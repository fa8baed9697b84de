"""Slices of the loss along random directions."""

import numpy as np
import pytest
import torch
from surfaces import mlp, quadratic
from torch import nn
from torch.nn import functional as F

from zsharp.sharpness import LossSurface, loss_slice

A = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)


def direction(seed):
    return torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_line_through_a_quadratic():
    w, d = torch.tensor([1.0, -2.0], dtype=torch.float64), direction(3)
    found = loss_slice(quadratic(w, A), seeds=[3], coordinates=[-1, 0, 0.5], normalise=False)
    points = [w + a * d for a in (-1, 0, 0.5)]
    assert found.coordinates.tolist() == [-1, 0, 0.5]
    assert found.losses.shape == (3,) and found.losses.dtype == np.float64
    assert found.losses.tolist() == pytest.approx([0.5 * float(p @ A @ p) for p in points], rel=1e-12)


def test_a_plane_through_a_quadratic():
    w, d, e = torch.tensor([1.0, -2.0], dtype=torch.float64), direction(3), direction(4)
    found = loss_slice(quadratic(w, A), seeds=[3, 4], coordinates=[-1, 0, 2], normalise=False)
    expected = [[0.5 * float(p @ A @ p) for p in (w + a * d + b * e for b in (-1, 0, 2))] for a in (-1, 0, 2)]
    assert found.losses.tolist() == [pytest.approx(row, rel=1e-12) for row in expected]


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
    """As for the adaptive worst case: layers of a ReLU network times 8 and 1/8."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
    batch = (torch.randn(20, 4, dtype=torch.float64), torch.randint(3, (20,)))
    found = []
    for _ in range(2):
        surface = LossSurface(model, [batch], F.cross_entropy)
        found.append(loss_slice(surface, seeds=[1]).losses)
        with torch.no_grad():
            model[0].weight *= 8
            model[2].weight /= 8
    assert found[0] == pytest.approx(found[1], rel=1e-10)
    assert found[0].std() > 0.001


def test_seeds_and_defaults():
    model, batch = mlp()
    surface = LossSurface(model, [batch], F.cross_entropy)
    first = loss_slice(surface)
    assert first.coordinates.tolist() == pytest.approx(np.linspace(-1, 1, 21))
    assert first.losses[10] == surface.loss()
    assert np.array_equal(first.losses, loss_slice(surface, seeds=[0]).losses)
    assert not np.array_equal(first.losses, loss_slice(surface, seeds=[1]).losses)


@pytest.mark.parametrize("seeds", [[], [1, 1], [1, 2, 3]])
def test_wrong_seeds(seeds):
    with pytest.raises(ValueError, match="one, or two different ones"):
        loss_slice(quadratic([1.0, 1.0], A), seeds=seeds)


def test_no_coordinates():
    with pytest.raises(ValueError, match="coordinates are empty"):
        loss_slice(quadratic([1.0, 1.0], A), coordinates=[])
