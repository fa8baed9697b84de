"""Data sets as uint8 arrays, decoded once per machine; stratified splits; augmentation in `augment`."""

from zsharp.data.cache import DataInfo, PreparedData
from zsharp.data.datasets import DATASETS
from zsharp.data.errors import DataError
from zsharp.data.prepare import prepare
from zsharp.data.source import Source
from zsharp.data.split import split_indices, subset_indices

__all__ = [
    "DATASETS",
    "DataError",
    "DataInfo",
    "PreparedData",
    "Source",
    "prepare",
    "split_indices",
    "subset_indices",
]
