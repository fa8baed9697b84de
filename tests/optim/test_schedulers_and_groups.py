"""Schedulers, groups, hooks, clipping, maximizing, copies: what users of any torch optimizer do with theirs."""

import copy
import pickle

import pytest
import torch
from slow_twin import num_kept
from small_nets import SHARP, batches, classifier, close, closure_for, loss_of, same, two_steps, weights
from torch import nn
from torch.optim import lr_scheduler

from zsharp.optim import ASAM, SAM, FriendlySAM, ZSharp, make_optimizer

SCHEDULERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=20),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 5)], [3]
    ),
}


@pytest.mark.parametrize("form", ["closure", "two steps"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_the_base_optimizer(name, form):
    """With a radius of zero all is as without the wrapper; a warning (steps in the wrong order) is an error here."""
    model, plain = classifier(), classifier()
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.0)
    base = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    scheduler, base_scheduler = SCHEDULERS[name](optimizer), SCHEDULERS[name](base)
    seen = set()
    for batch in batches(8):
        if form == "closure":
            loss = optimizer.step(closure_for(model, optimizer, batch))
        else:
            loss = two_steps(model, optimizer, batch)
        base.step(closure_for(plain, base, batch))
        for one in (scheduler, base_scheduler):
            # A loss that never falls: the plateau scheduler has something to do.
            one.step(*([float(loss) * 0 + 1] if name == "plateau" else []))
        group, base_group = optimizer.base_optimizer.param_groups[0], base.param_groups[0]
        assert (group["lr"], group["momentum"]) == (base_group["lr"], base_group["momentum"])
        seen.add((group["lr"], group["momentum"]))
    assert len(seen) > 4
    assert len({momentum for _, momentum in seen}) == (8 if name == "one cycle" else 1)
    assert same(model.parameters(), plain.parameters())


@pytest.mark.parametrize("kind", ["float", "tensor", "tensor in place"])
def test_the_radius_and_the_percentile_may_be_set_at_every_step(kind):
    model = classifier()
    numbers = {"rho": torch.tensor(1.0), "q_p": torch.tensor(0.5, dtype=torch.float64)}
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1, **numbers)
    for i, batch in enumerate(batches(4)):
        values = {"rho": 0.1 / (i + 1), "q_p": 0.9 - 0.1 * i}
        for name, value in values.items():
            if kind == "tensor in place":
                optimizer.param_groups[0][name].fill_(value)
            else:
                as_tensor = torch.tensor(value, dtype=numbers[name].dtype)
                optimizer.param_groups[0][name] = value if kind == "float" else as_tensor
        optimizer.step(closure_for(model, optimizer, batch))
        assert float(optimizer.last.norm) == pytest.approx(values["rho"], rel=1e-5)
        assert optimizer.last.kept.tolist() == [
            num_kept(p.numel(), values["q_p"]) for p in model.parameters()
        ]


def test_a_group_added_in_the_middle_takes_part_from_then_on():
    model, data = classifier(), batches(4)
    head = list(model.second.parameters())
    rest = [p for p in model.parameters() if all(p is not q for q in head)]
    optimizer = ZSharp(rest, torch.optim.AdamW, lr=0.1, q_p=0.5, weight_decay=0.2)
    scheduler = lr_scheduler.StepLR(optimizer, 100)
    before = weights(model.second)
    for batch in data[:2]:
        optimizer.step(closure_for(model, optimizer, batch))
        scheduler.step()
        model.zero_grad()
    assert same(model.second.parameters(), before)
    assert len(optimizer.last.kept) == len(rest)
    optimizer.add_param_group({"params": iter(head), "lr": 0.01, "rho": 0.2})
    for batch in data[2:]:
        optimizer.step(closure_for(model, optimizer, batch))
    assert not any(torch.equal(p, q) for p, q in zip(model.second.parameters(), before, strict=True))
    assert len(optimizer.last.kept) == len(list(model.parameters()))
    group = optimizer.base_optimizer.param_groups[1]
    assert (group["weight_decay"], group["q_p"], group["rho"], group["lr"]) == (0.2, 0.5, 0.2, 0.01)
    with pytest.raises(ValueError, match=r"q_p is 1\.5; valid: 0 <= q_p < 1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "q_p": 1.5})
    assert len(optimizer.param_groups) == 2


def test_named_parameters_keep_their_names():
    model, (batch,) = classifier(), batches(1)
    optimizer = ZSharp(model.named_parameters(), torch.optim.AdamW, lr=0.1)
    names = [name for name, _ in model.named_parameters()]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names
    optimizer.step(closure_for(model, optimizer, batch))
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.add_param_group({"params": [("more", nn.Parameter(torch.ones(2, 2)))]})
    assert optimizer.param_groups[1]["param_names"] == ["more"]


def test_step_hooks_of_both_optimizers_are_called_once_a_step():
    model, data = classifier(), batches(2)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    called = []

    def note(name):
        return lambda *_: called.append((name, optimizer.is_perturbed))

    handles = [
        optimizer.register_step_pre_hook(note("pre")),
        optimizer.register_step_post_hook(note("post")),
        optimizer.base_optimizer.register_step_pre_hook(note("base pre")),
        optimizer.base_optimizer.register_step_post_hook(note("base post")),
    ]
    optimizer.step(closure_for(model, optimizer, data[0]))
    assert called == [(name, False) for name in ("pre", "base pre", "base post", "post")]
    called.clear()
    two_steps(model, optimizer, data[1])
    assert called == [("base pre", False), ("base post", False)]
    for handle in handles:
        handle.remove()
    optimizer.step(closure_for(model, optimizer, data[0]))
    assert len(called) == 2


def test_state_dict_hooks_are_called():
    optimizer = SAM(classifier().parameters(), torch.optim.SGD, lr=0.1)
    called = []
    optimizer.register_state_dict_pre_hook(lambda o: called.append(o))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "more": 1})
    optimizer.register_load_state_dict_pre_hook(
        lambda o, state: {k: v for k, v in state.items() if k != "more"}
    )
    optimizer.register_load_state_dict_post_hook(lambda o: called.append(o))
    state = optimizer.state_dict()
    assert state["more"] == 1
    optimizer.load_state_dict(state)
    assert called == [optimizer, optimizer]


@pytest.mark.parametrize("method", SHARP)
def test_clipping_the_first_gradient_changes_nothing_but_friendly_sams_mean(method):
    results = []
    for clip in (float("inf"), 0.01):
        model = classifier().double()
        optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1)
        for x, y in batches(3):
            loss_of(model, (x.double(), y)).backward()
            assert nn.utils.clip_grad_norm_(model.parameters(), clip) > 0.01
            optimizer.first_step(zero_grad=True)
            loss_of(model, (x.double(), y)).backward()
            optimizer.second_step(zero_grad=True)
        results.append(torch.cat([w.flatten() for w in weights(model)]))
    # Friendly-SAM's first gradients are clipped by different factors, and then mixed.
    assert torch.allclose(*results, rtol=1e-9, atol=1e-12) == ("friendly" not in method)


@pytest.mark.parametrize("numbers", [{}, {"rho": torch.tensor(0.05)}], ids=["default", "tensor"])
@pytest.mark.parametrize("method", SHARP)
def test_maximizing_an_objective_is_minimizing_its_negative(method, numbers):
    """The perturbation goes down the objective, and the base step up: bit for bit the mirror image."""
    results = []
    for sign in (1, -1):
        model = classifier()
        optimizer = make_optimizer(model.parameters(), method, "adamw", lr=0.01, maximize=sign < 0, **numbers)
        for batch in batches(3):

            def closure(batch=batch, model=model, optimizer=optimizer, sign=sign):
                optimizer.zero_grad()
                objective = sign * loss_of(model, batch)
                objective.backward()
                return objective

            optimizer.step(closure)
            assert float(optimizer.last_loss_increase) * sign > 0 or method != "sam"
        assert float(optimizer.last.norm) > 0
        results.append([*weights(model), optimizer.last.norm])
    assert same(*results)


@pytest.mark.parametrize("base", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("method", ["sam", "asam", "zsharp_official", "zsharp_friendly_sam"])
def test_implementations_of_the_base_optimizer_agree(method, base):
    results = []
    for implementation in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        model = classifier().double()
        settings = {"lr": 0.01, "weight_decay": 0.1, **implementation}
        optimizer = make_optimizer(model.parameters(), method, base, **settings)
        for x, y in batches(5):
            optimizer.step(closure_for(model, optimizer, (x.double(), y)))
        results.append(weights(model))
    close(results[1], results[0])
    close(results[2], results[0])


@pytest.mark.gpu
@pytest.mark.parametrize("method", [name for name in SHARP if "random" not in name])
def test_parameters_on_several_devices(method):
    """The norm is of both; each tensor is ranked where it lies."""
    results = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        values = [torch.randn(20, 5).double(), torch.randn(30).double().to(device)]
        params = [nn.Parameter(value) for value in values]
        optimizer = make_optimizer(params, method, "sgd", lr=0.1)
        for seed in range(3):
            torch.manual_seed(seed)
            for p in params:
                p.grad = torch.randn(p.shape).to(p)
            optimizer.first_step()
            optimizer.second_step()
        last = optimizer.last
        results.append([x.detach().cpu() for x in (*params, last.kept, last.norm)])
    close(results[1], results[0], rtol=1e-7)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("method", ["friendly_sam", "random_sam", "zsharp_asam", "msam", "stale_sam"])
def test_a_copy_goes_on_identically(method, way, path):
    model, data = classifier(), batches(5)
    optimizer = make_optimizer(model.parameters(), method, "adamw", lr=0.01, interval=2)
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    for batch in data[:2]:
        optimizer.step(closure_for(model, optimizer, batch))
        scheduler.step()
    both = (model, optimizer)
    twin, copied = copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert type(copied) is type(optimizer)
    assert copied.param_groups is copied.base_optimizer.param_groups
    assert copied.state is copied.base_optimizer.state
    assert all(p is q for p, q in zip(copied.param_groups[0]["params"], twin.parameters(), strict=True))
    before = weights(twin)
    for batch in data[2:]:
        optimizer.step(closure_for(model, optimizer, batch))
    assert same(twin.parameters(), before)  # nothing is shared
    for batch in data[2:]:
        copied.step(closure_for(twin, copied, batch))
    assert same(model.parameters(), twin.parameters())
    assert torch.equal(copied.last.norm, optimizer.last.norm)


def test_nothing_is_copied_saved_or_loaded_while_the_weights_are_perturbed():
    model, (batch,) = classifier(), batches(1)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    state = optimizer.state_dict()
    with pytest.raises(RuntimeError, match="closure"):
        optimizer.step()
    closure_for(model, optimizer, batch)()
    optimizer.first_step()
    assert optimizer.is_perturbed
    for act in (
        lambda: copy.deepcopy(optimizer),
        lambda: pickle.dumps(optimizer),
        optimizer.state_dict,
        lambda: optimizer.load_state_dict(state),
        optimizer.first_step,
    ):
        with pytest.raises(RuntimeError, match="perturbed: call second_step"):
            act()
    optimizer.restore()
    optimizer.load_state_dict(state)


@pytest.mark.parametrize("cls", [SAM, ASAM, FriendlySAM, ZSharp])
def test_what_is_printed_names_the_class_and_its_settings(cls):
    text = repr(cls(classifier().parameters(), torch.optim.SGD, lr=0.125, rho=0.375))
    assert text.startswith(f"{cls.__name__} (")
    assert all(part in text for part in ("lr: 0.125", "rho: 0.375", "ascent: "))


@pytest.mark.parametrize(("interval", "start"), [(0, 0), (1, -1)])
def test_an_interval_that_never_comes_is_refused(interval, start):
    with pytest.raises(ValueError, match=f"interval is {interval}, start_step {start}"):
        SAM(classifier().parameters(), torch.optim.SGD, lr=0.1, interval=interval, start_step=start)
