"""Switches as plain names in parameter groups: each group's own, checked, saved, and no base optimizer's by mistake."""

import copy

import pytest
import torch
from small_nets import batches, classifier, closure_for, same, weights
from torch import nn

from zsharp.optim import SAM, ZSharp
from zsharp.optim.methods import SWITCHES

CHOICES = {
    "ascent": "none, sam, asam, friendly_sam, centred_sam, msam, stale_sam",
    "filter": "none, zscore, magnitude, random",
    "threshold": "layer, global",
    "norm": "layer, global",
    "one_dim": "dense, filter, skip",
}
NUMBERS = {"rho", "q_p", "eta", "sigma", "lmbda"}


def step_of(model, optimizer, batch):
    """The perturbation e of each parameter."""
    closure_for(model, optimizer, batch)()
    before = weights(model)
    optimizer.first_step()
    moved = weights(model)
    optimizer.restore()
    assert same(model.parameters(), before)
    return [p - w for p, w in zip(moved, before, strict=True)]


def test_groups_with_switches_of_their_own(path):
    """One global norm over all groups that share it; each group's radius, percentile and filter are its own."""
    model, (batch,) = classifier().double(), batches(1)
    batch = (batch[0].double(), batch[1])
    groups = [
        {"params": [model.first.weight], "rho": 0.1, "q_p": 0.5},
        {"params": [model.second.weight], "rho": 0.2, "filter": "none"},
        {"params": [model.norm.weight], "rho": 0.3, "filter": "none", "norm": "layer"},
        {"params": [model.first.bias], "one_dim": "skip"},
        {"params": [model.gain], "ascent": "none"},
    ]
    optimizer = ZSharp(groups, torch.optim.SGD, lr=0.1)
    optimizer.add_param_group(
        {"params": model.second.bias, "ascent": "asam", "filter": "none", "eta": 0.5, "rho": 0.4}
    )
    e = dict(zip(dict(model.named_parameters()), step_of(model, optimizer, batch), strict=True))
    g = {name: p.grad for name, p in model.named_parameters()}

    z = (g["first.weight"] - g["first.weight"].mean()).abs()
    kept = torch.where(z > z.quantile(0.5), g["first.weight"], 0)
    t = model.second.bias.detach().abs() + 0.5
    norm = sum(v.square().sum() for v in (kept, g["second.weight"], t * g["second.bias"])).sqrt()
    expected = {
        "first.weight": 0.1 * kept / norm,
        "second.weight": 0.2 * g["second.weight"] / norm,
        "norm.weight": 0.3 * g["norm.weight"] / g["norm.weight"].norm(),
        "second.bias": 0.4 * t * t * g["second.bias"] / norm,
    }
    for name, value in e.items():
        torch.testing.assert_close(
            value, expected.get(name, torch.zeros_like(value)), rtol=1e-9, atol=1e-14, msg=name
        )
    length = torch.cat([value.flatten() for value in e.values()]).norm()
    torch.testing.assert_close(optimizer.last.norm, length)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in CHOICES for v in CHOICES[n].split(", ")])
def test_a_switch_of_all_groups_is_the_switch_of_the_optimizer(name, value):
    def step(in_group=None, in_added_group=None, **settings):
        model, (batch,) = classifier(), batches(1)
        first = [] if in_added_group else model.parameters()
        groups = [{"params": first, **(in_group or {})}]
        optimizer = ZSharp(groups, torch.optim.SGD, lr=0.1, momentum=0.9, q_p=0.6, **settings)
        if in_added_group:
            optimizer.add_param_group({"params": model.parameters(), **in_added_group})
        return optimizer.param_groups[-1][name], step_of(model, optimizer, batch)

    switch = {name: value}
    given, moved = step(in_group=switch)
    assert given == value
    for other in (step(in_added_group=switch), *([] if name == "ascent" else [step(**switch)])):
        assert other[0] == value and same(other[1], moved)
    default, plain = step()
    assert same(moved, plain) == (default == value or value == "friendly_sam")  # whose first step is SAM's


@pytest.mark.parametrize("name", CHOICES)
def test_other_values_are_refused_wherever_they_come_from(name):
    message = f"{name} is 'z-score'; valid: {CHOICES[name]}"
    bad = {"params": [nn.Parameter(torch.ones(2))], name: "z-score"}
    with pytest.raises(ValueError, match=message):
        ZSharp([bad], torch.optim.SGD, lr=0.1)
    model, (batch,) = classifier(), batches(1)
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group(bad)
    assert len(optimizer.param_groups) == len(optimizer.base_optimizer.param_groups) == 1
    optimizer.param_groups[0][name] = "z-score"
    closure_for(model, optimizer, batch)()
    with pytest.raises(ValueError, match=message):
        optimizer.first_step()
    assert not optimizer.is_perturbed
    if name != "ascent":
        with pytest.raises(ValueError, match=message):
            ZSharp(classifier().parameters(), torch.optim.SGD, lr=0.1, **{name: "z-score"})


@pytest.mark.parametrize("build", [SAM, ZSharp])
def test_the_removed_sparse_save_is_refused_with_what_to_do_instead(build):
    with pytest.raises(ValueError, match=r"save is 'sparse'.*without it"):
        build([nn.Parameter(torch.ones(2))], torch.optim.SGD, lr=0.1, save="sparse")


def test_switches_survive_a_checkpoint_and_stay_where_a_plain_state_has_none():
    def build(norm):
        model = classifier()
        first, rest = list(model.parameters())[:1], list(model.parameters())[1:]
        groups = [{"params": first, "norm": norm, "filter": "magnitude"}, {"params": rest, "one_dim": "skip"}]
        return model, ZSharp(groups, torch.optim.SGD, lr=0.1)

    model, optimizer = build("layer")
    (batch,) = batches(1)
    expected = step_of(model, optimizer, batch)
    twin, other = build("global")
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert same(step_of(twin, other, batch), expected)
    groups = [{"params": list(model.parameters())[:1]}, {"params": list(model.parameters())[1:]}]
    optimizer.load_state_dict(torch.optim.SGD(groups, lr=0.5).state_dict())
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    assert same(step_of(model, optimizer, batch), expected)


class OwnNorm(torch.optim.SGD):
    """As optimizers of other libraries have them."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        self.defaults["norm"] = 2


@pytest.mark.parametrize(("base", "name"), [(OwnNorm, "norm"), (torch.optim.Adadelta, "rho")])
def test_a_base_optimizer_that_would_read_our_settings_as_its_own_is_refused(base, name):
    with pytest.raises(ValueError, match=f"{name} of {base.__name__}.*valid: base optimizers"):
        SAM([nn.Parameter(torch.ones(2))], base, lr=0.1)


def test_no_other_optimizer_of_torch_has_settings_of_these_names():
    base = torch.optim.Optimizer
    classes = [cls for cls in vars(torch.optim).values() if isinstance(cls, type) and issubclass(cls, base)]
    classes.remove(base)
    assert len(classes) > 10
    for cls in classes:
        defaults = set(cls([nn.Parameter(torch.ones(2, 2))], lr=0.1).defaults)
        clash = defaults & ({*SWITCHES} | NUMBERS)
        assert clash == ({"rho"} if cls is torch.optim.Adadelta else set()), cls
