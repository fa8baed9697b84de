"""Half precision: scaled gradients, one unscaling a step, and steps left out whole when a gradient overflows."""

import copy

import pytest
import torch
from small_nets import batches, classifier, loss_of, same, weights
from torch.amp import GradScaler

from zsharp.optim import make_optimizer

METHODS = ["sam", "asam", "zsharp", "zsharp_official", "friendly_sam"]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
BASES = {
    "sgd": {"lr": 0.1, "momentum": 0.9},
    "adamw": {"lr": 0.01},
    "fused adamw": {"lr": 0.01, "fused": True},
}


def build(method="sam", base="sgd", device="cpu"):
    model = classifier().to(device)
    return model, make_optimizer(model.parameters(), method, base.split()[-1], **BASES[base])


def backward(model, optimizer, batch, dtype=None, scaler=None, factor=1.0):
    """One pass; in `dtype` autocast if it is given."""
    device = next(model.parameters()).device.type
    optimizer.zero_grad()
    with torch.autocast(device, dtype, enabled=dtype is not None):
        loss = loss_of(model, [part.to(device) for part in batch])
    (loss * factor if scaler is None else scaler.scale(loss * factor)).backward()
    return loss


def train(method, base="sgd", device="cpu", *, dtype=None, scaler=None, form="closure", num=10):
    model, optimizer = build(method, base, device)
    for batch in batches(num):
        if form == "closure":
            optimizer.step(
                lambda batch=batch: backward(model, optimizer, batch, dtype, scaler), scaler=scaler
            )
        else:
            backward(model, optimizer, batch, dtype, scaler)
            optimizer.first_step(zero_grad=True, scaler=scaler)
            backward(model, optimizer, batch, dtype, scaler)
            optimizer.second_step(zero_grad=True, scaler=scaler)
        if scaler is not None:
            scaler.update()
    return model


def distance(model, other):
    """How far two trained models are apart, as a share of the way that one went."""
    flat = torch.cat([p.flatten() for p in weights(model)])
    start = torch.cat([p.flatten() for p in weights(classifier())]).to(flat.device)
    away = torch.cat([p.flatten() for p in weights(other)]).to(flat.device)
    return float((flat - away).norm() / (away - start).norm())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_close_to_float32(method, base, device):
    full = train(method, base, device)
    closure = train(method, base, device, dtype=torch.float16, scaler=GradScaler(device))
    two_step = train(method, base, device, dtype=torch.float16, scaler=GradScaler(device), form="two steps")
    assert same(closure.parameters(), two_step.parameters())
    assert 0 < distance(closure, full) < 0.02
    assert 0 < distance(train(method, base, device, dtype=torch.bfloat16), full) < 0.1
    switched_off = train(method, base, device, scaler=GradScaler(device, enabled=False))
    assert same(switched_off.parameters(), full.parameters())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_the_scale_of_the_loss_changes_nothing(method, dtype):
    """Powers of two, in types that lose nothing by them: equal bit for bit, Friendly-SAM to rounding."""
    one, large = (train(method, dtype=dtype, scaler=GradScaler("cpu", init_scale=s)) for s in (1.0, 2.0**16))
    rtol = 1e-6 if method == "friendly_sam" else 0.0
    for p, q in zip(one.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=rtol / 10)


def test_a_scale_that_changes_between_steps_does_not_reach_friendly_sams_running_gradient():
    model, optimizer = build("friendly_sam")
    scaler = GradScaler("cpu")
    for batch in batches(2):
        optimizer.step(lambda batch=batch: backward(model, optimizer, batch, scaler=scaler), scaler=scaler)
        scaler.update(new_scale=2.0)
    assert distance(model, train("friendly_sam", num=2)) < 1e-4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("clip", [False, True])
def test_gradients_are_unscaled_exactly_once(clip, device):
    """The gradient that is left behind is the one at w + e, whoever unscaled it."""
    model, optimizer = build("zsharp", device=device)
    plain, plain_optimizer = build("zsharp", device=device)
    (batch,) = batches(1)
    scaler = GradScaler(device)
    for m, o, s in ((model, optimizer, scaler), (plain, plain_optimizer, None)):
        backward(m, o, batch, scaler=s)
        o.first_step(zero_grad=True, scaler=s)
        backward(m, o, batch, scaler=s)
        if clip:
            if s is not None:
                s.unscale_(o.base_optimizer)
            torch.nn.utils.clip_grad_norm_(m.parameters(), 0.01)
        o.second_step(scaler=s)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    with pytest.raises(RuntimeError, match="after step"):
        scaler.unscale_(optimizer.base_optimizer)


def test_unscaling_the_wrapper_is_refused_before_anything_is_divided_twice():
    model, optimizer = build()
    (batch,) = batches(1)
    before = weights(model)
    scaler = GradScaler("cpu")
    backward(model, optimizer, batch, scaler=scaler)
    optimizer.first_step(zero_grad=True)
    backward(model, optimizer, batch, scaler=scaler)
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"valid: scaler.unscale_\(optimizer.base_optimizer\)"):
        optimizer.second_step(scaler=scaler)
    assert not optimizer.is_perturbed
    assert same(model.parameters(), before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("passes", ["first", "second", "both"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("num_before", "form"), [(0, "closure"), (2, "two steps"), (2, "closure")])
def test_an_overflow_leaves_everything_as_it_was(num_before, method, base, passes, form, device):
    model, optimizer = build(method, base, device)
    scaler = GradScaler(device, init_scale=2.0**10)
    data = batches(num_before + 1)
    for batch in data[:num_before]:
        optimizer.step(
            lambda batch=batch: backward(model, optimizer, batch, torch.float16, scaler), scaler=scaler
        )
        scaler.update()
    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    factors = {"first": [1e9, 1.0], "second": [1.0, 1e9], "both": [1e9, 1e9]}[passes]
    overflowed = []

    def closure():
        loss = backward(model, optimizer, data[-1], torch.float16, scaler, factors[len(overflowed)])
        overflowed.append(not all(p.grad.isfinite().all() for p in model.parameters()))
        return loss

    if form == "closure":
        optimizer.step(closure, scaler=scaler)
    else:
        closure()
        optimizer.first_step(zero_grad=True, scaler=scaler)
        closure()
        optimizer.second_step(zero_grad=True, scaler=scaler)
    scaler.update()

    # A first overflow makes the weights NaN until they are restored, and so the second gradient.
    assert overflowed == {"first": [True, True], "second": [False, True], "both": [True, True]}[passes]
    assert scaler.get_scale() == 2.0**9
    assert same(model.parameters(), before)
    after = optimizer.state_dict()
    assert same(after["ascent"]["running"].values(), state["ascent"]["running"].values()) or not (
        after["ascent"]["running"] or state["ascent"]["running"]
    )
    if num_before or after["state"]:  # a fused optimizer makes its state, of zeros, before it skips
        for i, values in after["state"].items():
            for name, value in values.items():
                old = state["state"][i][name] if num_before else torch.zeros_like(value)
                assert torch.equal(value, old), name
