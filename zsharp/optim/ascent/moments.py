"""Mean and norm of many numbers on the CPU, in one pass over memory."""

import math

import numpy as np
import numpy.typing as npt

_BLOCK = 2**15  # numbers that stay in the processor's cache, in float64 too


def mean_and_norm(numbers: npt.NDArray[np.floating]) -> tuple[np.floating, float]:
    """Returns the mean of [n] numbers, summed in float64 and rounded once, and their 2-norm, which may overflow."""
    wide = np.empty(min(_BLOCK, len(numbers)))
    total = squares = 0.0
    with np.errstate(all="ignore"):  # a scaled loss may have overflowed
        for start in range(0, len(numbers), _BLOCK):
            block = numbers[start : start + _BLOCK]
            np.copyto(wide[: len(block)], block)
            total += float(wide[: len(block)].sum())
            squares += float(block.dot(block))
        mean: np.floating = numbers.dtype.type(total / len(numbers))
        return mean, float(numbers.dtype.type(math.sqrt(squares)))
