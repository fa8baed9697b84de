"""A classifier with 2-D, 1-D and single-element tensors, batches for it, and its closure."""

import copy

import torch
from torch import nn

from zsharp.optim import METHODS

# Those that ascend along the gradient at w; `test_one_pass.py` has the others.
SHARP = [name for name, method in METHODS.items() if method.gradient_evaluations_per_step == 2]


def with_percentile(method, q_p):
    """The settings of a method with this percentile, if it has one."""
    return {"q_p": q_p} if "q_p" in METHODS[method].defaults else {}


class Classifier(nn.Module):
    def __init__(self, batch_norm=False, width=12):
        super().__init__()
        self.first = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.LayerNorm(width)
        self.second = nn.Linear(width, 4)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.second(torch.tanh(self.norm(self.first(x)))) * self.gain


def classifier(seed=0, **kwargs):
    torch.manual_seed(seed)
    return Classifier(**kwargs)


def batches(num, size=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(size, 6, generator=generator), torch.randint(4, (size,), generator=generator))
        for _ in range(num)
    ]


def loss_of(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def closure_for(model, optimizer, batch):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return loss

    return closure


def gradients(model, values, batch):
    """Gradients, as arrays, and loss at other weights, leaving the model as it is."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for param, value in zip(twin.parameters(), values, strict=True):
            param.copy_(torch.as_tensor(value))
    loss = loss_of(twin, batch)
    return [g.numpy() for g in torch.autograd.grad(loss, list(twin.parameters()))], loss.item()


def two_steps(model, optimizer, batch):
    loss = loss_of(model, batch)
    loss.backward()
    optimizer.first_step(zero_grad=True)
    loss_of(model, batch).backward()
    optimizer.second_step(zero_grad=True)
    return loss.detach()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(one, two):
    """Whether two lists of tensors are equal bit for bit."""
    one, two = list(one), list(two)
    return len(one) == len(two) > 0 and all(torch.equal(p, q) for p, q in zip(one, two, strict=True))


def close(actual, expected, rtol=1e-9):
    """Asserts that two lists of tensors or arrays are equal up to rounding, and hold something."""
    assert len(actual) > 0
    for one, two in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, torch.as_tensor(two), rtol=rtol, atol=rtol / 100)
