"""SVHN, cropped digits of house numbers, from the official .mat files (train and test, without `extra`)."""

from pathlib import Path

import numpy as np

from zsharp.data.checks import find_official
from zsharp.data.errors import parsing
from zsharp.data.source import Archive, Decoded, Source, Split

_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
_SITE = "http://ufldl.stanford.edu/housenumbers"


def _read(source: Source, root: Path) -> Decoded:
    return Decoded(_read_split(source, root, "train"), _read_split(source, root, "test"), 10)


def _read_split(source: Source, root: Path, split: str) -> Split:
    """Reads one file with torchvision's reader, which also maps the official label 10 to the digit 0."""
    from torchvision import datasets

    name = f"{split}_32x32.mat"
    split_list = {split: ["", name, source.md5[name]]}
    with parsing(root / name, "X [32, 32, 3, N] and y [N, 1] in MATLAB's format"):
        reader = type("SVHN", (datasets.SVHN,), {"split_list": split_list})(root, split)
        labels = np.atleast_1d(reader.labels)
        return Split(np.ascontiguousarray(reader.data), labels, str(root / name))


SVHN = Source(
    name="svhn",
    summary="99,289 colour 32x32 house-number digits, 10 classes (Netzer 2011; without the extra split)",
    flip=False,
    find=find_official,
    read=_read,
    obtain="train_32x32.mat and test_32x32.mat in the data root",
    md5=_MD5,
    archives=tuple(Archive(f"{_SITE}/{name}", md5) for name, md5 in _MD5.items()),
)
