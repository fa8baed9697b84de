"""A sparse save leads to the weights that a dense one leads to, and keeps less where less is kept."""

import copy

import pytest
import torch
from generated import DTYPES, RULES, VALUES, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_twin import num_kept
from small_nets import SHARP, batches, classifier, closure_for, same, weights
from torch import nn

from zsharp.optim import SAM, SharpnessAware, ZSharp, make_optimizer
from zsharp.optim.ascent.backups import Backups, index_dtype

SAVES = ["dense", "sparse"]


def equal(one, two):
    return len(one) == len(two) > 0 and all(
        torch.equal(p.nan_to_num(1e30), q.nan_to_num(1e30)) for p, q in zip(one, two, strict=True)
    )


@given(
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
    rules=RULES,
    values=st.sampled_from([*VALUES, "nan"]),
    rho=st.sampled_from([0.0, 0.05, 3e38]),
    q_p=st.sampled_from([0.0, 0.3, 0.6, 0.95]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_ascent_is_the_same(shapes, dtype, rules, values, rho, q_p, seed):
    found = []
    for save in SAVES:
        generator = torch.Generator().manual_seed(seed)
        params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
        optimizer = SharpnessAware(params, torch.optim.SGD, rules=rules, rho=rho, q_p=q_p, lr=0.1, save=save)
        before = weights(nn.ParameterList(params))
        moved = []
        for _ in range(2):  # the second with what the first left in the buffers
            for p in params:
                p.grad = gradient(p.shape, values, 1.0, generator).to(dtype)
            optimizer.first_step()
            moved += weights(nn.ParameterList(params))
            optimizer.restore()
            assert same(params, before)
        last = optimizer.last
        observed = [] if last is None else [last.norm, last.kept, last.kept_fraction, last.grad_norm]
        found.append((moved, observed))
    (moved, observed), (moved_too, observed_too) = found
    assert equal(moved, moved_too)
    assert equal([x.double() for x in observed], [x.double() for x in observed_too])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", SHARP)
def test_large_and_small_layers_in_both_layouts(method, dtype, layout):
    """Those that move alone, those that are ranked together, and a gradient of other strides."""
    found = []
    for save in SAVES:
        torch.manual_seed(0)
        convs = nn.ModuleList([nn.Conv2d(16, size, 3) for size in (517, 8, 8)])
        convs = convs.to(dtype=dtype, memory_format=layout)
        optimizer = make_optimizer(convs.parameters(), method, "sgd", lr=0.1, save=save)
        assert convs[0].weight.numel() * 4 > 2**18  # beyond what moves together
        places = [p.data_ptr() for p in convs.parameters()]
        steps = []
        for step in range(3):
            for p in convs.parameters():
                grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).to(dtype)
                p.grad = grad if step == 1 else torch.empty_like(p).copy_(grad)
            before = weights(convs)
            optimizer.first_step()
            steps += weights(convs)
            assert not same(convs.parameters(), before)
            optimizer.restore()
            assert same(convs.parameters(), before)
            optimizer.second_step()
        found.append(steps + weights(convs))
        assert [p.data_ptr() for p in convs.parameters()] == places
    assert same(*found)


@pytest.mark.parametrize(("rho", "first"), [(0.05, torch.nan), (3e38, 0.0)])
def test_a_factor_that_is_not_finite_moves_dropped_components_too(rho, first):
    """Those of every tensor, also where the gradient is finite; then the whole tensor is saved."""
    found = []
    for save in SAVES:
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(shape)) for shape in ((30, 5), (40, 20))]
        for p in params:
            p.grad = torch.randn(p.shape) * 1e-3
        params[0].grad[0, 0] = first
        before = weights(nn.ParameterList(params))
        optimizer = ZSharp(params, torch.optim.SGD, lr=0.1, rho=rho, save=save)
        optimizer.first_step()
        found.append(weights(nn.ParameterList(params)))
        num_dropped = 800 - (0 if rho == 0.05 else num_kept(800, 0.95))
        assert int(params[1].isnan().sum()) == num_dropped
        optimizer.restore()
        assert same(params, before)
    assert equal(*found)


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("method", SHARP)
def test_training_is_the_same(method, base):
    found = []
    for save in SAVES:
        model = classifier()
        optimizer = make_optimizer(model.parameters(), method, base, lr=0.01, save=save)
        for batch in batches(5):
            optimizer.step(closure_for(model, optimizer, batch))
        found.append(weights(model))
    assert same(*found)


def test_weights_return_when_the_second_pass_raises():
    model, (batch,) = classifier(), batches(1)
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1, save="sparse")
    before = weights(model)

    def closure():
        if optimizer.is_perturbed:
            assert not same(model.parameters(), before)
            raise KeyboardInterrupt
        return closure_for(model, optimizer, batch)()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert same(model.parameters(), before)
    assert not optimizer._backups.parts
    assert copy.deepcopy(optimizer)._backups.save == "sparse"


def run(param, optimizer, grad):
    """Bytes saved at w + e, and after."""
    param.grad = grad.to(param.dtype)
    optimizer.first_step()
    during = optimizer.num_saved_bytes
    optimizer.restore()
    return during, optimizer.num_saved_bytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num", [1000, 70000])
def test_bytes_saved(num, dtype):
    """Four for each position and the value's own; nothing of that size stays when the weights are back."""
    param = nn.Parameter(torch.zeros(num, dtype=dtype))
    optimizer = ZSharp([param], torch.optim.SGD, lr=0.1, q_p=0.95, save="sparse", filter="random")
    is_sparse = dtype != torch.float16
    whole = num * param.element_size()
    part = num_kept(num, 0.95) * (4 + param.element_size())
    expected = (part, 0) if is_sparse else (whole, whole)
    for _ in range(2):
        assert run(param, optimizer, torch.randn(num)) == expected


def test_where_it_would_not_be_smaller_the_save_is_dense():
    param = nn.Parameter(torch.zeros(1000))
    optimizer = ZSharp([param], torch.optim.SGD, lr=0.1, filter="random", save="sparse")
    for q_p, during in ((0.45, 4000), (0.51, 490 * 8), (0.45, 4000), (0.0, 4000)):
        optimizer.param_groups[0]["q_p"] = q_p
        assert run(param, optimizer, torch.randn(1000))[0] == during


def test_where_nothing_is_kept_the_whole_direction_is_used_for_that_step():
    param = nn.Parameter(torch.zeros(1000))
    optimizer = ZSharp([param], torch.optim.SGD, lr=0.1, save="sparse")
    assert run(param, optimizer, torch.ones(1000)) == (4000, 4000)
    assert run(param, optimizer, torch.randn(1000)) == (50 * 8, 0)


def test_unfiltered_tensors_are_saved_whole():
    model, (batch,) = classifier(), batches(1)
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1, variant="official", save="sparse")
    closure_for(model, optimizer, batch)()
    optimizer.first_step()
    filtered = [p for p in model.parameters() if p.ndim > 1]
    assert set(optimizer._backups.parts) == set(filtered)
    assert set(optimizer._backups.wholes) == set(model.parameters()) - set(filtered)
    optimizer.restore()


def test_positions_of_long_tensors_take_eight_bytes():
    assert [index_dtype(num) for num in (2**31 - 1, 2**31)] == [torch.int32, torch.int64]
    long = torch.empty(2**31, device="meta", dtype=torch.bfloat16)
    num_kept = 2**31 * 2 // 10
    assert Backups().is_smaller_in_part(long, num_kept)
    assert not Backups().is_smaller_in_part(long, num_kept + 1)


def test_other_saves_are_refused():
    with pytest.raises(ValueError, match=r"save is 'half'; valid: dense, sparse"):
        SAM([nn.Parameter(torch.ones(2))], torch.optim.SGD, lr=0.1, save="half")
