"""The r-th smallest of many numbers on the CPU, exactly, at a speed that does not depend on the CPU's make.

`numpy.partition` has vector code for some processors only: elsewhere it takes several times as long. Large rows are
bracketed instead (Floyd and Rivest): two numbers of a small sample enclose the wanted one with near certainty, one
pass counts what lies below and collects what lies between, and only that, about 2 %, is partitioned.

References:
    Floyd and Rivest, "Expected Time Bounds for Selection", Communications of the ACM 18(3), 1975.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

# Below, a bracket's numpy calls cost more than they save. Measured with and without vector code (docs/log.md).
BRACKETED_FROM = 2**13
BLOCK = 2**16  # elements whose comparisons stay in the processor's cache
# In standard deviations of a random sample's rank: a miss costs a partition, a wider bracket more elements each time.
HALF_WIDTH = 3.0


def order_statistic(rows: Array, rank: int) -> Array:
    """Returns the `rank`-th smallest (from 0) of each row of [m, n], shape [m], with NaNs last as in a sort."""
    if rows.shape[1] < BRACKETED_FROM:
        return np.partition(rows, rank, axis=1)[:, rank].copy()
    values = np.empty(len(rows), rows.dtype)
    for i, row in enumerate(rows):
        values[i], _ = _select(row, rank, _bracket(_sample(row), rank / len(row)), _blocks(row))
    return values


def scored_order_statistic(
    numbers: Array, rank: int, score: Callable[[Array, Array], object], scores: Array
) -> tuple[float, int]:
    """Scores numbers and selects among the scores in the same pass over memory.

    Args:
        numbers: Of shape [n], at least `BRACKETED_FROM`.
        score: Writes the score of each number of its first argument into its second.
        scores: What it writes, shape [n]; none may be NaN.

    Returns:
        The `rank`-th smallest score, from 0, and how many scores are greater.
    """
    sample = _sample(numbers)
    score(sample, sample)

    def blocks() -> Iterator[Array]:
        for block, its_scores in zip(_blocks(numbers), _blocks(scores), strict=True):
            score(block, its_scores)
            yield its_scores

    value, num_up_to = _select(scores, rank, _bracket(sample, rank / len(numbers)), blocks())
    return value, len(scores) - num_up_to


def _select(
    row: Array, rank: int, bracket: tuple[float, float], blocks: Iterable[Array]
) -> tuple[float, int]:
    """Returns the `rank`-th smallest of [n], and how many are not greater.

    Args:
        blocks: The parts of `row` in order; it may be filled while they are taken.
    """
    low, high = bracket
    num_up_to_low = 0
    collected = []
    for block in blocks:
        up_to_low = block <= low
        num_up_to_low += int(np.count_nonzero(up_to_low))
        # Strictly between: neither many ties at a bound nor NaNs, for which both comparisons are false, are collected.
        between = block < high
        np.greater(between, up_to_low, out=between)
        collected.append(block.compress(between))  # half the time of block[between]
    inside = np.concatenate(collected)
    if 0 <= rank - num_up_to_low < len(inside):
        inside.partition(rank - num_up_to_low)
        value = float(inside[rank - num_up_to_low])
        return value, num_up_to_low + int(np.count_nonzero(inside <= value))
    for bound in (low, high):  # many equal numbers: constant rows, gradients that are mostly zero
        if np.count_nonzero(row < bound) <= rank < (num_up_to := int(np.count_nonzero(row <= bound))):
            return bound, num_up_to
    value = float(np.partition(row, rank)[rank])  # the bracket missed it
    return value, int(np.count_nonzero(row <= value))


def _blocks(row: Array) -> Iterator[Array]:
    return (row[start : start + BLOCK] for start in range(0, len(row), BLOCK))


def _sample(row: Array) -> Array:
    """Returns some of [n] numbers, n at least `BRACKETED_FROM`."""
    # A larger sample costs more to partition, a smaller one encloses more elements: n^(2/3) balances the two. The
    # stride is prime to 2 and 3, so that no channel or position of a kernel is taken more often than another.
    stride = len(row) // int(2 * len(row) ** (2 / 3)) // 6 * 6 + 1
    return row[::stride].copy()


def _bracket(sample: Array, fraction: float) -> tuple[float, float]:
    """Returns two numbers of a sample, or infinite, that should enclose those of this rank; changes its order.

    Args:
        fraction: The rank over the number of all.
    """
    center = fraction * len(sample)
    margin = HALF_WIDTH * math.sqrt(center * (1 - fraction)) + 1
    first, last = math.floor(center - margin), math.ceil(center + margin)
    inner = [i for i in (first, last) if 0 <= i < len(sample)]
    if inner:
        sample.partition(inner)
    low = float(sample[first]) if first >= 0 else -math.inf
    high = float(sample[last]) if last < len(sample) else math.inf
    return low, high
