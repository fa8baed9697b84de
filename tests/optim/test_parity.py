"""Against another library, pytorch_optimizer: the same steps where both mean the same, and where they do not."""

import copy
import importlib.metadata

import pytest
import torch
from small_nets import batches, classifier, closure_for, same, weights

from zsharp.optim import ASAM, SAM, FriendlySAM

pytorch_optimizer = pytest.importorskip("pytorch_optimizer")  # a machine with nothing but torch has it not

BASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}
TWINS = {
    "sam": ((SAM, {"rho": 0.1}), (pytorch_optimizer.SAM, {"rho": 0.1})),
    "asam": ((ASAM, {"rho": 0.5, "eta": 0.0}), (pytorch_optimizer.SAM, {"rho": 0.5, "adaptive": True})),
    "friendly_sam": (
        (FriendlySAM, {"rho": 0.1, "sigma": 0.7, "lmbda": 0.9}),
        (pytorch_optimizer.FriendlySAM, {"rho": 0.1, "sigma": 0.7, "lmbda": 0.9}),
    ),
}


def train(cls, settings, base, num=10, double=True):
    model = classifier()
    model = model.double() if double else model
    base_class, base_settings = BASES[base]
    optimizer = cls(model.parameters(), base_class, **settings, **base_settings)
    for x, y in batches(num):
        closure = closure_for(model, optimizer, (x.double() if double else x, y))
        if cls.__module__.startswith("pytorch_optimizer"):
            closure()  # its step expects the first gradients to be there, and returns no loss
        optimizer.step(closure)
    return model, optimizer


def largest_difference(one, two):
    return max(float((p - q).abs().max()) for p, q in zip(weights(one), weights(two), strict=True))


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", TWINS)
def test_ten_steps_are_the_same(name, base, double):
    """To the precision of their norm, which is summed in float32 whatever the gradients are."""
    (ours, settings), (theirs, their_settings) = TWINS[name]
    one, _ = train(ours, settings, base, double=double)
    two, _ = train(theirs, their_settings, base, double=double)
    assert largest_difference(one, two) < (1e-7 if double else 1e-6)
    assert largest_difference(one, classifier()) > 1e-2


@pytest.mark.parametrize("base", BASES)
def test_their_asam_has_no_floor_under_the_weights(base):
    """T = abs(w) there, abs(w) + eta here as in the paper: with eta = 0.01 the steps differ."""
    ours, _ = train(ASAM, {"rho": 0.5}, base)
    theirs, _ = train(*TWINS["asam"][1], base)
    assert largest_difference(ours, theirs) > 1e-4


def test_weights_of_zero_never_move_in_their_asam():
    moved = []
    for cls, settings in ((ASAM, {}), (pytorch_optimizer.SAM, {"adaptive": True})):
        model = torch.nn.Linear(3, 1)
        torch.nn.init.zeros_(model.bias)
        optimizer = cls(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.5, **settings)
        model(torch.ones(4, 3)).mean().backward()
        optimizer.first_step()
        moved.append(bool(model.bias != 0))
        optimizer.second_step()
    assert moved == [True, False]


@pytest.mark.parametrize("name", ["sam", "friendly_sam"])
def test_their_step_leaves_the_first_pass_to_the_caller(name):
    """A closure that is only passed to `step`, as torch's own optimizers take it, has nothing to ascend along."""
    (batch,) = batches(1)
    found = []
    for cls, settings in TWINS[name]:
        model = classifier()
        optimizer = cls(model.parameters(), torch.optim.SGD, lr=0.1, **settings)
        calls = []

        def closure(model=model, optimizer=optimizer, calls=calls):
            calls.append(1)
            return closure_for(model, optimizer, batch)()

        found.append((optimizer.step(closure) is not None, len(calls)))
    assert found == [(True, 2), (False, 1)]


def test_their_friendly_sam_changes_the_gradient():
    changed = []
    for cls, settings in TWINS["friendly_sam"]:
        model = classifier()
        optimizer = cls(model.parameters(), torch.optim.SGD, lr=0.1, **settings)
        for batch in batches(2):
            closure_for(model, optimizer, batch)()
            before = [p.grad.clone() for p in model.parameters()]
            optimizer.first_step()
            changed.append(not same([p.grad for p in model.parameters()], before))
            optimizer.second_step()
    assert changed == [False, False, False, True]


def test_friendly_sams_running_gradient_is_the_same():
    """Kept in `state` there, under "momentum"; apart here, where a base optimizer cannot take it for its own."""
    _, ours = train(*TWINS["friendly_sam"][0], "sgd")
    _, theirs = train(*TWINS["friendly_sam"][1], "sgd")
    pairs = zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True)
    for p, q in pairs:
        running = ours._progress.running.values[p]
        torch.testing.assert_close(running, theirs.state[q]["momentum"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", TWINS)
def test_a_checkpoint_goes_on_here_whatever_it_does_there(name):
    (cls, settings), _ = TWINS[name]
    whole, _ = train(cls, settings, "adamw")
    model, optimizer = train(cls, settings, "adamw", num=5)
    state = copy.deepcopy(optimizer.state_dict())
    base_class, base_settings = BASES["adamw"]
    resumed = cls(model.parameters(), base_class, **settings, **base_settings)
    resumed.load_state_dict(state)
    for x, y in batches(10)[5:]:
        resumed.step(closure_for(model, resumed, (x.double(), y)))
    assert same(model.parameters(), whole.parameters())


def test_the_version_that_this_was_found_with():
    """Another major version may mean other things: then read these tests again."""
    assert importlib.metadata.version("pytorch_optimizer").split(".")[0] in {"3", "4"}
