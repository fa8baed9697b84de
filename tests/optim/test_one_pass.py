"""Methods that know e before the gradient: one gradient a step, against the slow twin."""

import itertools

import pytest
import slow_twin
import torch
from small_nets import batches, classifier, close, closure_for, gradients, loss_of, same, weights
from torch import nn
from torch.amp.grad_scaler import GradScaler

from zsharp.optim import METHODS, SharpnessAware, make_optimizer
from zsharp.optim.methods import ONE_PASS

METHODS_OF_ONE_PASS = [name for name, method in METHODS.items() if method.rules.ascent in ONE_PASS]
BASES = {"sgd": {"momentum": 0.9, "weight_decay": 0.1}, "adamw": {"weight_decay": 0.1}}
EACH = [*itertools.product(METHODS_OF_ONE_PASS, BASES)]
each = pytest.mark.parametrize(("method", "base"), EACH)


def test_they_are_these_and_cost_one_gradient():
    assert METHODS_OF_ONE_PASS == ["msam", "stale_sam", "zsharp_msam", "zsharp_stale_sam"]
    assert {METHODS[name].gradient_evaluations_per_step for name in METHODS_OF_ONE_PASS} == {1}


def double_batches(num):
    return [(x.double(), y) for x, y in batches(num)]


def build(method, base, model=None, **settings):
    model = model or classifier().double()
    settings = {"lr": 0.01, **BASES[base], **settings}
    return model, make_optimizer(model.parameters(), method, base, **settings)


@each
def test_eight_steps_equal_the_slow_twin(method, base, path):
    """MSAM goes against the momentum, as the step that follows; the other goes along the last gradient."""
    model, optimizer = build(method, base)
    expected = [w.numpy() for w in weights(model)]
    descent = slow_twin.Descent(base, 0.01, 0.1)
    last = None
    for batch in double_batches(8):
        loss = optimizer.step(closure_for(model, optimizer, batch))
        if METHODS[method].rules.ascent == "msam":
            direction = [-descent.m.get(i, 0 * w) for i, w in enumerate(expected)]
        else:
            direction = last or [0 * w for w in expected]
        e = slow_twin.perturb_by(METHODS[method], expected, direction)
        last, twin_loss = gradients(model, [w + ei for w, ei in zip(expected, e, strict=True)], batch)
        expected = descent.step(expected, last)
        assert float(loss) == pytest.approx(twin_loss, rel=1e-9)
        assert float(optimizer.last.norm) == pytest.approx(slow_twin.norm(e), rel=1e-7, abs=1e-12)
    assert float(optimizer.last.norm) == pytest.approx(METHODS[method].defaults["rho"], rel=1e-6)
    close(weights(model), expected, rtol=1e-6)


@each
def test_the_closure_runs_once_and_both_forms_are_the_same(method, base):
    (model, optimizer), (twin, in_parts) = build(method, base), build(method, base)
    calls = []
    for batch in double_batches(4):
        closure = closure_for(model, optimizer, batch)
        optimizer.step(lambda closure=closure: calls.append(optimizer.is_perturbed) or closure())
        in_parts.first_step()
        loss_of(twin, batch).backward()
        in_parts.second_step(zero_grad=True)
    assert calls == [True] * 4
    assert same(model.parameters(), twin.parameters())


@each
def test_groups_of_examples_ascend_by_themselves(method, base):
    (model, optimizer), (twin, whole) = build(method, base), build(method, base)
    for x, y in double_batches(3):
        parts = [*zip(x.chunk(2), y.chunk(2), strict=True)]
        optimizer.step_groups([closure_for(model, optimizer, part) for part in parts])
        whole.step(closure_for(twin, whole, (x, y)))  # e does not depend on the batch
    assert float(optimizer.last.norm) > 0
    close(weights(model), weights(twin), rtol=1e-6)


@each
def test_an_overflow_changes_nothing(method, base):
    scaler = GradScaler("cpu", init_scale=8.0)
    (model, optimizer), (twin, plain) = build(method, base), build(method, base)

    def scaled(batch, factor):
        def closure():
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            scaler.scale(loss * factor).backward()
            return loss.detach()

        return closure

    first, second, third = double_batches(3)
    for batch, factor in ((first, 1.0), (second, float("inf")), (third, 1.0)):
        optimizer.step(scaled(batch, factor), scaler=scaler)
        scaler.update()
    assert scaler.get_scale() == 4.0, "the second step was left out"
    for batch in (first, third):
        plain.step(closure_for(twin, plain, batch))
    close(weights(model), weights(twin), rtol=1e-9)


def test_a_base_optimizer_without_momentum_is_refused():
    params = [nn.Parameter(torch.ones(2))]
    for base, settings in (("sgd", {}), (torch.optim.Adagrad, {})):
        with pytest.raises(ValueError, match="momentum"):
            make_optimizer(params, "msam", base, lr=0.1, **settings)
    optimizer = make_optimizer(params, "msam", "sgd", lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="momentum"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "momentum": 0.0})
    assert len(optimizer.base_optimizer.param_groups) == 1


def test_beside_a_group_that_needs_the_gradient_a_step_takes_two():
    model = classifier()
    groups = [
        {"params": model.first.parameters(), "ascent": "stale_sam"},
        {"params": model.second.parameters()},
    ]
    optimizer = SharpnessAware(groups, torch.optim.SGD, rules=METHODS["sam"].rules, lr=0.1)
    calls = []
    for batch in batches(2):
        closure = closure_for(model, optimizer, batch)
        optimizer.step(lambda closure=closure: calls.append(optimizer.is_perturbed) or closure())
    assert calls == [False, True] * 2
    assert optimizer.last.norm == pytest.approx(0.05)
