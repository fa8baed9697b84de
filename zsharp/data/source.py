"""Describes a data set: where its files are, how to check them, and how to turn them into arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class SourceFiles:
    """The files that a data set is read from.

    `base` is the folder that names are relative to. A change to `files` is recognised by their contents.
    `folders` hold so many small files that names, sizes and modification times have to do.
    """

    base: Path
    files: tuple[Path, ...]
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W] with labels int64 [N]; `where` names their file in messages."""

    images: Images
    labels: Labels
    where: str


@dataclass(frozen=True)
class Decoded:
    """A complete data set in memory; labels are in [0, num_classes)."""

    train: Split
    test: Split
    num_classes: int


@dataclass(frozen=True)
class Archive:
    """An official download: put into `folder` below the root, and unpacked there if `unpack`."""

    url: str
    md5: str
    folder: str = ""
    unpack: bool = False


@dataclass(frozen=True)
class Source:
    """One row of the table of data sets.

    Attributes:
        name: The name used in job files.
        summary: One line for listings.
        flip: Whether a mirrored image still shows its class.
        find: (source, root) -> the files, without reading them; raises `DataError` if some are missing.
        read: (source, root) -> the decoded data; raises `DataError` if a file is damaged. Called only after
            the files in `md5` are verified.
        obtain: How to get the data set, for the message when it is missing.
        needs_root: Whether a folder must be given.
        md5: Official checksums by path below the root. These files are verified before they are read.
        archives: What `download=True` fetches; empty if the data set cannot be downloaded.
        has_columns: Whether columns of a table can be named.
        image_column: The column that holds the images; None takes the usual names.
        label_column: The column that holds the labels; None takes the usual names.
    """

    name: str
    summary: str
    flip: bool
    find: Callable[["Source", Path], SourceFiles]
    read: Callable[["Source", Path], Decoded]
    obtain: str
    needs_root: bool = True
    md5: Mapping[str, str] = field(default_factory=dict)
    archives: tuple[Archive, ...] = ()
    has_columns: bool = False
    image_column: str | None = None
    label_column: str | None = None
