"""The controls of the radius trap: how far they go, and that they differ from their rivals in one thing only."""

from math import sqrt

import pytest
import torch
from small_runs import is_same, one_step_spec

from zsharp.optim import METHODS, make_optimizer
from zsharp.training import Training


def one_step(method, architecture="resnet8", **params):
    training = Training(one_step_spec(method, architecture, params=params))
    return training.run_epoch(), training


@pytest.mark.parametrize("architecture", ["resnet8", "vit_tiny"])
def test_lengths_of_the_perturbation(architecture):
    rows = {
        method: one_step(method, architecture, rho=0.02)
        for method in ("sam", "zsharp", "sam_sqrt_l", "layer_sam", "zsharp_official")
    }
    num_layers = sum(p.ndim > 1 for p in rows["sam"][1].model.parameters())
    assert num_layers == {"resnet8": 8, "vit_tiny": 20}[architecture]
    lengths = {method: row["perturbation_norm"] for method, (row, _) in rows.items()}
    assert lengths["sam"] == pytest.approx(0.02, rel=1e-4)
    assert lengths["zsharp"] == pytest.approx(0.02, rel=1e-4)
    assert lengths["sam_sqrt_l"] == pytest.approx(0.02 * sqrt(num_layers), rel=1e-4)
    # 1-D tensors add plain SAM's share, at most rho.
    for method in ("layer_sam", "zsharp_official"):
        assert 0.02 * sqrt(num_layers) * 0.999 < lengths[method] < 0.02 * sqrt(num_layers + 1)


def test_sam_sqrt_l_is_sam_at_that_radius():
    one, two = one_step("sam_sqrt_l", rho=0.02)[1], one_step("sam", rho=0.02 * sqrt(8))[1]
    assert is_same(one.model.state_dict(), two.model.state_dict())


def test_layer_sam_is_the_authors_code_without_a_mask():
    trained = [one_step("layer_sam", rho=0.02)[1].model.state_dict()]
    trained += [one_step("zsharp_official", rho=0.02, q_p=q_p)[1].model.state_dict() for q_p in (0.0, 0.95)]
    assert is_same(trained[0], trained[1])
    assert not is_same(trained[0], trained[2])


def test_outside_of_training_the_radius_is_as_given():
    params = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(3, 2))]
    optimizer = make_optimizer(params, "sam_sqrt_l", "sgd", lr=0.1, rho=0.5)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.first_step()
    assert float(optimizer.last.norm) == pytest.approx(0.5)
    assert {name for name, row in METHODS.items() if row.radius != "rho"} == {"sam_sqrt_l"}
