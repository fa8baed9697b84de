"""Mean and standard deviation of pixels, per channel."""

import numpy as np

from zsharp.data.errors import data_error
from zsharp.data.sources.source import Split


def channel_statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (mean, std) of pixels / 255 for each channel, std over all pixels (not n - 1).

    Exact up to the last float64 rounding: pixels are counted by value first, and the counts are integers.

    Raises:
        DataError: A channel has one value only, so that dividing by its std is impossible.
    """
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(split.images.shape[1]):
        pixels = split.images[:, channel]
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(pixels), 4096):  # bincount widens its input to int64
            counts += np.bincount(pixels[start : start + 4096].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        std = float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
        if np.count_nonzero(counts) == 1:
            raise data_error(
                split.where, f"every pixel of channel {channel} is the same", "images that differ"
            )
        means.append(mean)
        stds.append(std)
    return tuple(means), tuple(stds)
