"""A loop of a user's own needs no special case: every method is built and stepped alike, `base` too."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import StepLR

from zsharp.optim import METHODS, make_optimizer

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


def steps(build, num=3, *, passes_model=True):
    """Trains a small model with batch norm; returns it with its optimizer and how often a step's hook was called."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    optimizer, calls = build(model.parameters()), []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    return model, take(model, optimizer, num, passes_model), len(calls)


def take(model, optimizer, num, passes_model=True):
    def closure():
        optimizer.zero_grad()
        loss = model(INPUTS).square().mean()
        loss.backward()
        return loss

    for _ in range(num):
        loss = optimizer.step(closure, **({"model": model} if passes_model else {}))
        assert loss.ndim == 0
    return optimizer


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_a_radius_and_a_model(method):
    model, _, num_calls = steps(
        lambda params: make_optimizer(params, method, "adamw", lr=0.01, rho=0.05, seed=1)
    )
    assert model[1].num_batches_tracked == 3
    assert num_calls == 3


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adadelta])
def test_base_is_the_base_optimizer(kind):
    model, optimizer, _ = steps(lambda params: make_optimizer(params, "base", kind, lr=0.1))
    plain, expected, _ = steps(lambda params: kind(params, lr=0.1), passes_model=False)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), plain.parameters(), strict=True))
    assert isinstance(optimizer, kind)
    assert str(optimizer.state_dict()) == str(expected.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_base_survives_copies_and_schedulers(copied):
    def build(params):
        return make_optimizer(params, "base", "adamw", lr=0.1)

    expected, *_ = steps(build, 5)
    model, optimizer = copied(steps(build, 3)[:2])
    StepLR(optimizer, 10)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    take(model, optimizer, 2)
    assert len(calls) == 2
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), expected.parameters(), strict=True))


def test_base_steps_through_a_scaler():
    scaler = GradScaler("cpu", init_scale=8.0)
    model = nn.Linear(4, 1)
    optimizer = make_optimizer(model.parameters(), "base", "sgd", lr=0.1)
    twin = copy.deepcopy(model)

    def closure():
        optimizer.zero_grad()
        loss = model(INPUTS).mean()
        scaler.scale(loss).backward()
        return loss

    optimizer.step(closure, model=model, scaler=scaler)
    twin(INPUTS).mean().backward()
    torch.testing.assert_close(model.weight, twin.weight - 0.1 * twin.weight.grad)


def test_only_the_ascents_own_settings_are_ignored():
    params = [nn.Parameter(torch.ones(2))]
    assert make_optimizer(params, "base", torch.optim.Adadelta, rho=0.7).param_groups[0]["rho"] == 0.7
    with pytest.raises(TypeError, match="rhoo"):
        make_optimizer(params, "base", "sgd", lr=0.1, rhoo=0.1)
    with pytest.raises(TypeError, match="sam has no setting 'q_p'"):
        make_optimizer(params, "sam", "sgd", lr=0.1, q_p=0.9)
