"""Measuring leaves no trace: not in the model, not in torch's generators or settings, not when it fails."""

import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from zsharp.sharpness import (
    LossSurface,
    average_case,
    hessian_trace,
    largest_eigenvalue,
    loss_slice,
    m_sharpness,
    worst_case,
)

MEASURES = {
    "one step": lambda s: worst_case(s, rho=0.1),
    "adaptive steps": lambda s: worst_case(s, rho=0.1, num_steps=3, adaptive=True),
    "m-sharpness": lambda s: m_sharpness(s, rho=0.1, m=4),
    "average": lambda s: average_case(s, sigma=0.1, num_pairs=2),
    "eigenvalue": lambda s: largest_eigenvalue(s, max_products=3),
    "trace": lambda s: hessian_trace(s, num_vectors=2),
    "slice": lambda s: loss_slice(s, coordinates=[0, 1]).losses.tolist(),
}


def model_with_everything():
    """Modes that differ from layer to layer, a frozen parameter, old gradients, buffers that training updates."""
    torch.manual_seed(0)
    model = nn.Sequential(
        spectral_norm(nn.Linear(4, 6)), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)
    )
    model(torch.randn(8, 4)).sum().backward()
    model[4].bias.requires_grad_(False)
    model[4].bias.grad = None
    model[1].eval()
    return model


def batches():
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)) for n in (8, 4)
    ]


def traces(model):
    """What measuring might change."""
    params = list(model.named_parameters())
    tensors = model.state_dict() | {f"{name}.grad": param.grad for name, param in params}
    facts = [(name, param.requires_grad, param.data_ptr()) for name, param in params]
    facts += [(name, module.training) for name, module in model.named_modules()]
    facts += [torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()]
    facts += [torch.backends.cuda.flash_sdp_enabled(), torch.get_rng_state().tolist()]
    return {name: None if value is None else value.tolist() for name, value in tensors.items()}, facts


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", MEASURES)
def test_everything_is_as_before(name, mode):
    model = model_with_everything()
    before = traces(model)
    surface = LossSurface(model, batches(), F.cross_entropy, mode=mode)
    copied = {key: value.clone() for key, value in surface.model.state_dict().items()}
    first = MEASURES[name](surface)
    assert traces(model) == before
    # the copy too, so a second measure does not depend on the first
    assert all(torch.equal(value, copied[key]) for key, value in surface.model.state_dict().items())
    assert all(param.grad is None for param in surface.model.parameters())
    with torch.no_grad():
        model[4].weight.zero_()  # a surface is a snapshot
        assert MEASURES[name](surface) == first  # and needs no gradients switched on


@pytest.mark.parametrize("name", MEASURES)
def test_and_when_the_loss_raises(name):
    model = model_with_everything()
    before = traces(model)
    losses = iter([F.cross_entropy])
    surface = LossSurface(model, batches(), lambda *args: next(losses)(*args), mode="train")
    with pytest.raises(StopIteration):
        MEASURES[name](surface)
    assert traces(model) == before


def tensors_with_a_graph():
    """Those of other tests in this process too."""
    gc.collect()
    return {id(x) for x in gc.get_objects() if issubclass(type(x), torch.Tensor) and x.grad_fn is not None}


def test_no_graph_is_left():
    before = tensors_with_a_graph()
    surface = LossSurface(model_with_everything(), batches(), F.cross_entropy)
    for measure in MEASURES.values():
        measure(surface)
    vector = surface.hessian_product(torch.ones_like(surface.weights))
    gradient = surface.loss_and_gradient()[1]
    assert not (vector.requires_grad or gradient.requires_grad or surface.weights.requires_grad)
    assert tensors_with_a_graph() <= before
