"""The digits that come with scikit-learn: 1,797 real 8 x 8 images, no download needed."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from zsharp.data.checks import missing
from zsharp.data.source import Decoded, Source, SourceFiles, Split
from zsharp.data.split import split_indices

_TEST_FRACTION, _TEST_SEED = 0.2, 0


def _find(source: Source, _root: Path) -> SourceFiles:
    spec = find_spec("sklearn")
    assert spec is not None and spec.origin is not None, "scikit-learn is a dependency"
    base = Path(spec.origin).parent / "datasets" / "data"
    file = base / "digits.csv.gz"
    if not file.is_file():
        raise missing(source, file)
    return SourceFiles(base, (file,))


def _read(_source: Source, _root: Path) -> Decoded:
    """Scales 0..16 to 0..255 and splits off a stratified test set, the same for ever."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    train, test = split_indices(labels, _TEST_FRACTION, _TEST_SEED)
    where = "scikit-learn's digits.csv.gz"
    return Decoded(Split(images[train], labels[train], where), Split(images[test], labels[test], where), 10)


DIGITS = Source(
    name="digits",
    summary="1,797 grey 8x8 handwritten digits, 10 classes, embedded in scikit-learn (20 % fixed test split)",
    flip=False,
    find=_find,
    read=_read,
    obtain="an installation of scikit-learn with its embedded data",
    needs_root=False,
)
