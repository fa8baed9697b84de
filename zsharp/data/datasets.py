"""The table of data sets; a new one is a file in `sources` and an entry here."""

from zsharp.data.errors import DataError
from zsharp.data.source import Source
from zsharp.data.sources.cifar import CIFAR10, CIFAR100
from zsharp.data.sources.digits import DIGITS
from zsharp.data.sources.fashion_mnist import FASHION_MNIST
from zsharp.data.sources.folder import FOLDER
from zsharp.data.sources.parquet import PARQUET
from zsharp.data.sources.svhn import SVHN
from zsharp.data.sources.tiny_imagenet import TINY_IMAGENET
from zsharp.names import did_you_mean

DATASETS: dict[str, Source] = {
    source.name: source
    for source in (DIGITS, CIFAR10, CIFAR100, SVHN, FASHION_MNIST, TINY_IMAGENET, FOLDER, PARQUET)
}


def find_source(name: str) -> Source:
    """Returns the data set called `name`; raises `DataError` with the nearest valid name if there is none."""
    if name in DATASETS:
        return DATASETS[name]
    raise DataError(f"unknown data set {name!r}; {did_you_mean(name, DATASETS)}valid: {', '.join(DATASETS)}")
