"""Every method against the slow twin, its stated reductions, and the promises of the class."""

import copy
import itertools

import numpy as np
import pytest
import slow_twin
import torch
from small_nets import SHARP, close, closure_for, gradients, loss_of, same, weights
from torch import nn
from torch.optim.lr_scheduler import StepLR

from zsharp.optim import (
    ASAM,
    METHODS,
    SAM,
    FriendlySAM,
    SharpnessAware,
    ZSharp,
    make_optimizer,
)
from zsharp.optim.ascent import ascent
from zsharp.optim.methods import SWITCHES

BASES = {"sgd": {"momentum": 0.9}, "adam": {}, "adamw": {}}


def conv_net():
    """Convolutions, a linear layer, 1-D tensors and a single-element tensor, in float64."""
    torch.manual_seed(3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 5, 3)
            self.norm = nn.GroupNorm(2, 6)
            self.linear = nn.Linear(5, 4)
            self.gain = nn.Parameter(torch.ones(1))

        def forward(self, x):
            x = torch.tanh(self.norm(self.conv1(x)))
            return self.linear(torch.tanh(self.conv2(x)).mean((2, 3))) * self.gain

    return Net().double()


def batches(num):
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(16, 2, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(4, (16,), generator=generator),
        )
        for _ in range(num)
    ]


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", [name for name in SHARP if "random" not in name])
def test_eight_steps_equal_the_slow_twin(method, base):
    model = conv_net()
    row = METHODS[method]
    optimizer = make_optimizer(model.parameters(), method, base, lr=0.01, weight_decay=0.1, **BASES[base])
    expected = [w.numpy() for w in weights(model)]
    descent = slow_twin.Descent(base, 0.01, 0.1)
    running = None
    for batch in batches(8):
        loss = optimizer.step(closure_for(model, optimizer, batch))
        g, twin_loss = gradients(model, expected, batch)
        direction = g
        if row.rules.ascent == "friendly_sam":
            if running is not None:
                direction = [gi - row.defaults["sigma"] * mi for gi, mi in zip(g, running, strict=True)]
            decay = row.defaults["lmbda"] if running is not None else 0.0
            running = [decay * mi + (1 - decay) * gi for gi, mi in zip(g, running or g, strict=True)]
        e = slow_twin.perturb_by(row, expected, direction)
        up, _ = gradients(model, [w + ei for w, ei in zip(expected, e, strict=True)], batch)
        expected = descent.step(expected, up)
        assert float(loss) == pytest.approx(twin_loss, rel=1e-9)
        assert float(optimizer.last.norm) == pytest.approx(slow_twin.norm(e), rel=1e-7)
    close(weights(model), expected, rtol=1e-6)


@pytest.mark.parametrize("one_dim", ["dense", "filter", "skip"])
@pytest.mark.parametrize("norm", ["global", "layer"])
@pytest.mark.parametrize("threshold", ["layer", "global"])
@pytest.mark.parametrize("kind", ["zscore", "magnitude", "none"])
def test_every_switch_equals_the_slow_twin(kind, threshold, norm, one_dim):
    model, (batch,) = conv_net(), batches(1)
    switches = {"threshold": threshold, "one_dim": one_dim}
    optimizer = ZSharp(
        model.parameters(), torch.optim.SGD, lr=0.1, q_p=0.7, filter=kind, norm=norm, **switches
    )
    before = [w.numpy() for w in weights(model)]
    g, _ = gradients(model, before, batch)
    closure_for(model, optimizer, batch)()
    optimizer.first_step()
    e = slow_twin.perturb(before, g, rho=0.05, q=0.7, kind=kind, scale=norm, **switches)
    for p, w, ei in zip(weights(model), before, e, strict=True):
        np.testing.assert_allclose(p.numpy() - w, ei, atol=1e-12)


def train(optimizer_of, num=4):
    """The weights after some steps."""
    model = conv_net()
    optimizer = optimizer_of(model.parameters())
    for batch in batches(num):
        optimizer.step(closure_for(model, optimizer, batch))
    return weights(model)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "base"])
def test_radius_zero_is_the_base_optimizer_bit_for_bit(method, base):
    settings = {"lr": 0.01, **BASES[base]}
    results = train(lambda params: make_optimizer(params, method, base, rho=0.0, **settings))
    assert same(results, train(lambda params: make_optimizer(params, "base", base, **settings)))


@pytest.mark.parametrize(
    ("method", "plain"), [("zsharp", "sam"), ("zsharp_msam", "msam"), ("zsharp_stale_sam", "stale_sam")]
)
def test_a_percentile_of_zero_is_no_filter(method, plain):
    def trained(method, **settings):
        return train(lambda params: make_optimizer(params, method, "sgd", lr=0.1, momentum=0.9, **settings))

    assert same(trained(method, q_p=0.0), trained(plain))
    assert not same(trained(method), trained(plain))


def test_random_filter_keeps_as_many_and_differs_from_step_to_step():
    model, (batch,) = conv_net(), batches(1)
    optimizer = make_optimizer(model.parameters(), "random_sam", "sgd", lr=0.1, q_p=0.9)
    before, moved = weights(model), []
    for _ in range(2):
        closure_for(model, optimizer, batch)()
        optimizer.first_step()
        moved.append(torch.cat([(p != w).flatten() for p, w in zip(weights(model), before, strict=True)]))
        optimizer.restore()
    assert optimizer.last.kept.tolist() == [slow_twin.num_kept(w.numel(), 0.9) for w in before]
    assert not torch.equal(*moved)


@pytest.mark.parametrize("method", SHARP)
def test_weights_keep_their_storage_and_return_bit_for_bit(method):
    model, (batch,) = conv_net(), batches(1)
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1)
    before = weights(model)
    storage = [p.data_ptr() for p in model.parameters()]
    closure_for(model, optimizer, batch)()
    optimizer.first_step()
    assert not same(model.parameters(), before)
    optimizer.restore()
    assert same(model.parameters(), before)
    optimizer.step(closure_for(model, optimizer, batch))
    assert [p.data_ptr() for p in model.parameters()] == storage


@pytest.mark.parametrize("method", ["zsharp", "msam", "stale_sam"])
def test_weights_return_when_the_pass_at_them_raises(method):
    model, (first, second) = conv_net(), batches(2)
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1, momentum=0.9)
    optimizer.step(closure_for(model, optimizer, first))
    before = weights(model)

    def closure():
        if optimizer.is_perturbed:
            assert not same(model.parameters(), before)
            raise KeyboardInterrupt
        return closure_for(model, optimizer, second)()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert same(model.parameters(), before)
    optimizer.state_dict()
    optimizer.step(closure_for(model, optimizer, second))


@pytest.mark.parametrize(("method", "base"), [*zip(METHODS, itertools.cycle(BASES), strict=False)])
def test_resuming_from_a_checkpoint_is_bit_identical(method, base, tmp_path):
    def build(lr):
        model = conv_net()
        optimizer = make_optimizer(model.parameters(), method, base, lr=lr, **BASES[base])
        return {"model": model, "optimizer": optimizer, "scheduler": StepLR(optimizer, 1, 0.9)}

    def train(model, optimizer, scheduler, data):
        for batch in data:
            optimizer.step(closure_for(model, optimizer, batch))
            scheduler.step()

    data = batches(6)
    whole, resumed = build(0.01), build(0.5)
    train(**whole, data=data[:3])
    torch.save({name: part.state_dict() for name, part in whole.items()}, tmp_path / "checkpoint.pt")
    train(**whole, data=data[3:])
    for name, state in torch.load(tmp_path / "checkpoint.pt", weights_only=True).items():
        resumed[name].load_state_dict(state)
    train(**resumed, data=data[3:])
    assert same(whole["model"].parameters(), resumed["model"].parameters())
    assert resumed["optimizer"].param_groups[0]["lr"] == pytest.approx(0.01 * 0.9**6)


def test_loading_a_plain_base_optimizers_state_works():
    model, (first, second) = conv_net(), batches(2)
    plain = torch.optim.AdamW(model.parameters(), lr=0.02)
    plain.step(closure_for(model, plain, first))
    twin = copy.deepcopy(model)
    optimizer = make_optimizer(twin.parameters(), "zsharp", "adamw", lr=0.5, rho=0.0)
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    plain.step(closure_for(model, plain, second))
    optimizer.step(closure_for(twin, optimizer, second))
    assert same(model.parameters(), twin.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": -0.1}, "rho is -0.1; valid: 0 <= rho"),
        ({"q_p": 1.0}, "q_p is 1.0; valid: 0 <= q_p < 1"),
        ({"q_p": float("nan")}, "q_p is nan"),
        ({"variant": "new"}, "valid: paper, official"),
    ],
)
def test_numbers_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ZSharp(conv_net().parameters(), torch.optim.SGD, lr=0.1, **settings)


def test_the_factory_names_the_nearest_method():
    with pytest.raises(ValueError, match="did you mean zsharp"):
        make_optimizer(conv_net().parameters(), "zsharpe")
    with pytest.raises(ValueError, match="valid: sgd, adam, adamw"):
        make_optimizer(conv_net().parameters(), "sam", "lion")


def test_named_classes_are_the_rows_of_the_table():
    for cls, name in ((SAM, "sam"), (ASAM, "asam"), (FriendlySAM, "friendly_sam"), (ZSharp, "zsharp")):
        named = cls(conv_net().parameters(), torch.optim.SGD, lr=0.1)
        row = make_optimizer(conv_net().parameters(), name, "sgd", lr=0.1)
        assert isinstance(row, SharpnessAware)
        keys = {*SWITCHES, *METHODS[name].defaults}
        assert {k: named.param_groups[0][k] for k in keys} == {k: row.param_groups[0][k] for k in keys}


@pytest.mark.parametrize("method", SHARP)
def test_host_and_device_paths_find_the_same_perturbation(method, monkeypatch):
    """The device path runs on the CPU too; masks are equal, lengths agree to rounding."""
    model, data = conv_net().float(), batches(3)
    twin = copy.deepcopy(model)
    host = make_optimizer(model.parameters(), method, "sgd", lr=0.1)
    device = make_optimizer(twin.parameters(), method, "sgd", lr=0.1)
    for x, y in data:
        loss_of(model, (x.float(), y)).backward()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            q.data.copy_(p.data)
            q.grad = p.grad.clone()
        before = [p.detach().clone() for p in model.parameters()]
        host.first_step()
        with monkeypatch.context() as patch:
            patch.setattr(ascent, "_is_host", lambda devices: False)
            device.first_step()
        if method == "random_sam":  # drawn in another order
            assert host.last.kept.sum() == device.last.kept.sum()
        else:
            assert torch.equal(host.last.kept, device.last.kept)
            for p, q, w in zip(model.parameters(), twin.parameters(), before, strict=True):
                assert torch.equal(p != w, q != w)
                torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(host.last.norm, device.last.norm)
        torch.testing.assert_close(host.last.grad_norm, device.last.grad_norm)
        for optimizer in (host, device):
            optimizer.restore()
            optimizer.zero_grad()


def test_the_loss_increase_is_that_of_the_second_pass():
    model, (batch,) = conv_net(), batches(1)
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.0, rho=0.1)
    losses = []

    def closure():
        loss = closure_for(model, optimizer, batch)()
        losses.append(loss.item())
        return loss

    optimizer.step(closure)
    assert float(optimizer.last_loss_increase) == pytest.approx(losses[1] - losses[0])
    assert losses[1] > losses[0]


@pytest.mark.parametrize(
    ("interval", "start", "passes"), [(1, 0, [2] * 6), (3, 0, [2, 1, 1] * 2), (2, 3, [1, 1, 1, 2, 1, 2])]
)
def test_ascents_at_an_interval_and_from_a_start(interval, start, passes):
    model, data = conv_net(), batches(6)
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1, interval=interval, start_step=start)
    counted = []
    for i, batch in enumerate(data):
        calls = []

        def closure(batch=batch, calls=calls, optimizer=optimizer):
            calls.append(1)
            return closure_for(model, optimizer, batch)()

        optimizer.step(closure)
        counted.append(len(calls))
        if i == 2:  # the count survives a checkpoint
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = ZSharp(
                model.parameters(), torch.optim.SGD, lr=0.1, interval=interval, start_step=start
            )
            optimizer.load_state_dict(state)
    assert counted == passes


@pytest.mark.parametrize("method", ["sam", "zsharp", "zsharp_official"])
def test_groups_of_examples_ascend_by_themselves(method):
    """m-sharpness in one process equals the explicit computation, group by group."""
    model, (batch,) = conv_net(), batches(1)
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1)
    before = [w.numpy() for w in weights(model)]
    groups = list(zip(batch[0].chunk(2), batch[1].chunk(2), strict=True))
    assert len(groups) == 2
    optimizer.step_groups([closure_for(model, optimizer, group) for group in groups])
    gradients_up = []
    for group in groups:
        g, _ = gradients(model, before, group)
        e = slow_twin.perturb_by(METHODS[method], before, g)
        gradients_up.append(gradients(model, [w + ei for w, ei in zip(before, e, strict=True)], group)[0])
    close(weights(model), [w - 0.05 * (one + two) for w, one, two in zip(before, *gradients_up, strict=True)])


@pytest.mark.parametrize(("method", "base"), [*zip(SHARP, itertools.cycle(BASES), strict=False)])
def test_accumulated_micro_batches_equal_one_batch(method, base):
    model, (batch,) = conv_net(), batches(1)
    twin = copy.deepcopy(model)
    whole = make_optimizer(model.parameters(), method, base, lr=0.01)
    parts = make_optimizer(twin.parameters(), method, base, lr=0.01)

    def accumulate():
        parts.zero_grad()
        losses = []
        for x, y in zip(batch[0].chunk(4), batch[1].chunk(4), strict=True):
            loss = loss_of(twin, (x, y)) / 4
            loss.backward()
            losses.append(loss.detach())
        return sum(losses)

    for _ in range(3):
        one = whole.step(closure_for(model, whole, batch))
        assert float(parts.step(accumulate)) == pytest.approx(float(one), rel=1e-9)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-9)
