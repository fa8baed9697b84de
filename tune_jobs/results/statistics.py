"""With what confidence: spread over seeds, methods compared in pairs, and rank correlation.

Each method has a few runs (3 to 20 seeds). Run s of one method shares its seed, hence its initial weights and the order
of its images, with run s of every other. So all tests are paired, and none assumes a normal distribution.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

VERDICTS = ("a better", "b better", "no difference shown", "not enough seeds to tell")
"""The verdicts of a comparison."""

_LEVEL = 0.95  # of confidence intervals; a difference is significant at 1 - _LEVEL
_MIN_RESAMPLED = 6  # values from which a bootstrap interval covers what it says
_SEED = 0  # of resampling
_SMALLEST = 1e-90  # whose cube is still a number
_NUM_RESAMPLES = 9_999
_MAX_FLIPS = 2**16  # sign flips: all of them up to 16 pairs, a random sample of as many above
_Values = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Values of several seeds."""

    n: int
    mean: float  # their mean; NaN if there are none
    std: float | None  # their sample standard deviation (n - 1); None below two
    low: float | None  # lower end of the confidence interval of the mean; None below three values
    high: float | None  # its upper end
    interval: str | None  # how it was computed: "t" below six values, else "bootstrap"


@dataclass(frozen=True)
class Comparison:
    """Two methods over the seeds that both have."""

    a: str
    b: str
    n: int  # seeds that both have
    difference: float  # mean of a - b over them; NaN if there are none
    # Lower end of the confidence interval of the difference, as in `summarize`. It is for this pair alone; only
    # `p_adjusted` takes account of the others.
    low: float | None
    high: float | None  # its upper end
    interval: str | None  # how it was computed: "t" or "bootstrap"
    # Mean over standard deviation of the differences, with Hedges' correction; None below three seeds or if
    # all differences are equal.
    effect_size: float | None
    p_value: float | None  # of the two-sided sign-flip test; None below two seeds
    p_adjusted: float | None  # the same after Holm's correction over all pairs
    verdict: str  # one of `VERDICTS`


class RankCorrelation(NamedTuple):
    """Kendall's tau-b with its two-sided p-value, both None where undefined, and the number of pairs."""

    tau: float | None
    p_value: float | None
    n: int


def summarize(values: Sequence[float | None]) -> Summary:
    """Returns mean, spread and the 95 % confidence interval of the mean; None and NaN among the values are left out.

    From six values on the interval is the BCa bootstrap's, which allows for skewness, with its level raised as
    Hesterberg (2015) does for few values, where the plain one is too narrow by sqrt((n - 1) / n) and by the normal in
    place of Student's distribution; of six normal values or more a 95 % interval covers 94 to 95 % (simulated; of
    exponential values a few percent less). A bootstrap cannot leave the range of the values, and so covers only 75 % of
    three normal values, 87 % of four and 93 % of five: there, the interval is Student's, which takes the values to be
    normal.

    References:
        Efron, "Better Bootstrap Confidence Intervals", JASA 82 (1987). Hesterberg, "What Teachers Should Know About
        the Bootstrap", The American Statistician 69 (2015), the expanded interval.
    """
    present = np.array([value for value in values if _is_present(value)], dtype=np.float64)
    n = len(present)
    mean = float(np.mean(present)) if n else math.nan
    std = float(np.std(present, ddof=1)) if n > 1 else None
    if std is None or n < 3:
        return Summary(n, mean, std, None, None, None)
    if n < _MIN_RESAMPLED:
        half = float(stats.t.ppf((1 + _LEVEL) / 2, n - 1)) * std / math.sqrt(n)
        return Summary(n, mean, std, mean - half, mean + half, "t")
    return Summary(n, mean, std, *_interval(present), "bootstrap")


def compare_methods(
    by_method: Mapping[str, Mapping[int, float | None]], *, higher_is_better: bool = True
) -> list[Comparison]:
    """Returns a comparison of every two methods, in the order of the mapping.

    A seed that is missing, None or NaN on one side is left out of that pair. The test is the paired permutation test
    (sign flips) of the mean difference: it is exact for any distribution, as long as a and b are exchangeable when
    there is no difference; all flips are taken up to 16 seeds. With n seeds its p-value is at least 2 / 2^n
    (`smallest_p`); where even that would not be significant after the correction, the verdict says so. Holm's
    correction over the pairs bounds the probability of any false verdict by 5 %; a paired t-test would need
    normal differences, which so few runs cannot show.

    References:
        Effect size: d_z = mean / std of the differences (Lakens, Frontiers in Psychology 4:863, 2013) with Hedges'
        correction 1 - 3 / (4 df - 1), df = n - 1 (Journal of Educational Statistics 6, 1981). Holm, "A Simple
        Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979).
    """
    pairs = list(combinations(by_method, 2))
    differences = [_differences(by_method[a], by_method[b]) for a, b in pairs]
    p_values = [_sign_flip_p(values) for values in differences]
    adjusted = holm(p_values)
    # The same correction of the smallest p-values that these numbers of seeds could give: where even that is not
    # significant, "no difference shown" would blame the methods for the lack of seeds.
    attainable = holm([smallest_p(len(values)) if len(values) > 1 else None for values in differences])
    comparisons = []
    for (a, b), values, p, p_adjusted, best in zip(
        pairs, differences, p_values, adjusted, attainable, strict=True
    ):
        summary = summarize(values.tolist())
        lead = summary.mean if higher_is_better else -summary.mean
        verdict = _verdict(lead, p_adjusted, best)
        comparisons.append(
            Comparison(
                a=a,
                b=b,
                n=summary.n,
                difference=summary.mean,
                low=summary.low,
                high=summary.high,
                interval=summary.interval,
                effect_size=_effect_size(values),
                p_value=p,
                p_adjusted=p_adjusted,
                verdict=verdict,
            )
        )
    return comparisons


def smallest_p(n: int) -> float:
    """Returns the smallest p-value that n pairs can have: all differences in one direction.

    It is that of `compare_methods`: 2 of the 2^n sign flips, or of as many as are drawn for more than 16 pairs.
    """
    return float(min(1.0, 2 / min(2**n, _MAX_FLIPS)))


def smallest_n(num_methods: int) -> int:
    """Returns the fewest seeds with which a difference can be significant if `num_methods` are compared in pairs.

    Raises:
        ValueError: If so many methods cannot be told apart by sign flips.
    """
    num_pairs = max(1, math.comb(num_methods, 2))
    for n in range(2, _MAX_FLIPS.bit_length()):
        if is_significant(num_pairs * smallest_p(n)):
            return n
    raise ValueError(f"{num_methods} methods: no number of seeds would do; compare fewer")


def is_significant(p: float) -> bool:
    """Returns whether a p-value is at most 0.05."""
    return p <= (1 - _LEVEL) * (1 + 1e-9)  # 1 - 0.95 is not 0.05


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values after Holm's step-down correction; None (not tested) stays None and does not count."""
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for position, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - position) * p))
        adjusted[index] = largest
    return adjusted


def rank_correlation(a: Sequence[float | None], b: Sequence[float | None]) -> RankCorrelation:
    """Returns how similarly two sequences of values rank the same things.

    Kendall's tau-b: the share of pairs ranked alike less the share ranked otherwise, with ties, which accuracies on
    few images have, counted for neither. A pair with None or NaN on one side is left out. The p-value is exact for
    few pairs without ties, and asymptotic otherwise.

    Raises:
        ValueError: If their lengths differ.
    """
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if _is_present(x) and _is_present(y)]
    if len({x for x, _ in pairs}) < 2 or len({y for _, y in pairs}) < 2:
        return RankCorrelation(None, None, len(pairs))
    kendall = stats.kendalltau(*np.array(pairs, dtype=np.float64).T)
    return RankCorrelation(float(kendall.statistic), float(kendall.pvalue), len(pairs))


def _differences(a: Mapping[int, float | None], b: Mapping[int, float | None]) -> _Values:
    seeds = sorted(seed for seed in a.keys() & b.keys() if _is_present(a[seed]) and _is_present(b[seed]))
    ours, theirs = (np.array([side[seed] for seed in seeds], dtype=np.float64) for side in (a, b))
    return ours - theirs


def _interval(values: _Values) -> tuple[float, float]:
    mean = float(np.mean(values))
    if np.ptp(values) <= max(1e-12 * np.max(np.abs(values)), _SMALLEST):  # BCa divides by their spread
        return mean, mean
    n = len(values)
    quantile = stats.t.ppf((1 + _LEVEL) / 2, n - 1) * math.sqrt(n / (n - 1))
    ends = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=_NUM_RESAMPLES,
        confidence_level=float(1 - 2 * stats.norm.sf(quantile)),
        method="BCa",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(ends.low), float(ends.high)


def _sign_flip_p(differences: _Values) -> float | None:
    if len(differences) < 2:
        return None
    test = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_MAX_FLIPS,
        rng=np.random.default_rng(_SEED),
    )
    return float(test.pvalue)


def _effect_size(differences: _Values) -> float | None:
    n = len(differences)
    if n < 3 or np.ptp(differences) <= 1e-12 * np.max(np.abs(differences)):
        return None
    correction = 1 - 3 / (4 * (n - 1) - 1)
    return float(correction * np.mean(differences) / np.std(differences, ddof=1))


def _verdict(lead: float, p_adjusted: float | None, attainable: float | None) -> str:
    a_better, b_better, no_difference, too_few = VERDICTS
    if p_adjusted is None or attainable is None or not is_significant(attainable):
        return too_few
    if not is_significant(p_adjusted):
        return no_difference
    return a_better if lead > 0 else b_better


def _is_present(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
