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
    `folders` hold so many small files that names, sizes and modification times have to do, unless `by_content`.
    """

    base: Path
    files: tuple[Path, ...]
    folders: tuple[Path, ...] = ()
    by_content: bool = False


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
    num_val: int = 0  # how many of the last rows of `train` the data set itself keeps for validation
    notes: tuple[str, ...] = ()  # what was decided about the data, for its users


@dataclass(frozen=True)
class Archive:
    """An official download: put into `folder` below the root, and unpacked there if `unpack`."""

    url: str
    md5: str
    folder: str = ""
    unpack: bool = False


@dataclass(frozen=True)
class Source:
    """One row of the table of data sets, or a function of the user's."""

    name: str  # the name used in job files
    summary: str  # one line for listings
    flip: bool  # whether a mirrored image still shows its class
    # (source, root) -> the files, without reading them; raises `DataError` if some are missing.
    find: Callable[["Source", Path], SourceFiles]
    # (source, root) -> the decoded data; raises `DataError` if a file is damaged. Called only after the files
    # in `md5` are verified.
    read: Callable[["Source", Path], Decoded]
    obtain: str  # how to get the data set, for the message when it is missing
    needs_root: bool = True  # whether a folder must be given
    # Official checksums by path below the root. These files are verified before they are read.
    md5: Mapping[str, str] = field(default_factory=dict)
    # What `download=True` fetches; empty if the data set cannot be downloaded.
    archives: tuple[Archive, ...] = ()
    has_columns: bool = False  # whether columns of a table can be named
    image_column: str | None = None  # the column that holds the images; None takes the usual names
    label_column: str | None = None  # the column that holds the labels; None takes the usual names
    # Whether decoded pixels are its checksum, not its files; what decoded copies depend on besides files.
    by_content: bool = False
    settings: str = ""
    image_size: int | None = None  # side of the square that images are fitted into; None keeps their size

    @property
    def file_name(self) -> str:
        """Its name as files can have it."""
        return self.name.replace(":", ".")
