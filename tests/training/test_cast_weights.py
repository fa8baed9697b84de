"""Weights that are cast at once give autocast's own numbers, and the model has its parameters back afterwards."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from zsharp.models import ARCHITECTURES, build_model
from zsharp.training.cast_weights import CastWeights


class Odd(nn.Module):
    """Layers frozen, shared, unused, parametrized, in float64, and attention, which takes its weights apart."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3 * 8 * 8, 16)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.shared = self.again = nn.Linear(16, 16)
        self.unused = nn.Linear(16, 16)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.table = nn.Embedding(4, 16)
        self.tied = nn.Linear(16, 4, bias=False)
        self.tied.weight = self.table.weight
        self.wide = nn.Linear(4, 10).double()

    def forward(self, x):
        x = self.frozen(self.first(x.flatten(1))).relu()
        x = self.normed(self.again(self.shared(x))) + self.table(torch.arange(len(x)) % 4)
        x = self.attention(x[None], x[None], x[None])[0][0]
        return self.wide(self.tied(x).double())


MODELS = {"resnet8": lambda: build_model("resnet8", (3, 32, 32), 10), "odd": Odd}


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_autocast_alone(name):
    torch.manual_seed(0)
    model = MODELS[name]().train()
    side = 8 if name == "odd" else 32
    inputs, labels = torch.randn(6, 3, side, side), torch.arange(6)
    params = dict(model.named_parameters())
    results = []
    for cast in (nullcontext, CastWeights(model)):
        model.zero_grad()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16), cast():
            layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
            num_cast = sum(layer.weight.dtype == torch.bfloat16 for layer in layers)
            loss = nn.functional.cross_entropy(model(inputs).float(), labels)
        loss.backward()
        results.append((loss.detach(), {key: param.grad for key, param in params.items()}))
    (loss, grads), (same_loss, same_grads) = results
    assert num_cast >= 2 and torch.equal(loss, same_loss)
    for key, grad in grads.items():
        assert (grad is None) == (same_grads[key] is None), key
        assert grad is None or (torch.equal(grad, same_grads[key]) and grad.dtype == same_grads[key].dtype), (
            key
        )
    assert all(param is params[key] for key, param in model.named_parameters())
    assert name == "odd" or name in ARCHITECTURES


def test_a_loss_that_raises_leaves_the_model_as_it_was():
    model = nn.Linear(2, 2)
    weight = model.weight
    with pytest.raises(RuntimeError), torch.autocast("cpu", torch.bfloat16), CastWeights(model)():
        model(torch.randn(1, 3))
    assert model.weight is weight
