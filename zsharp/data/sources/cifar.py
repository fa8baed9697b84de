"""CIFAR-10 and CIFAR-100, from their official Python batches."""

import warnings
from pathlib import Path

import numpy as np

from zsharp.data.checks import check_labels, find_official
from zsharp.data.errors import data_error, parsing
from zsharp.data.source import Archive, Decoded, Source, Split

_SITE = "https://www.cs.toronto.edu/~kriz"


def _read(source: Source, root: Path) -> Decoded:
    num_classes = 100 if source.name == "cifar100" else 10
    batches = [path for path in source.md5 if not path.endswith("meta")]
    train = [_read_batch(source, root, path, num_classes) for path in batches if "test" not in path]
    test = [_read_batch(source, root, path, num_classes) for path in batches if "test" in path]
    return Decoded(_join(train), _join(test), num_classes)


def _read_batch(source: Source, root: Path, relative: str, num_classes: int) -> Split:
    """Reads one batch with torchvision's reader, which verifies the md5 again before it unpickles."""
    from torchvision.datasets import CIFAR10, CIFAR100

    path = root / relative
    folder, _, name = relative.partition("/")
    official = CIFAR100 if source.name == "cifar100" else CIFAR10
    meta = next(path for path in source.md5 if path.endswith("meta"))
    lists = {
        "base_folder": folder,
        "train_list": [[name, source.md5[relative]]],
        "test_list": [],
        "meta": {**official.meta, "filename": meta.partition("/")[2], "md5": source.md5[meta]},
    }
    with parsing(path, "a batch of the official archive"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy 2.4.0 to 2.4.4 warn of arrays that Python 2 pickled
        reader = type(official.__name__, (official,), lists)(root)
    labels = np.asarray(reader.targets)
    if len(labels) != len(reader.data):
        raise data_error(
            path, f"found {len(labels)} labels for {len(reader.data)} images", "one label an image"
        )
    images = np.ascontiguousarray(reader.data.transpose(0, 3, 1, 2))
    return Split(images, check_labels(labels, num_classes, path), str(path))


def _join(batches: list[Split]) -> Split:
    where = batches[0].where if len(batches) == 1 else str(Path(batches[0].where).parent)
    return Split(
        np.concatenate([batch.images for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
        where,
    )


CIFAR10 = Source(
    name="cifar10",
    summary="60,000 colour 32x32 photographs, 10 classes (Krizhevsky 2009)",
    flip=True,
    find=find_official,
    read=_read,
    obtain="the unpacked cifar-10-python.tar.gz, a folder cifar-10-batches-py, in the data root",
    md5={
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
        "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
    archives=(
        Archive(f"{_SITE}/cifar-10-python.tar.gz", md5="c58f30108f718f92721af3b95e74349a", unpack=True),
    ),
)

CIFAR100 = Source(
    name="cifar100",
    summary="60,000 colour 32x32 photographs, 100 classes (Krizhevsky 2009)",
    flip=True,
    find=find_official,
    read=_read,
    obtain="the unpacked cifar-100-python.tar.gz, a folder cifar-100-python, in the data root",
    md5={
        "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
        "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48",
    },
    archives=(
        Archive(f"{_SITE}/cifar-100-python.tar.gz", md5="eb9058c3a382ffc7106e4002c42a8d85", unpack=True),
    ),
)
