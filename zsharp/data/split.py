"""Stratified splits and subsets that depend on nothing but the labels and the seed."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.int64]


def split_indices(labels: ArrayLike, val_fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Splits the indices [0, N) into a training and a validation part, with the classes in proportion.

    The validation part has exactly round(val_fraction * N) members, shared among the classes by largest
    remainder (the smaller label wins ties). If the total allows it, each class of at least two images is in
    both parts.

    Returns:
        (train_indices, val_indices): both sorted; together they hold every index once.

    Raises:
        ValueError: `val_fraction` is not in (0, 1), or leaves one part empty.
    """
    labels = _check_labels(labels)
    if not 0.0 < val_fraction < 1.0:
        raise ValueError(f"val_fraction: got {val_fraction!r}, expected a number in (0, 1)")
    num_val = round(val_fraction * len(labels))
    if not 0 < num_val < len(labels):
        parts = f"{len(labels) - num_val} training and {num_val} validation images"
        raise ValueError(
            f"val_fraction: {val_fraction!r} of {len(labels)} images gives {parts}, expected both > 0"
        )
    sizes = np.unique(labels, return_counts=True)[1]
    both = (sizes >= 2).astype(np.int64)
    counts = _apportion(sizes, num_val, lower=both, upper=sizes - both)
    val = _draw(labels, counts, seed)
    train = np.setdiff1d(np.arange(len(labels)), val, assume_unique=True)
    return train, val


def subset_indices(labels: ArrayLike, num: int, seed: int) -> Indices:
    """Returns `num` sorted indices with the classes in proportion, and every class present if `num` allows it.

    Raises:
        ValueError: `num` is not in [1, N].
    """
    labels = _check_labels(labels)
    if not 1 <= num <= len(labels):
        raise ValueError(
            f"num: got {num!r}, expected an integer from 1 to {len(labels)}, the number of images"
        )
    sizes = np.unique(labels, return_counts=True)[1]
    counts = _apportion(sizes, num, lower=np.ones_like(sizes), upper=sizes)
    return _draw(labels, counts, seed)


def _check_labels(labels: ArrayLike) -> NDArray[np.integer]:
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"labels: got {array.dtype} of shape {array.shape}, expected a list of integers")
    return array


def _apportion(sizes: Indices, total: int, lower: Indices, upper: Indices) -> Indices:
    """Shares `total` among classes in proportion to `sizes`, within the bounds if those add up to enough."""
    assert 0 <= total <= sizes.sum()
    scaled = sizes * total  # quotas times N, kept as integers so that remainders are exact
    counts: Indices = scaled // sizes.sum()
    largest_first = np.argsort(-(scaled % sizes.sum()), kind="stable")
    counts[largest_first[: total - counts.sum()]] += 1
    if not lower.sum() <= total <= upper.sum():
        return counts
    # Clipping breaks the total. Move one at a time, from or to the class that is furthest from its quota.
    counts = np.clip(counts, lower, upper)
    while (excess := counts.sum() - total) != 0:
        step = -int(np.sign(excess))
        owed = step * (scaled - counts * sizes.sum())  # how far each class is from its quota
        movable = counts > lower if step < 0 else counts < upper
        counts[np.argmax(np.where(movable, owed, np.iinfo(np.int64).min))] += step
    return counts


def _draw(labels: NDArray[np.integer], counts: Indices, seed: int) -> Indices:
    """Draws `counts[k]` members of the k-th class without replacement, going through the classes by label."""
    generator = np.random.Generator(np.random.PCG64(seed))
    classes, inverse = np.unique(labels, return_inverse=True)
    chosen = [generator.permutation(np.flatnonzero(inverse == k))[: counts[k]] for k in range(len(classes))]
    drawn: Indices = np.sort(np.concatenate(chosen)).astype(np.int64)
    return drawn
