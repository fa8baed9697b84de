"""The ascent through Triton's kernels finds what the ascent on the CPU finds: interpreted, and on a GPU.

Triton reads TRITON_INTERPRET when it is imported, so this file runs itself as a script for the former.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from zsharp.optim import make_optimizer
from zsharp.optim.ascent import ascent
from zsharp.optim.triton.tables import filled_after_capture

METHODS = ["zsharp", "zsharp_official", "magnitude_sam", "zsharp_friendly_sam"]
NUM_STEPS = 2


def run(method, device="cpu"):
    """Weights at w + e and back, what was observed, for a small net with 1-D and single-element tensors."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 5))
    model.register_parameter("gain", nn.Parameter(torch.ones(1)))
    model = model.to(memory_format=torch.channels_last).to(device)
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1, q_p=0.8)
    found = []
    for step in range(NUM_STEPS):
        generator = torch.Generator().manual_seed(step)
        for param in model.parameters():
            param.grad = torch.randn(param.shape, generator=generator).to(device)
            if step == 1 and param.ndim == 1:
                param.grad.fill_(0.5)  # all equal: nothing of these is kept
        before = [param.detach().clone() for param in model.parameters()]
        optimizer.first_step()
        perturbed = [param.detach().clone().cpu() for param in model.parameters()]
        last = optimizer.last
        found.append(
            (perturbed, [x.cpu() for x in (last.norm, last.kept, last.kept_fraction, last.grad_norm)])
        )
        optimizer.restore()
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    return found


def assert_same(found, expected):
    assert len(found) == NUM_STEPS
    for (weights, observed), (other_weights, other_observed) in zip(found, expected, strict=True):
        for one, other in zip(weights, other_weights, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
        for one, other in zip(observed, other_observed, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    path = tmp_path_factory.mktemp("interpreted") / "found.pt"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-W", "error", __file__, str(path)], env=environment, check=True, timeout=200
    )
    return torch.load(path)


@pytest.mark.parametrize("method", METHODS)
def test_interpreted_kernels_move_the_weights_as_the_cpu_does(interpreted, method):
    assert_same(interpreted[method], run(method))


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_moves_the_weights_as_the_cpu_does(method):
    assert_same(run(method, "cuda"), run(method))


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["sam", "random_sam", *METHODS])
def test_a_graph_holds_a_step_whose_settings_are_plain_numbers(method):
    """A number copied from the host is waited for, which a capture refuses."""
    torch.manual_seed(0)
    model = nn.Linear(40, 30).cuda()
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1)
    inputs = torch.randn(16, 40, device="cuda")

    def step():
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.first_step(zero_grad=True)
        model(inputs).square().mean().backward()
        optimizer.second_step()

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    for generator in optimizer.generators:
        graph.register_generator_state(generator)
    with filled_after_capture(inputs.device) as tables, torch.cuda.graph(graph):
        step()
    before = model(inputs).square().mean()
    for _ in range(3):
        graph.replay()
    assert model(inputs).square().mean() < before
    assert tables.numel() > 0


def main(path):
    from zsharp.optim.triton import ascent as triton_ascent

    triton_ascent.is_available = lambda device: True
    ascent._is_host = lambda devices: False
    calls = []
    ascend = triton_ascent.ascend

    def small(layers, backups, home):
        calls.append(len(layers))
        return ascend(layers, backups, home, block=256)  # several chunks for the largest tensor

    triton_ascent.ascend = small
    torch.save({method: run(method) for method in METHODS}, path)
    assert len(calls) == NUM_STEPS * len(METHODS), "the kernels ran"


if __name__ == "__main__":
    main(sys.argv[1])
