"""Statistics against enumeration by hand, formulas and published examples, and what must hold of any values."""

import math
from itertools import combinations, permutations, product
from statistics import NormalDist, fmean, stdev

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from tune_jobs.results.statistics import (
    VERDICTS,
    compare_methods,
    holm,
    rank_correlation,
    smallest_n,
    smallest_p,
    summarize,
)

NAN = math.nan
# Student (1908), "The Probable Error of a Mean": hours of sleep gained by ten patients with two drugs.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

coarse = st.integers(0, 256).map(
    lambda count: count / 256
)  # accuracies on 256 images: sums of these are exact


def by_seed(*lists):
    return {f"m{i}": dict(enumerate(values)) for i, values in enumerate(lists)}


def enumerated_p(differences):
    """Two-sided sign-flip test, every flip in turn."""
    observed = sum(differences)
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    above, below = (sum(sign * (s - observed) >= 0 for s in sums) / len(sums) for sign in (1, -1))
    return min(1.0, 2 * min(above, below))


def test_students_sleep():
    (row,) = compare_methods(by_seed(DRUG_2, DRUG_1))
    assert (row.a, row.b, row.n) == ("m0", "m1", 10)
    assert row.difference == pytest.approx(1.58)
    # d_z = t / sqrt(n) with t = 4.0621, as published, and Hedges' correction for 9 degrees of freedom.
    assert row.effect_size == pytest.approx(4.0621 / math.sqrt(10) * (1 - 3 / 35), rel=1e-4)
    # No difference is negative and one is 0: only all signs alike, with either sign of the 0, is as extreme.
    assert row.p_value == row.p_adjusted == 4 / 2**10
    assert row.verdict == "a better"
    # Student's own interval is 0.70 to 2.46; the bootstrap's leans to the long tail, up to 4.6.
    assert row.low == pytest.approx(0.70, abs=0.35)
    assert row.high == pytest.approx(2.46, abs=0.6)


@given(st.lists(st.tuples(coarse, coarse), min_size=2, max_size=9))
def test_the_p_value_is_that_of_the_enumeration(pairs):
    a, b = zip(*pairs, strict=True)
    (row,) = compare_methods(by_seed(a, b))
    assert row.p_value == pytest.approx(enumerated_p([x - y for x, y in pairs]), abs=1e-12)
    assert row.p_value >= smallest_p(len(pairs))


@pytest.mark.parametrize("n", [2, 5, 12, 16])
def test_the_smallest_p_value_is_reached(n):
    (row,) = compare_methods(by_seed([0.9 + 0.001 * i for i in range(n)], [0.5] * n))
    assert row.p_value == pytest.approx(smallest_p(n)) == pytest.approx(2 / 2**n)


def test_above_16_pairs_flips_are_drawn():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.90, 0.01, 20), rng.normal(0.895, 0.01, 20)
    (row,) = compare_methods(by_seed(a, b))
    assert row.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=0.15)
    (sure,) = compare_methods(by_seed(a + 1, b))
    assert sure.p_value == pytest.approx(smallest_p(20), rel=1e-3)


def test_smallest_numbers_of_seeds_by_hand():
    # 1, 3, 6 and 10 pairs of methods: 2 / 2^n must be at most 0.05 over that.
    assert [smallest_n(methods) for methods in (2, 3, 4, 5)] == [6, 7, 8, 9]
    assert smallest_n(1) == 6
    with pytest.raises(ValueError, match="compare fewer"):
        smallest_n(100)
    for methods in (2, 3, 4, 5):
        for n in (smallest_n(methods) - 1, smallest_n(methods)):
            apart = by_seed(*([k + 0.01 * (i + k) ** 2 for i in range(n)] for k in range(methods)))
            verdicts = {row.verdict for row in compare_methods(apart)}
            assert verdicts == {"b better" if n == smallest_n(methods) else "not enough seeds to tell"}


def test_a_pair_with_many_seeds_leaves_more_to_one_with_few():
    """Holm takes the pair of 12 seeds first; the others are then two, and 7 seeds of a pair are enough for them."""
    long, short = range(12), range(7)
    values = {
        "x": {s: 0.1 + 0.001 * s for s in long},
        "y": {s: 0.5 + 0.002 * s for s in long},
        "z": {s: 0.9 + 0.003 * s for s in short},
    }
    rows = compare_methods(values)
    assert [row.n for row in rows] == [12, 7, 7]
    assert [row.p_adjusted for row in rows] == pytest.approx([3 * 2 / 2**12, 2 * 2 / 2**7, 2 * 2 / 2**7])
    assert {row.verdict for row in rows} == {"b better"}
    six = {name: {s: v for s, v in column.items() if name != "z" or s < 6} for name, column in values.items()}
    assert [row.verdict for row in compare_methods(six)] == ["b better", *["not enough seeds to tell"] * 2]


def test_verdicts():
    def verdict(a, b):
        return compare_methods(by_seed(a, b))[0].verdict

    high, low = [0.9, 0.91, 0.92, 0.93, 0.94, 0.95], [0.80, 0.82, 0.81, 0.85, 0.8, 0.79]
    mixed = [0.95, 0.86, 0.97, 0.88, 0.99, 0.90]
    assert verdict(high, low) == "a better"
    assert verdict(low, high) == "b better"
    assert verdict(high, mixed) == "no difference shown"
    assert verdict(high, high) == "no difference shown"
    assert verdict(high[:5], low[:5]) == "not enough seeds to tell"
    assert len(set(VERDICTS)) == 4


def test_only_seeds_that_both_have_are_paired():
    a = {1: 0.5, 2: 0.7, 3: NAN, 4: 0.9, 5: 0.4, 9: 0.3}
    b = {9: 0.2, 5: None, 4: 0.8, 3: 0.1, 2: 0.4, 7: 0.6}
    (row,) = compare_methods({"a": a, "b": b})
    assert row.n == 3
    assert row.difference == pytest.approx((0.3 + 0.1 + 0.1) / 3)
    assert row == compare_methods({"a": {2: 0.7, 4: 0.9, 9: 0.3}, "b": {2: 0.4, 4: 0.8, 9: 0.2}})[0]


def test_too_few_pairs_have_no_numbers_and_do_not_count_for_the_others():
    values = by_seed([0.9] * 8, [0.8 + 0.001 * i for i in range(8)])
    rows = compare_methods(values | {"lone": {0: 0.5}, "none": {100: 0.1}})
    by_pair = {(row.a, row.b): row for row in rows}
    assert len(rows) == 6
    assert by_pair["m0", "m1"].p_adjusted == by_pair["m0", "m1"].p_value == 2 / 2**8
    lone = by_pair["m0", "lone"]
    assert (lone.n, lone.difference, lone.low, lone.high) == (1, pytest.approx(0.4), None, None)
    assert (lone.effect_size, lone.p_value, lone.p_adjusted) == (None, None, None)
    none = by_pair["m0", "none"]
    assert none.n == 0
    assert math.isnan(none.difference)
    assert {lone.verdict, none.verdict} == {"not enough seeds to tell"}
    (two,) = compare_methods(by_seed([0.5, 0.7], [0.4, 0.3]))
    assert (two.effect_size, two.low, two.p_value) == (None, None, 0.5)
    assert compare_methods({}) == compare_methods(by_seed([0.5])) == []


def test_holm_on_a_textbook_example():
    # Holm's procedure by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, None, 0.7]) == [1.0, None, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_the_raw_and_bonferronis_p_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= min(1, len(p_values) * p) for p, q in zip(p_values, adjusted, strict=True))
    for (p, p_adjusted), (q, q_adjusted) in combinations(zip(p_values, adjusted, strict=True), 2):
        assert p > q or p_adjusted <= q_adjusted
        assert p < q or p_adjusted >= q_adjusted
    for level in (
        0.01,
        0.05,
        0.3,
    ):  # the procedure as Holm states it: go on until the first that is not rejected
        rejected = set()
        for position, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[index] * (len(p_values) - position) > level:
                break
            rejected.add(index)
        assert rejected == {i for i, p in enumerate(adjusted) if p <= level}


@given(st.lists(st.tuples(coarse, coarse, coarse), min_size=1, max_size=7), st.integers(-4, 4), st.randoms())
def test_sides_shifts_and_orders(triples, shift, random):
    columns = [list(column) for column in zip(*triples, strict=True)]
    forward = compare_methods(by_seed(*columns))
    assert [(row.a, row.b) for row in forward] == [("m0", "m1"), ("m0", "m2"), ("m1", "m2")]
    for row in forward:
        back = compare_methods({name: by_seed(*columns)[name] for name in (row.b, row.a)})[0]
        assert back.p_value == row.p_value
        assert back.difference == -row.difference
        for one, other in (
            (row.effect_size, back.effect_size),
            (row.low, back.high),
            (row.high, back.low),
        ):
            assert (one is None) == (other is None)
            assert one is None or one == pytest.approx(-other, rel=0.05, abs=1e-9)
        assert row.p_value is None or row.p_adjusted >= row.p_value
        assert row.low is None or row.low <= row.difference <= row.high
    moved = [[value + shift for value in column] for column in columns]
    order = list(range(len(triples)))
    random.shuffle(order)
    shuffled = {f"m{i}": {seed: column[seed] for seed in order} for i, column in enumerate(moved)}
    assert compare_methods(shuffled) == forward


def test_summary_by_formula():
    values = [0.91, 0.93, 0.92, 0.95, 0.90]
    result = summarize(values)
    assert (result.n, result.mean) == (5, pytest.approx(fmean(values)))
    assert result.std == pytest.approx(stdev(values))
    # Below six values the interval is Student's: the table's t for 4 degrees of freedom.
    half = 2.7764 * stdev(values) / math.sqrt(5)
    assert (result.low, result.high) == pytest.approx((fmean(values) - half, fmean(values) + half), rel=1e-4)
    assert result.interval == "t"
    assert summarize([*values, None, NAN]) == result


def test_summaries_of_too_few_or_equal_values():
    none = summarize([])
    assert (none.n, none.std, none.low, none.high) == (0, None, None, None)
    assert math.isnan(none.mean)
    assert summarize([0.5]) == summarize([None, 0.5, NAN])
    assert (summarize([0.5]).mean, summarize([0.5]).std, summarize([0.5]).low) == (0.5, None, None)
    assert summarize([0.25, 0.75]).std == pytest.approx(0.5**0.5 / 2)
    assert summarize([0.25, 0.75]).low is None
    equal = summarize([0.9] * 4)
    assert (equal.low, equal.high) == (equal.mean, equal.mean) == (pytest.approx(0.9),) * 2
    assert equal.std == pytest.approx(0, abs=1e-15)


@example([*[0.0] * 5, 5e-324])
@example([*[0.0] * 5, 8.784198524573146e-143])
@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=12))
def test_an_interval_lies_around_the_mean(values):
    """And within the values, if it is the bootstrap's."""
    result = summarize(values)
    slack = 1e-9 * max(map(abs, values))
    assert result.low <= result.mean + slack
    assert result.mean - slack <= result.high
    assert result.interval == ("t" if len(values) < 6 else "bootstrap")
    if result.interval == "bootstrap":
        assert min(values) - slack <= result.low
        assert result.high <= max(values) + slack


def test_the_interval_is_efrons_with_hesterbergs_level():
    """BCa from its definition: bias and acceleration, then two quantiles of the resampled means."""
    values = np.array([0.2, 0.3, 0.35, 0.5, 0.55, 0.9, 1.4, 2.9])
    n = len(values)
    rng = np.random.default_rng(1)
    means = rng.choice(values, (400_000, n)).mean(axis=1)
    normal = NormalDist()
    bias = normal.inv_cdf(float((means < values.mean()).mean() + (means == values.mean()).mean() / 2))
    left_out = (values.sum() - values) / (n - 1)
    off = left_out.mean() - left_out
    acceleration = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    z = 2.3646 * math.sqrt(n / (n - 1))  # the table's t for 7 degrees of freedom
    ends = []
    for sign in (-1, 1):
        moved = bias + sign * z
        ends.append(float(np.quantile(means, normal.cdf(bias + moved / (1 - acceleration * moved)))))
    result = summarize(values.tolist())
    assert (result.low, result.high) == pytest.approx(ends, rel=0.03)


def test_coverage_of_the_interval():
    """Of 95 %: of 8 values the plain BCa interval covers 87 %, of 3 a bootstrap's 75 %."""
    rng = np.random.default_rng(1)
    for draw, least in (
        (lambda: rng.normal(0, 1, 8), 0.92),
        (lambda: rng.exponential(1, 8) - 1, 0.9),
        (lambda: rng.normal(0, 1, 3), 0.92),
    ):
        inside = 0
        for _ in range(200):
            result = summarize(draw().tolist())
            inside += result.low <= 0 <= result.high
        assert least <= inside / 200 <= 0.98


def test_false_verdicts_are_as_rare_as_promised():
    """Three methods that are alike, 8 seeds: at most 5 % of all families have any false verdict."""
    rng = np.random.default_rng(0)
    false = sum(
        any("better" in row.verdict for row in compare_methods(by_seed(*rng.normal(0, 1, (3, 8)))))
        for _ in range(120)
    )
    assert 0 < false / 120 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 120)


def test_rank_correlation_by_counting_pairs():
    a, b = [1, 2, 3, 4, 5], [1, 3, 2, 4, 5]
    result = rank_correlation(a, b)
    assert (result.tau, result.n) == (pytest.approx((9 - 1) / 10), 5)
    at_least = sum(abs(concordance(a, order)) >= 8 for order in permutations(range(5))) / math.factorial(5)
    assert result.p_value == pytest.approx(at_least)
    assert rank_correlation(b, a) == result
    assert rank_correlation([-x for x in a], b).tau == -result.tau
    assert rank_correlation([math.exp(x) for x in a], b) == result
    # tau-b: concordant less discordant over the root of the pairs without ties in a times those in b
    tied = rank_correlation([1, 1, 2, 3], [1, 2, 2, 3])
    assert tied.tau == pytest.approx(4 / math.sqrt(5 * 5))


def concordance(a, b):
    pairs = combinations(range(len(a)), 2)
    return sum(int(np.sign((a[i] - a[j]) * (b[i] - b[j]))) for i, j in pairs)


def test_rank_correlation_leaves_out_what_is_missing_and_says_when_it_is_undefined():
    assert rank_correlation([1, 2, None, 4, 3], [10, 20, 30, NAN, 40]) == rank_correlation(
        [1, 2, 3], [10, 20, 40]
    )
    for a, b in (([], []), ([1], [2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0.5, 0.5, NAN])):
        result = rank_correlation(a, b)
        assert (result.tau, result.p_value) == (None, None)
    assert result.n == 2
    with pytest.raises(ValueError, match=r"shorter|longer"):
        rank_correlation([1, 2], [1])
