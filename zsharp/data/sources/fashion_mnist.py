"""Fashion-MNIST, from the official gzipped idx files."""

import gzip
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from zsharp.data.checks import find_official
from zsharp.data.errors import parsing
from zsharp.data.source import Archive, Decoded, Source, Split

_FOLDER = "FashionMNIST/raw"  # torchvision's layout
_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"


def _read(_source: Source, root: Path) -> Decoded:
    return Decoded(_read_split(root / _FOLDER, "train"), _read_split(root / _FOLDER, "t10k"), 10)


def _read_split(folder: Path, prefix: str) -> Split:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images_path = folder / f"{prefix}-images-idx3-ubyte.gz"
    labels_path = folder / f"{prefix}-labels-idx1-ubyte.gz"
    with TemporaryDirectory() as temporary:
        unpacked = Path(temporary) / "unpacked"  # torchvision's reader wants a plain file
        with parsing(images_path, "uint8 images in gzipped idx3 format"):
            _unpack(images_path, unpacked)
            images = read_image_file(unpacked).numpy()[:, None]
        with parsing(labels_path, "uint8 labels in gzipped idx1 format"):
            _unpack(labels_path, unpacked)
            labels = read_label_file(unpacked).numpy().astype(np.int64)
    return Split(images, labels, str(labels_path))


def _unpack(packed: Path, unpacked: Path) -> None:
    with gzip.open(packed) as reader, unpacked.open("wb") as writer:
        shutil.copyfileobj(reader, writer)


FASHION_MNIST = Source(
    name="fashion_mnist",
    summary="70,000 grey 28x28 pictures of clothing, 10 classes (Xiao 2017)",
    flip=True,
    find=find_official,
    read=_read,
    obtain=f"the four official *-ubyte.gz files in {_FOLDER} below the data root",
    md5={f"{_FOLDER}/{name}": md5 for name, md5 in _MD5.items()},
    archives=tuple(Archive(f"{_MIRROR}/{name}", md5, folder=_FOLDER) for name, md5 in _MD5.items()),
)
