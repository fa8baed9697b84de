"""Losses whose sharpness is known: quadratic and linear in the weights, and tiny networks."""

import torch
from torch import nn
from torch.nn import functional as F

from zsharp.sharpness import LossSurface


class Weights(nn.Module):
    """A model that is its weights, whatever the inputs."""

    def __init__(self, values, dtype=torch.float64):
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(values, dtype=dtype))

    def forward(self, inputs):
        return self.w


def quadratic_loss(w, matrices):
    """Mean over examples of w'Aw / 2, one matrix an example."""
    return torch.einsum("i,bij,j->", w, matrices, w) / (2 * len(matrices))


def linear_loss(w, vectors):
    return (vectors @ w).mean()


def quadratic(values, matrix, dtype=torch.float64):
    """The surface of w'Aw / 2 in three batches of unequal size, whose matrices differ but have the mean A."""
    model = Weights(values, dtype)
    size = len(model.w)
    noise = torch.randn(7, size, size, generator=torch.Generator().manual_seed(5), dtype=dtype)
    noise = noise + noise.mT
    matrices = torch.as_tensor(matrix, dtype=dtype) + noise - noise.mean(0)
    batches = [(part, part) for part in torch.split(matrices, [1, 4, 2])]
    return LossSurface(model, batches, quadratic_loss)


def linear(values, vectors, sizes, dtype=torch.float64):
    vectors = torch.as_tensor(vectors, dtype=dtype)
    batches = [(part, part) for part in torch.split(vectors, sizes)]
    return LossSurface(Weights(values, dtype), batches, linear_loss)


def symmetric(eigenvalues, seed=0):
    """A matrix with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def mlp(dtype=torch.float64, seed=0):
    """A network of 4, 5 and 3 units and a batch of 12, all from a seed."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    for param in model.parameters():
        nn.init.normal_(param, std=0.7, generator=generator)
    inputs = torch.randn(12, 4, generator=generator, dtype=dtype)
    return model, (inputs, torch.randint(3, (12,), generator=generator))


def full_hessian(surface):
    """The Hessian of a surface by torch.autograd.functional, batch by batch."""

    def loss(w):
        moved, total = surface.split(w), 0.0
        for inputs, targets in surface.batches:
            outputs = torch.func.functional_call(surface.model, moved, (inputs,))
            total = total + len(targets) / surface.num_examples * surface.loss_function(outputs, targets)
        return total

    return torch.autograd.functional.hessian(loss, surface.weights)


def rescaled():
    """Surfaces of a ReLU network, and of it with layers times 8 and 1/8: the same function."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
    batch = (torch.randn(20, 4, dtype=torch.float64), torch.randint(3, (20,)))
    yield LossSurface(model, [batch], F.cross_entropy)
    with torch.no_grad():
        model[0].weight *= 8
        model[2].weight /= 8
    yield LossSurface(model, [batch], F.cross_entropy)
