"""The examples of docs/optimizers.md run as they stand, one after the other, and its numbers are ours."""

import re
from pathlib import Path

import torch

from zsharp.optim import make_optimizer

PAGE = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()


def test_the_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) > 5
    scope = {}
    for block in blocks:
        exec(block, scope)
    assert float(scope["loss"]) > 0
    assert float(scope["optimizer"].last.norm) > 0
    assert scope["optimizer"].param_groups[0]["rho"] == 0.1


def test_the_radius_of_the_official_variant_is_as_stated():
    """rho times the root of the number of tensors with more than one dimension, for random gradients."""
    from zsharp.models import build_model

    for name, ratio in (("resnet20", 4.5), ("vgg16_bn", 3.7)):
        assert f"{ratio} rho for" in PAGE
        torch.manual_seed(0)
        params = list(build_model(name, (3, 32, 32), 10).parameters())
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer = make_optimizer(params, "zsharp_official", "sgd", lr=0.1, rho=1.0)
        optimizer.first_step()
        assert abs(float(optimizer.last.norm) - ratio) < 0.1
