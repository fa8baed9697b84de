"""What an optimizer refuses says what was given and what is valid; lazy parameters and scripted layers are taken."""

import copy
import functools

import pytest
import torch
from small_nets import same, weights
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from zsharp.optim import SAM, FriendlySAM, ZSharp, frozen_batch_norm, make_optimizer

MODEL = nn.Linear(10, 2)
INPUTS = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))


def closure_of(model, optimizer, returned=lambda loss: loss):
    def closure():
        optimizer.zero_grad()
        loss = model(INPUTS).square().mean()
        loss.backward()
        return returned(loss)

    return closure


def trained(model, optimizer, num_steps=3):
    for _ in range(num_steps):
        optimizer.step(closure_of(model, optimizer))
    return weights(model)


def build(params=None, base_optimizer=torch.optim.SGD, **settings):
    params = MODEL.parameters() if params is None else params
    return ZSharp(params, base_optimizer, lr=0.1, **settings)


def step(returned=lambda loss: loss, **arguments):
    optimizer = build()
    return optimizer.step(closure_of(MODEL, optimizer, returned), **arguments)


# what is done, and words of the message
REFUSED = {
    "an instance": (
        lambda: build(base_optimizer=torch.optim.SGD(MODEL.parameters(), lr=0.1)),
        "base_optimizer.*SGD",
    ),
    "a name": (lambda: build(base_optimizer="adamw"), "base_optimizer is adamw"),
    "an instance for the factory": (
        lambda: make_optimizer(MODEL.parameters(), "base", torch.optim.SGD(MODEL.parameters(), lr=0.1)),
        "base_optimizer.*SGD",
    ),
    "no optimizer": (lambda: build(base_optimizer=lambda groups, lr: None), "base_optimizer.*NoneType"),
    "LBFGS": (lambda: build(base_optimizer=torch.optim.LBFGS), "LBFGS"),
    "LBFGS, bound": (lambda: build(base_optimizer=functools.partial(torch.optim.LBFGS, lr=1.0)), "LBFGS"),
    "a model": (lambda: build(MODEL), "params is.*Linear"),
    "models in a list": (lambda: build([MODEL]), "parameter is.*Linear"),
    "a model in a group": (lambda: build([{"params": MODEL}]), "params is.*Linear"),
    "a method": (lambda: build(MODEL.parameters), "params is.*parameters"),
    "a group without parameters": (lambda: build([{"rho": 0.1}]), "params"),
    "text for a number": (lambda: build(rho="large"), "rho is 'large'"),
    "several numbers": (lambda: build(rho=torch.ones(3)), "rho is"),
    "no interval": (lambda: build(interval="2"), "interval is '2'"),
    "no loss": (lambda: step(lambda loss: None), "closure returned None.*loss"),
    "a number": (lambda: step(lambda loss: loss.item()), "closure returned.*float"),
    "a loss with more": (lambda: step(lambda loss: (loss, 1)), "closure returned.*tuple"),
    "a loss instead of a closure": (lambda: build().step(MODEL(INPUTS).mean()), "closure is.*Tensor"),
    "no model": (lambda: step(model=[MODEL]), "model is.*list"),
    "no closures": (lambda: build().step_groups([lambda: None]), "closure returned None"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_wrong_argument_is_a_type_error_that_names_it(kind):
    attempt, words = REFUSED[kind]
    with pytest.raises(TypeError, match=words):
        attempt()


def test_a_second_pass_without_a_loss_leaves_the_weights_at_w():
    optimizer, before = build(), MODEL.weight.detach().clone()
    closure = closure_of(MODEL, optimizer, lambda loss: None if optimizer.is_perturbed else loss)
    with pytest.raises(TypeError, match="closure returned None"):
        optimizer.step(closure)
    assert torch.equal(MODEL.weight, before)


@pytest.mark.parametrize("optimizer_class", [ZSharp, FriendlySAM])
def test_lazy_parameters_train_as_if_they_had_been_there(optimizer_class):
    results = []
    for layer in (lambda: nn.LazyLinear(2), lambda: nn.Linear(10, 2)):
        torch.manual_seed(0)
        model = layer()
        optimizer = optimizer_class(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
        model(INPUTS)
        results.append(trained(model, optimizer))
    assert same(*results)


def layers(momentum=0.1):
    return nn.Sequential(
        nn.Linear(10, 6),
        nn.BatchNorm1d(6, momentum=momentum),
        nn.Unflatten(1, (2, 3)),
        nn.InstanceNorm1d(2, track_running_stats=True),
    )


BUILDS = {
    "as it is": layers,
    "averaging over all batches": lambda: layers(momentum=None),
    "scripted": lambda: torch.jit.script(layers()),
    "traced": lambda: torch.jit.trace(layers(), INPUTS),
    "partly scripted": lambda: nn.Sequential(nn.Identity(), torch.jit.script(layers())),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", BUILDS)
def test_every_layer_with_running_statistics_counts_a_batch_once(kind):
    torch.manual_seed(0)
    twin = layers(None if "all batches" in kind else 0.1)
    torch.manual_seed(0)
    model = BUILDS[kind]()
    twin.load_state_dict(dict(zip(twin.state_dict(), model.state_dict().values(), strict=True)))
    with frozen_batch_norm(model):
        outputs = model(INPUTS)
    torch.testing.assert_close(outputs, twin(INPUTS))  # normalised by the batch's own statistics
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    optimizer.step(closure_of(model, optimizer), model=model)
    with frozen_batch_norm(model):
        loss = model(INPUTS).square().mean()
    loss.backward()  # autograd looks whether statistics have changed since the forward pass
    for expected, buffer in zip(twin.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled", "ignore::FutureWarning")
@pytest.mark.parametrize("method", ["sam", "friendly_sam", "random_sam"])
@pytest.mark.parametrize("base_optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_distributed_checkpoint_continues_bit_for_bit(method, base_optimizer, on_disk, tmp_path):
    def built(seed):
        torch.manual_seed(seed)
        model = nn.Linear(10, 2)
        return model, make_optimizer(model.parameters(), method, base_optimizer, lr=0.1, rho=0.5)

    model, optimizer = built(0)
    trained(model, optimizer)
    other, resumed = built(1)
    other.load_state_dict(model.state_dict())
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    if on_disk:
        checkpoint.save({"optimizer": state}, checkpoint_id=tmp_path)
        state = get_optimizer_state_dict(other, resumed)
        checkpoint.load({"optimizer": state}, checkpoint_id=tmp_path)
    set_optimizer_state_dict(other, resumed, state)
    assert resumed.num_steps == 3
    assert same(trained(other, resumed), trained(model, optimizer))


@pytest.mark.parametrize("method", ["sam", "friendly_sam"])
def test_a_new_optimizer_whose_state_was_asked_for_is_as_new(method):
    results = []
    for asks in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(10, 2)
        optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1, momentum=0.9)
        if asks:
            get_optimizer_state_dict(model, optimizer)
        results.append(trained(model, optimizer))
    assert same(*results)
