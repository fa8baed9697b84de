"""Odd shapes, values, types and memory: finite stays finite, lengths are as stated, weights come back bit for bit."""

import pytest
import torch
from generated import DTYPES, RULES, VALUES, gradient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow_twin import num_kept
from small_nets import SHARP, batches, classifier, closure_for, same, weights, with_percentile
from torch import nn

from zsharp.optim import METHODS, SAM, SharpnessAware, ZSharp, make_optimizer

PRECISION = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.005}


@given(
    shapes=st.lists(st.lists(st.integers(0, 6), max_size=4).map(tuple), min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
    rules=RULES,
    values=st.sampled_from(VALUES),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    rho=st.sampled_from([0.0, 0.01, 0.5]),
    q_p=st.sampled_from([0.0, 0.3, 0.5, 0.95, 0.999]),
    seed=st.integers(0, 2**16),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
def test_any_ascent(path, shapes, dtype, rules, values, scale, rho, q_p, seed):
    generator = torch.Generator().manual_seed(seed)
    params = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    for p in params:
        p.grad = gradient(p.shape, values, scale, generator).to(dtype)
    optimizer = SharpnessAware(params, torch.optim.SGD, rules=rules, rho=rho, q_p=q_p, lr=0.1)
    before = [p.detach().clone() for p in params]
    optimizer.first_step()
    last = optimizer.last
    moved = [p.detach().clone() for p in params]
    optimizer.restore()
    assert same(params, before)
    assert all(p.isfinite().all() for p in moved)
    assert all(value.isfinite() for value in (last.norm, last.kept_fraction, last.grad_norm))

    moving = [i for i, p in enumerate(params) if not (rules.one_dim == "skip" and p.ndim <= 1)]
    filtered = [
        i for i in moving if rules.filter != "none" and (params[i].ndim > 1 or rules.one_dim == "filter")
    ]
    check_counts(last, params, moving, filtered, rules, q_p)

    # How far: in ASAM the length is that of e / T.
    t = [
        w.double().abs() + 0.01 if rules.ascent == "asam" else torch.ones_like(w, dtype=torch.double)
        for w in before
    ]
    e = [(p.double() - w.double()) / ti for p, w, ti in zip(moved, before, t, strict=True)]
    lengths = torch.stack([ei.norm() for ei in e])
    dense = torch.stack([(p.grad.double() * ti).norm() for p, ti in zip(params, t, strict=True)])
    eps = torch.finfo(dtype).eps
    lost = max(
        float(w.abs().max() * eps / ti.min()) if w.numel() else 0.0 for w, ti in zip(before, t, strict=True)
    )
    slack = PRECISION[dtype] * rho + lost * sum(p.numel() for p in params) ** 0.5
    assert not any(lengths[i] for i in range(len(params)) if i not in moving)
    if not moving or dense[moving].norm() < 1e-6:
        assert not lengths.any()
    elif rules.norm == "global":
        assert float(lengths.norm()) == pytest.approx(rho, abs=slack)
    else:
        own = filtered if rules.filter != "none" else moving
        shared = [i for i in moving if i not in own]
        assert all(length <= rho + slack for length in lengths)
        assert not shared or float(lengths[shared].norm()) <= rho + slack
        assert float(lengths.norm()) <= rho * (len(own) + 1) ** 0.5 + slack


def check_counts(last, params, moving, filtered, rules, q_p):
    sizes = [params[i].numel() for i in moving]
    assert last.kept.tolist() == [int(k) for k in last.kept]
    assert float(last.kept_fraction) == pytest.approx(
        int(last.kept.sum()) / max(1, sum(p.numel() for p in params))
    )
    for i, num, kept in zip(moving, sizes, last.kept.tolist(), strict=True):
        if i not in filtered or q_p == 0:
            assert kept == num
        elif rules.threshold == "layer":
            expected = num_kept(num, q_p)
            if rules.filter == "random":
                assert kept in (expected, num)  # all of it, where none is kept or what is kept is zero
            else:
                assert kept <= expected or kept == num  # ties at the threshold go together
        else:
            assert 0 <= kept <= num


@pytest.mark.parametrize("method", SHARP)
def test_where_nothing_stands_out_it_is_the_ascent_without_a_filter(method, path):
    """Equal gradients have no z-scores, and single elements none but zero."""
    results = []
    for q_p in (0.95, 0.0):
        values = ([[2.0, 1.0]], [0.5], 0.25, [[1.0], [3.0], [2.0]])
        params = [nn.Parameter(torch.tensor(value)) for value in values]
        optimizer = make_optimizer(params, method, "sgd", lr=0.1, **with_percentile(method, q_p))
        for p in params:
            p.grad = torch.full_like(p, 0.5)
        optimizer.first_step()
        assert optimizer.last.kept.sum() > 0
        results.append(weights(nn.ParameterList(params)))
    assert all(w.isfinite().all() for w in results[0])
    if "random" not in method and METHODS[method].rules.norm == "global":
        assert same(*results)


@pytest.mark.parametrize("values", [["nan"], ["inf"], ["-inf"], ["inf", "-inf"], ["3e38", "3e38"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("method", SHARP)
def test_a_gradient_that_is_not_finite_moves_everything_to_nan_and_back(method, dtype, values, path):
    """Or whose norm is not. Even if a filter would drop the component: else a scaler would let a step pass."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((20, 5), (30,), (3, 4, 5))]
    optimizer = make_optimizer(params, method, "sgd", lr=0.1)
    before = weights(nn.ParameterList(params))
    for step in range(2):
        for p in params:
            p.grad = torch.randn(p.shape).to(dtype)
        if step == 1:
            params[0].grad[3, : len(values)] = torch.tensor([float(value) for value in values])
        optimizer.first_step()
        assert all(bool(p.isnan().all()) == (step == 1) for p in params)
        assert bool(optimizer.last.norm.isfinite()) == (step == 0)
        optimizer.restore()
        assert same(params, before)
    running = optimizer.state_dict()["ascent"]["running"].values()
    assert all(g.isfinite().all() for g in running)


@pytest.mark.parametrize("method", SHARP)
def test_small_gradients_of_float16_parameters(method, path):
    """The factor rho / norm is beyond float16's range; the perturbation is not."""
    param = nn.Parameter(torch.linspace(-1, 1, 40).half())
    param.grad = (torch.linspace(1, 2, 40) * 1e-7).half()
    optimizer = make_optimizer([param], method, "sgd", lr=0.1)
    before = param.detach().clone()
    optimizer.first_step()
    assert param.isfinite().all()
    assert not torch.equal(param, before)
    optimizer.restore()
    assert torch.equal(param, before)


def test_tensors_of_several_types_at_once(path):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(6, 5, dtype=dtype)) for dtype in DTYPES]
    optimizer = ZSharp(params, torch.optim.SGD, lr=0.1, q_p=0.5, rho=0.5)
    before = weights(nn.ParameterList(params))
    for p in params:
        p.grad = torch.randn(6, 5).to(p.dtype)
    optimizer.first_step()
    length = torch.cat(
        [(p.double() - w.double()).flatten() for p, w in zip(params, before, strict=True)]
    ).norm()
    assert float(length.detach()) == pytest.approx(0.5, rel=0.01)
    assert optimizer.last.kept.tolist() == [15] * 4
    optimizer.restore()
    assert same(params, before)


def test_parameters_of_no_elements_and_groups_of_no_parameters(path):
    empty, param = nn.Parameter(torch.ones(0, 3)), nn.Parameter(torch.ones(2, 3))
    optimizer = ZSharp(
        [{"params": []}, {"params": [empty]}, {"params": [param]}], torch.optim.SGD, lr=0.1, q_p=0.5
    )
    for p in (empty, param):
        p.grad = torch.arange(float(p.numel())).view(p.shape)
    optimizer.first_step()
    assert optimizer.last.kept.tolist() == [0, 2]  # 0 and 5 are the furthest from the mean, 2.5
    assert float(optimizer.last.norm) == pytest.approx(0.05)
    optimizer.second_step()


def test_without_any_gradient_nothing_happens(path):
    model = classifier()
    before = weights(model)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    optimizer.first_step()
    assert not optimizer.is_perturbed
    assert optimizer.last is None
    optimizer.second_step()
    assert same(model.parameters(), before)


def test_parameters_that_are_all_left_out_stay(path):
    param = nn.Parameter(torch.ones(3))
    optimizer = ZSharp([param], torch.optim.SGD, lr=0.1, one_dim="skip")
    param.grad = torch.tensor([3.0, 0.0, 4.0])
    optimizer.first_step()
    assert torch.equal(param, torch.ones(3))
    assert (float(optimizer.last.norm), float(optimizer.last.grad_norm)) == (0.0, 5.0)
    assert float(optimizer.last.kept_fraction) == 0.0
    optimizer.second_step()
    assert torch.equal(param, 1 - 0.1 * param.grad)


@pytest.mark.parametrize("method", SHARP)
def test_gradients_that_come_later_or_stop_coming(method, path):
    model, data = classifier(), batches(6)
    optimizer = make_optimizer(model.parameters(), method, "adamw", lr=0.01)
    for i, batch in enumerate(data):
        model.first.requires_grad_(2 <= i < 4)
        before = weights(model.first)
        optimizer.step(closure_for(model, optimizer, batch))
        assert same(model.first.parameters(), before) == (not 2 <= i < 4)
        assert len(optimizer.last.kept) == (7 if 2 <= i < 4 else 5)


@pytest.mark.parametrize("make", [torch.Tensor.t, lambda w: w.view(6, 2, 2).permute(2, 0, 1)])
@pytest.mark.parametrize("method", SHARP)
def test_permuted_parameters(method, make, path):
    results = []
    for is_permuted in (True, False):
        torch.manual_seed(0)
        value = make(torch.randn(6, 4, dtype=torch.double))
        param = nn.Parameter(value if is_permuted else value.contiguous())
        assert param.is_contiguous() != is_permuted
        optimizer = make_optimizer([param], method, "sgd", lr=0.1, **with_percentile(method, 0.5))
        for seed in range(3):  # gradients of the other strides too
            grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
            param.grad = grad if seed else torch.empty_like(param).copy_(grad)
            optimizer.first_step()
            optimizer.second_step()
        optimizer.first_step()
        results.append(param.detach())
        if "random" in method:  # drawn in the order of memory
            assert int(optimizer.last.kept) == 24 - 1 - 11
            return
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 3, 3, 3), (64, 16, 9, 9)])  # of those that move together, and alone
@pytest.mark.parametrize("method", SHARP)
def test_a_model_may_change_its_layout_and_type_between_steps(method, size, path):
    """The copy of the weights is made anew; the old one would bring them back in another order, or rounded."""
    torch.manual_seed(0)
    conv = nn.Conv2d(size[1], size[0], size[2])
    optimizer = make_optimizer(conv.parameters(), method, "sgd", lr=0.1, **with_percentile(method, 0.5))
    for change in (
        lambda: None,
        lambda: conv.to(memory_format=torch.channels_last),
        lambda: conv.double(),
        lambda: conv.to(memory_format=torch.contiguous_format),
    ):
        change()
        for _ in range(2):  # in float64, the second time from weights that float32 does not hold
            for p in conv.parameters():
                p.grad = torch.randn_like(p)
            fresh = [nn.Parameter(p.detach().clone()) for p in conv.parameters()]
            for p, q in zip(fresh, conv.parameters(), strict=True):
                p.grad = q.grad
            before = weights(conv)
            optimizer.first_step()
            if "friendly" not in method and "random" not in method:
                make_optimizer(fresh, method, "sgd", lr=0.1, **with_percentile(method, 0.5)).first_step()
                for p, q in zip(conv.parameters(), fresh, strict=True):
                    torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
            assert not same(conv.parameters(), before)
            optimizer.restore()
            assert same(conv.parameters(), before)
            optimizer.second_step()


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda value: [value[:, :3]], r"shape \(6, 3\) and strides \(6, 1\)"),
        (lambda value: [value, value], r"shape \(6, 6\) shares its memory"),
        (lambda value: [value.view(36), value], "shares its memory"),
    ],
)
def test_memory_that_cannot_be_restored_is_refused(of, message):
    params = [nn.Parameter(part) for part in of(torch.randn(6, 6))]
    with pytest.raises(ValueError, match=message):
        SAM(params, torch.optim.SGD, lr=0.1)
    optimizer = SAM([nn.Parameter(torch.ones(2))], torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": params})
    other = nn.Parameter(optimizer.param_groups[0]["params"][0].detach())
    with pytest.raises(ValueError, match="shares its memory"):
        optimizer.add_param_group({"params": other})
    assert len(optimizer.param_groups) == 1


def test_parameters_that_divide_one_memory_are_taken():
    """Slices of whole rows, as libraries that flatten parameters make them; and sizes of one, of any stride."""
    flat = torch.randn(12)
    params = [nn.Parameter(flat[:4]), nn.Parameter(flat[4:].view(2, 4)), nn.Parameter(torch.randn(4, 1).t())]
    optimizer = ZSharp(params, torch.optim.SGD, lr=0.1, q_p=0.5)
    before = weights(nn.ParameterList(params))
    for p in params:
        p.grad = torch.randn(p.shape)
    optimizer.first_step()
    optimizer.restore()
    assert same(params, before)


def test_complex_parameters_are_refused():
    with pytest.raises(TypeError, match=r"shape \(2,\) is complex"):
        SAM([nn.Parameter(torch.ones(2, dtype=torch.complex64))], torch.optim.SGD, lr=0.1)


def test_sparse_gradients_are_refused_before_anything_moves():
    embedding = nn.Embedding(5, 3, sparse=True)
    before = weights(embedding)
    optimizer = SAM(embedding.parameters(), torch.optim.SGD, lr=0.1)
    embedding(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse gradients"):
        optimizer.first_step()
    assert not optimizer.is_perturbed
    assert same(embedding.parameters(), before)


def test_an_ascent_that_fails_leaves_nothing_to_restore(path):
    """What a half-made copy holds is not the weights."""
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    optimizer = ZSharp(params, torch.optim.SGD, lr=0.1, q_p=0.5)
    optimizer.param_groups[0]["rho"] = "far"
    for p in params:
        p.grad = torch.arange(float(p.numel())).view(p.shape)
    with pytest.raises((TypeError, ValueError)):
        optimizer.first_step()
    assert not optimizer.is_perturbed
    optimizer.restore()
    assert all(torch.equal(p, torch.ones_like(p)) for p in params)


def test_tied_parameters_are_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = nn.Linear(6, 4), nn.Linear(4, 6)
            self.decode.weight = nn.Parameter(self.encode.weight.t().contiguous())
            self.encode.weight = self.decode.weight

        def forward(self, x):
            return self.decode(nn.functional.linear(x, self.encode.weight.t(), self.encode.bias))[:, :4]

    torch.manual_seed(0)
    model, (batch,) = Tied(), batches(1)
    optimizer = ZSharp(model.parameters(), torch.optim.SGD, lr=0.1)
    assert len(optimizer.param_groups[0]["params"]) == 3
    optimizer.step(closure_for(model, optimizer, batch))
    assert model.encode.weight is model.decode.weight
    assert len(optimizer.last.kept) == 3
