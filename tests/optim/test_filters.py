"""The masks against numpy's interpolated quantile, for generated shapes, values and percentiles."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsharp.optim import make_optimizer
from zsharp.optim.ascent.filters import masks, order_statistics
from zsharp.optim.ascent.order_statistic import order_statistic


@given(
    n=st.integers(1, 400),
    q=st.integers(1, 999).map(lambda x: x / 1000),
    seed=st.integers(0, 2**31),
    distinct=st.booleans(),
)
def test_the_mask_is_strictly_above_the_interpolated_quantile(n, q, seed, distinct):
    rng = np.random.default_rng(seed)
    # Dyadic values of few bits, so that mean and deviation are exact and ties are real ties.
    g = rng.integers(-(2**12), 2**12, n) if distinct else rng.integers(-3, 4, n)
    g = (g * n).astype(np.float64)
    d = np.abs(g - g.sum() / n)
    (mask,) = masks([torch.from_numpy(g)], q, "zscore")
    low = np.sort(d)[int(q * (n - 1) + 1e-6)]
    np.testing.assert_array_equal(mask.numpy(), d > low)
    threshold = np.quantile(d, q)
    away = ~np.isclose(d, threshold, rtol=1e-9)
    np.testing.assert_array_equal(mask.numpy()[away], (d > threshold)[away])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["zscore", "magnitude", "random"])
def test_the_number_kept_is_exact_in_every_dtype(dtype, kind):
    n = 1001
    g = (torch.arange(n) - 300).to(dtype)[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    if dtype in (torch.float16, torch.bfloat16):
        g = torch.linspace(-1, 1, n).to(dtype)
    (mask,) = masks([g.reshape(7, 11, 13)], 0.95, kind)
    assert mask.shape == (7, 11, 13)
    d = (g.float() - g.float().mean()).abs() if kind == "zscore" else g.float().abs()
    distinct = n - 1 - 950
    if kind == "random":
        assert int(mask.sum()) == distinct
    else:
        assert int(mask.sum()) == int((d > d.sort().values[950]).sum()) <= distinct


def test_no_size_limit_beyond_two_to_the_24():
    g = torch.arange(2**24 + 5, dtype=torch.float32).remainder_(1009)
    (mask,) = masks([g], 0.5, "magnitude")
    assert torch.equal(mask, g > 504) or torch.equal(mask, g > 503)


@pytest.mark.parametrize("kind", ["zscore", "magnitude"])
def test_a_pooled_threshold_ranks_all_tensors_together(kind):
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(50, generator=generator).double() * s for s in (1.0, 10.0)]
    kept = torch.cat(masks(grads, 0.9, kind, "global"))
    pooled = torch.cat(
        [
            ((g - g.mean()) / (g.std(correction=0) + 1e-8)).abs() if kind == "zscore" else g.abs()
            for g in grads
        ]
    )
    assert torch.equal(kept, pooled > np.quantile(pooled.numpy(), 0.9))


def test_a_percentile_of_zero_keeps_all_and_a_single_element_is_dropped():
    assert masks([torch.zeros(5)], 0.0, "zscore")[0].all()
    assert not masks([torch.ones(1)], 0.5, "zscore")[0].any()
    assert not masks([torch.ones(9)], 0.5, "zscore")[0].any()
    assert masks([torch.ones(0)], 0.5, "zscore")[0].shape == (0,)
    assert masks([], 0.5, "zscore") == []


@pytest.mark.parametrize("q", [0.0, 0.29, 0.5, 0.95, 0.999])
def test_order_statistics_are_those_of_a_sort(q):
    rows = torch.rand(3, 101, generator=torch.Generator().manual_seed(3))
    expected = torch.full((3,), -1.0) if q == 0 else rows.sort(1).values[:, round(q * 10000) // 100]
    for percentile in (q, torch.tensor(q, dtype=torch.float64)):
        assert torch.equal(order_statistics(rows, percentile), expected)


@given(
    sizes=st.tuples(st.integers(1, 3), st.one_of(st.integers(1, 100), st.integers(8000, 40_000))),
    fraction=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.95, 1.0])),
    values=st.sampled_from(
        ["normal", "ties", "constant", "sorted", "reversed", "wide", "hidden from a sample"]
    ),
    odd=st.sampled_from([None, np.nan, np.inf, -np.inf, -0.0]),
    share=st.sampled_from([0.001, 0.5, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**31),
)
def test_the_order_statistic_of_many_numbers_is_that_of_a_sort(
    sizes, fraction, values, odd, share, dtype, seed
):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal(sizes)
    if values == "ties":
        rows = rows.round()
    elif values == "constant":
        rows[:] = rows[:, :1]
    elif values in ("sorted", "reversed"):
        rows.sort(1)
        rows = rows[:, ::-1].copy() if values == "reversed" else rows
    elif values == "wide":
        rows = np.exp(15 * rows)
    elif values == "hidden from a sample":
        rows[:, :: max(1, sizes[1] // int(2 * sizes[1] ** (2 / 3)) // 6 * 6 + 1)] += 100
    rows = rows.astype(dtype)
    if odd is not None:
        rows[rng.random(sizes) < share] = odd
    rank = int(fraction * (sizes[1] - 1))
    before = rows.copy()
    np.testing.assert_array_equal(order_statistic(rows, rank), np.sort(rows, 1)[:, rank], strict=True)
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("num_zeros", [100, 10_000, 19_999])
def test_the_order_statistic_changes_exactly_where_the_ties_end(num_zeros):
    row = np.ones((1, 20_000), np.float32)
    row[0, np.random.default_rng(0).permutation(20_000)[:num_zeros]] = 0
    assert [order_statistic(row, num_zeros + i).item() for i in (-1, 0)] == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["zsharp", "zsharp_official", "magnitude_sam"])
@pytest.mark.parametrize("values", ["normal", "few", "mostly zero", "constant", "sorted", "huge"])
def test_a_large_tensor_is_filtered_as_a_small_one_would_be(values, method, dtype):
    grad = torch.randn(420, 317, dtype=dtype, generator=torch.Generator().manual_seed(5))
    if values == "few":
        grad = grad.round()
    elif values == "mostly zero":
        grad[grad.abs() < 2.3] = 0  # the percentile is among the zeros
    elif values == "constant":
        grad.fill_(1)
    elif values == "sorted":
        grad = grad.flatten().sort().values.view(420, 317)
    elif values == "huge":
        grad *= 1e15
    grad = grad.T if values == "normal" else grad  # other strides than the parameter's
    param = torch.nn.Parameter(torch.zeros(grad.shape, dtype=dtype))
    optimizer = make_optimizer([param], method, torch.optim.SGD, lr=0.1, rho=0.5)
    param.grad = grad
    optimizer.first_step()
    (mask,) = masks([grad], 0.95, "magnitude" if method == "magnitude_sam" else "zscore")
    assert optimizer.last.kept.tolist() == [int(mask.sum()) or grad.numel()]
    step = grad.double() * (mask if mask.any() else 1)
    assert torch.equal(param != 0, step != 0)
    torch.testing.assert_close(param.double(), 0.5 * step / step.norm(), rtol=1e-5, atol=0)
    assert float(optimizer.last.norm) == pytest.approx(0.5, rel=1e-5)
    assert float(optimizer.last.grad_norm) == pytest.approx(float(grad.double().norm()), rel=1e-5)
    optimizer.restore()
    assert not param.any()
