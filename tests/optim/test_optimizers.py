"""Every method against the slow twin, its stated reductions, and the promises of the class."""

import copy
import itertools

import numpy as np
import pytest
import slow_twin
import torch
from small_nets import SHARP, closure_for, loss_of
from torch import nn

from zsharp.optim import (
    ASAM,
    METHODS,
    SAM,
    FriendlySAM,
    SharpnessAware,
    ZSharp,
    frozen_batch_norm,
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


def gradients(model, weights, batch):
    """Gradients at `weights`, leaving the model as it is."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p, w in zip(twin.parameters(), weights, strict=True):
            p.copy_(torch.as_tensor(w))
    loss = loss_of(twin, batch)
    return [g.numpy() for g in torch.autograd.grad(loss, list(twin.parameters()))], float(loss.detach())


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", [name for name in SHARP if "random" not in name])
def test_eight_steps_equal_the_slow_twin(method, base):
    model = conv_net()
    row = METHODS[method]
    optimizer = make_optimizer(model.parameters(), method, base, lr=0.01, weight_decay=0.1, **BASES[base])
    weights = [p.detach().numpy().copy() for p in model.parameters()]
    descent = slow_twin.Descent(base, 0.01, 0.1)
    running = None
    for batch in batches(8):
        loss = optimizer.step(closure_for(model, optimizer, batch))
        g, twin_loss = gradients(model, weights, batch)
        direction = g
        if row.rules.ascent == "friendly_sam":
            if running is not None:
                direction = [gi - row.defaults["sigma"] * mi for gi, mi in zip(g, running, strict=True)]
            decay = row.defaults["lmbda"] if running is not None else 0.0
            running = [decay * mi + (1 - decay) * gi for gi, mi in zip(g, running or g, strict=True)]
        e = slow_twin.perturb_by(row, weights, direction)
        up, _ = gradients(model, [w + ei for w, ei in zip(weights, e, strict=True)], batch)
        weights = descent.step(weights, up)
        assert float(loss) == pytest.approx(twin_loss, rel=1e-9)
        assert float(optimizer.last.norm) == pytest.approx(slow_twin.norm(e), rel=1e-7)
    for p, w in zip(model.parameters(), weights, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("one_dim", ["dense", "filter", "skip"])
@pytest.mark.parametrize("norm", ["global", "layer"])
@pytest.mark.parametrize("threshold", ["layer", "global"])
@pytest.mark.parametrize("kind", ["zscore", "magnitude", "none"])
def test_every_switch_equals_the_slow_twin(kind, threshold, norm, one_dim):
    model, (batch,) = conv_net(), batches(1)
    optimizer = ZSharp(
        model.parameters(),
        torch.optim.SGD,
        lr=0.1,
        q_p=0.7,
        filter=kind,
        threshold=threshold,
        norm=norm,
        one_dim=one_dim,
    )
    weights = [p.detach().numpy().copy() for p in model.parameters()]
    g, _ = gradients(model, weights, batch)
    closure_for(model, optimizer, batch)()
    optimizer.first_step()
    e = slow_twin.perturb(
        weights, g, rho=0.05, q=0.7, kind=kind, threshold=threshold, scale=norm, one_dim=one_dim
    )
    for p, w, ei in zip(model.parameters(), weights, e, strict=True):
        np.testing.assert_allclose(p.detach().numpy() - w, ei, atol=1e-12)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", SHARP)
def test_radius_zero_is_the_base_optimizer_bit_for_bit(method, base):
    model, plain = conv_net(), conv_net()
    optimizer = make_optimizer(model.parameters(), method, base, lr=0.01, rho=0.0)
    base_optimizer = make_optimizer(plain.parameters(), "base", base, lr=0.01)
    for batch in batches(4):
        optimizer.step(closure_for(model, optimizer, batch))
        base_optimizer.step(closure_for(plain, base_optimizer, batch))
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("settings", [{"q_p": 0.0}, {"filter": "none"}])
def test_zsharp_without_a_filter_is_sam(settings):
    model, plain = conv_net(), conv_net()
    zsharp = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1, **settings)
    sam = SAM(plain.parameters(), torch.optim.SGD, lr=0.1)
    for batch in batches(4):
        zsharp.step(closure_for(model, zsharp, batch))
        sam.step(closure_for(plain, sam, batch))
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)


def test_random_filter_keeps_as_many_and_differs_from_step_to_step():
    model, (batch,) = conv_net(), batches(1)
    optimizer = make_optimizer(model.parameters(), "random_sam", "sgd", lr=0.1, q_p=0.9)
    zsharp = ZSharp(copy.deepcopy(model).parameters(), torch.optim.SGD, lr=0.1, q_p=0.9)
    moved = []
    for _ in range(2):
        closure_for(model, optimizer, batch)()
        optimizer.first_step()
        perturbed = [p.detach().clone() for p in model.parameters()]
        optimizer.restore()
        moved.append(
            torch.cat([(a != b).flatten() for a, b in zip(perturbed, model.parameters(), strict=True)])
        )
    for p, q in zip(zsharp.param_groups[0]["params"], model.parameters(), strict=True):
        p.grad = q.grad.clone()
    zsharp.first_step()
    assert torch.equal(optimizer.last.kept, zsharp.last.kept)
    assert not torch.equal(*moved)


def test_official_radius_grows_with_the_root_of_the_number_of_layers():
    """Three tensors of norm rho each, and 1-D tensors that together have at most norm rho."""
    model, (batch,) = conv_net(), batches(1)
    for method, low, high in (("zsharp", 0.05, 0.05), ("zsharp_official", 0.05 * 3**0.5, 0.05 * 4**0.5)):
        optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1)
        closure_for(model, optimizer, batch)()
        optimizer.first_step()
        optimizer.restore()
        assert low - 1e-9 <= float(optimizer.last.norm) <= high + 1e-9


def test_all_equal_gradients_fall_back_to_sam():
    model = conv_net()
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.05)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.first_step()
    num = sum(p.numel() for p in model.parameters())
    for p, b in zip(model.parameters(), before, strict=True):
        assert torch.allclose(p - b, torch.full_like(p, 0.05 / num**0.5))
    assert float(optimizer.last.kept_fraction) == 1


@pytest.mark.parametrize("method", SHARP)
def test_weights_keep_their_storage_and_return_bit_for_bit(method):
    model, (batch,) = conv_net(), batches(1)
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    storage = [p.data_ptr() for p in model.parameters()]
    closure_for(model, optimizer, batch)()
    optimizer.first_step()
    assert not all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    optimizer.restore()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    optimizer.step(closure_for(model, optimizer, batch))
    assert [p.data_ptr() for p in model.parameters()] == storage


def test_weights_return_when_the_second_pass_raises():
    model, (batch,) = conv_net(), batches(1)
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    calls = []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return closure_for(model, optimizer, batch)()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    optimizer.state_dict()


@pytest.mark.parametrize(("method", "base"), [*zip(METHODS, itertools.cycle(BASES), strict=False)])
def test_resuming_from_a_checkpoint_is_bit_identical(method, base, tmp_path):
    model, data = conv_net(), batches(6)
    optimizer = make_optimizer(model.parameters(), method, base, lr=0.01, **BASES[base])
    for i, batch in enumerate(data):
        if i == 3:
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt"
            )
        optimizer.step(closure_for(model, optimizer, batch))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed = conv_net()
    resumed.load_state_dict(saved["model"])
    again = make_optimizer(resumed.parameters(), method, base, lr=0.5, **BASES[base])
    again.load_state_dict(saved["optimizer"])
    for batch in data[3:]:
        again.step(closure_for(resumed, again, batch))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), resumed.parameters(), strict=True))


def test_loading_a_plain_base_optimizers_state_works():
    model, (first, second) = conv_net(), batches(2)
    plain = torch.optim.AdamW(model.parameters(), lr=0.02)
    plain.step(closure_for(model, plain, first))
    twin = copy.deepcopy(model)
    optimizer = make_optimizer(twin.parameters(), "zsharp", "adamw", lr=0.5, rho=0.0)
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    plain.step(closure_for(model, plain, second))
    optimizer.step(closure_for(twin, optimizer, second))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_groups_carry_their_own_settings_and_share_the_base_optimizers():
    model, (batch,) = conv_net(), batches(1)
    params = list(model.parameters())
    optimizer = ZSharp(
        [{"params": params[:1], "rho": 0.0}], torch.optim.AdamW, lr=0.1, q_p=0.5, weight_decay=0.3
    )
    optimizer.add_param_group({"params": params[1:], "rho": 0.2, "lr": 0.7})
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    assert optimizer.param_groups[1]["weight_decay"] == 0.3
    assert optimizer.param_groups[1]["q_p"] == 0.5
    closure_for(model, optimizer, batch)()
    before = params[0].detach().clone()
    optimizer.first_step()
    assert torch.equal(params[0], before)
    assert float(optimizer.last.norm) <= 0.2 + 1e-9


@pytest.mark.parametrize("tensors", [False, True])
def test_radius_and_percentile_may_be_tensors(tensors):
    model, (batch,) = conv_net(), batches(1)
    rho, q_p = (torch.tensor(0.1), torch.tensor(0.8, dtype=torch.float64)) if tensors else (0.1, 0.8)
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1, rho=rho, q_p=q_p)
    closure_for(model, optimizer, batch)()
    optimizer.first_step()
    assert float(optimizer.last.norm) == pytest.approx(0.1)
    sizes = [p.numel() for p in model.parameters()]
    assert optimizer.last.kept.tolist() == [slow_twin.num_kept(n, 0.8) for n in sizes]


def test_misuse_says_what_to_do():
    model, (batch,) = conv_net(), batches(1)
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(RuntimeError, match="closure that zeroes the gradients"):
        optimizer.step()
    closure_for(model, optimizer, batch)()
    optimizer.first_step()
    with pytest.raises(RuntimeError, match="call second_step"):
        optimizer.first_step()
    with pytest.raises(RuntimeError, match="before saving"):
        optimizer.state_dict()


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


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_sees_each_batch_once(momentum):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum), nn.Linear(4, 2))
    twin = copy.deepcopy(model)
    x = torch.randn(8, 3)
    out = model(x)
    with frozen_batch_norm(model):
        again = model(x * 2)
    expected = twin(x)
    assert torch.equal(out, expected)
    assert torch.equal(again, copy.deepcopy(twin)(x * 2))
    assert int(model[1].num_batches_tracked) == 1
    assert torch.equal(model[1].running_mean, twin[1].running_mean)
    assert model[1].track_running_stats


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


@pytest.mark.parametrize("method", ["sam", "zsharp", "zsharp_official", "zsharp_asam"])
def test_memory_layout_changes_nothing(method):
    model, (batch,) = conv_net(), batches(1)
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert twin.conv2.weight.stride() != model.conv2.weight.stride()
    for m in (model, twin):
        optimizer = make_optimizer(m.parameters(), method, "sgd", lr=0.1)
        closure_for(m, optimizer, batch)()
        if m is twin:  # a gradient whose strides differ from its parameter's
            m.conv2.weight.grad = m.conv2.weight.grad.contiguous()
        optimizer.first_step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


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


@pytest.mark.parametrize("method", ["sam", "zsharp", "zsharp_official"])
def test_groups_of_examples_ascend_by_themselves(method):
    """m-sharpness in one process equals the explicit computation, group by group."""
    model, (batch,) = conv_net(), batches(1)
    optimizer = make_optimizer(model.parameters(), method, "sgd", lr=0.1)
    weights = [p.detach().numpy().copy() for p in model.parameters()]
    groups = list(zip(batch[0].chunk(2), batch[1].chunk(2), strict=True))
    optimizer.step_groups([closure_for(model, optimizer, group) for group in groups])
    gradients_up = []
    for group in groups:
        g, _ = gradients(model, weights, group)
        e = slow_twin.perturb_by(METHODS[method], weights, g)
        gradients_up.append(gradients(model, [w + ei for w, ei in zip(weights, e, strict=True)], group)[0])
    for p, w, one, two in zip(model.parameters(), weights, *gradients_up, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), w - 0.1 * (one + two) / 2, rtol=1e-9, atol=1e-12)


def test_step_freezes_batch_norm_in_the_second_pass_if_it_knows_the_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    batch = (torch.randn(8, 3), torch.randint(2, (8,)))
    for known, counted in ((None, 2), (model, 3)):
        optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1)
        optimizer.step(closure_for(model, optimizer, batch), model=known)
        assert int(model[1].num_batches_tracked) == counted
