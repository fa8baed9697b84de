"""Checks that every data set has to pass before it is used."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsharp.data.errors import DataError, data_error
from zsharp.data.limits import check_regular
from zsharp.data.source import Decoded, Labels, Source, SourceFiles, Split

DOWNLOAD = "download=True"
"""What messages call the argument that fetches a data set; a front end may replace it by what its users write."""


def check_decoded(decoded: Decoded) -> None:
    """Raises `DataError` unless both splits are uint8 images of one shape with one valid label each."""
    if decoded.num_classes < 2:
        raise data_error(decoded.train.where, f"found {decoded.num_classes} class(es)", "at least 2")
    for split in (decoded.train, decoded.test):
        _check_split(split, decoded.num_classes)
    train_shape, test_shape = decoded.train.images.shape[1:], decoded.test.images.shape[1:]
    if train_shape != test_shape:
        raise data_error(
            decoded.test.where,
            f"found test images of shape (C, H, W) = {test_shape}",
            f"{train_shape}, as in {decoded.train.where}",
        )


def check_labels(labels: NDArray[np.integer], num_classes: int, where: str | Path) -> Labels:
    """Returns the labels as int64 [N]; raises `DataError` naming the first one outside [0, num_classes)."""
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if outside.size:
        first = int(outside[0])
        given = f"found label {int(labels[first])} at row {first} ({outside.size} such labels)"
        raise data_error(where, given, f"integers from 0 to {num_classes - 1}")
    return labels.astype(np.int64)


def find_official(source: Source, root: Path) -> SourceFiles:
    """Returns the files in the source's `md5`; raises `DataError` naming the first that does not exist."""
    paths = tuple(root / relative for relative in source.md5)
    for path in paths:
        if not path.exists():
            raise missing(source, path)
        check_regular(path)
    return SourceFiles(root, paths)


def missing(source: Source, path: Path) -> DataError:
    """Returns the error for a missing data set, or for a missing part of one."""
    return data_error(path, f"not found (data set {source.name})", how_to_obtain(source))


def how_to_obtain(source: Source) -> str:
    """Returns what to put into the data root, and what fetches it if anything does."""
    return f"{source.obtain}{f' (or give {DOWNLOAD})' if source.archives else ''}"


def verify_md5(source: Source, root: Path) -> None:
    """Raises `DataError` for the first file that differs from the official one in any bit.

    CIFAR comes as pickles, which can run any code when loaded. This check is what makes loading them safe.
    """
    if not source.md5:
        return
    from torchvision.datasets.utils import calculate_md5

    for relative, md5 in source.md5.items():
        path = root / relative
        if not path.is_file():
            raise missing(source, path)
        actual = calculate_md5(path)
        if actual != md5:
            size_bytes = path.stat().st_size
            again = f"delete it and give {DOWNLOAD}" if source.archives else "fetch it again"
            raise data_error(
                path, f"found md5 {actual} ({size_bytes:,} bytes)", f"the official {md5}: {again}"
            )


def _check_split(split: Split, num_classes: int) -> None:
    images, labels = split.images, split.labels
    if len(images) == 0:
        raise data_error(split.where, "found no images", "at least one")
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
        raise data_error(
            split.where, f"found {images.dtype} images of shape {images.shape}", "uint8 [N, C, H, W]"
        )
    if labels.ndim != 1 or len(labels) != len(images):
        raise data_error(
            split.where, f"found {labels.size} labels for {len(images)} images", "one label an image"
        )
    check_labels(labels, num_classes, split.where)
