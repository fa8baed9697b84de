"""Tiny ImageNet, from its official zip file or the folder unpacked from it.

The official test images have no public labels, so the validation images, which have them, serve as
the test set.
"""

import os
import zipfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from zsharp.data.checks import missing
from zsharp.data.decode import decode_images
from zsharp.data.errors import data_error, parsing
from zsharp.data.source import Archive, Decoded, Source, SourceFiles, Split

_NAME = "tiny-imagenet-200"
_ANNOTATIONS = "val/val_annotations.txt"


def _find(source: Source, root: Path) -> SourceFiles:
    location = _folder_or_zip(source, root)
    if location.is_file():
        return SourceFiles(root, (location,))
    for required in ("wnids.txt", _ANNOTATIONS, "train", "val/images"):
        if not (location / required).exists():
            raise missing(source, location / required)
    classes = sorted(path / "images" for path in (location / "train").iterdir() if path.is_dir())
    files = (location / "wnids.txt", location / _ANNOTATIONS)
    return SourceFiles(location, files, (*classes, location / "val/images"))


def _folder_or_zip(source: Source, root: Path) -> Path:
    """Returns the unpacked folder, which may be the root itself, or else the zip file."""
    for folder in (root, root / _NAME):
        if (folder / "wnids.txt").is_file():
            return folder
    packed = root / f"{_NAME}.zip"
    if not packed.is_file():
        raise missing(source, packed)
    return packed


def _read(source: Source, root: Path) -> Decoded:
    location = _folder_or_zip(source, root)
    if location.is_dir():
        return _read_tree(str(location), _walk(location), lambda name: (location / name).read_bytes())
    expected = "the complete official zip file (delete a damaged one and download it again)"
    with parsing(location, expected):
        archive = zipfile.ZipFile(location)
    prefix = f"{_NAME}/"
    names = sorted(name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix))

    def read(name: str) -> bytes:
        with parsing(location, expected):
            return archive.read(prefix + name)

    with closing(archive):
        return _read_tree(str(location / _NAME), names, read)


def _walk(root: Path) -> list[str]:
    names = []
    for folder, _, files in os.walk(root):  # one Path per folder, not per file: there are 110,000
        relative = Path(folder).relative_to(root)
        prefix = "" if relative == Path() else f"{relative.as_posix()}/"
        names += [prefix + file for file in files]
    return sorted(names)


def _read_tree(where: str, names: list[str], read: Callable[[str], bytes]) -> Decoded:
    for required in ("wnids.txt", _ANNOTATIONS):
        if required not in names:
            raise data_error(f"{where}/{required}", "not found", "as in the official archive")
    with parsing(f"{where}/wnids.txt", "one class a line"):
        wnids = read("wnids.txt").decode().split()
    with parsing(f"{where}/{_ANNOTATIONS}", "lines of text"):
        annotations = read(_ANNOTATIONS).decode()
    class_of = {wnid: label for label, wnid in enumerate(wnids)}
    if len(class_of) != len(wnids):
        raise data_error(f"{where}/wnids.txt", "found a class listed twice", "each class once")
    train = _train_images(where, names, class_of)
    test = _test_images(where, names, class_of, annotations)
    return Decoded(_decode(where, train, read), _decode(where, test, read), len(wnids))


def _train_images(where: str, names: list[str], class_of: dict[str, int]) -> list[tuple[str, int]]:
    """Returns (name, label) of each training image, class by class in the order of wnids.txt."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parts = name.split("/")
        if len(parts) == 4 and parts[0] == "train" and parts[2] == "images" and _is_jpeg(name):
            by_class[parts[1]].append(name)
    for wnid in by_class.keys() - class_of.keys():
        raise data_error(
            f"{where}/train/{wnid}", "found a class that wnids.txt lacks", "only classes listed there"
        )
    for wnid in class_of:
        if not by_class[wnid]:
            raise data_error(f"{where}/train/{wnid}/images", "found no images", "*.JPEG files of this class")
    return [(name, label) for wnid, label in class_of.items() for name in by_class[wnid]]


def _test_images(where: str, names: list[str], class_of: dict[str, int], text: str) -> list[tuple[str, int]]:
    """Returns (name, label) of each validation image, in the order of the annotations."""
    present = {name for name in names if name.startswith("val/images/") and _is_jpeg(name)}
    labelled: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line_where = f"{where}/{_ANNOTATIONS}, line {number}"
        fields = line.split("\t")
        if len(fields) < 2:
            raise data_error(
                line_where, f"found {line[:80]!r}", "file name, class and box, separated by tabs"
            )
        name = f"val/images/{fields[0]}"
        if fields[1] not in class_of:
            raise data_error(line_where, f"found class {fields[1]!r}", "one of the classes in wnids.txt")
        if name not in present or name in labelled:
            problem = "annotated twice" if name in labelled else "not there"
            raise data_error(
                line_where, f"found {fields[0]!r}, which is {problem}", "one line for each val image"
            )
        labelled[name] = class_of[fields[1]]
    if unlabelled := sorted(present - labelled.keys()):
        raise data_error(
            f"{where}/{unlabelled[0]}", "found no annotation of this image", f"a line in {_ANNOTATIONS}"
        )
    return list(labelled.items())


def _is_jpeg(name: str) -> bool:
    return name.upper().endswith((".JPEG", ".JPG"))


def _decode(where: str, images: list[tuple[str, int]], read: Callable[[str], bytes]) -> Split:
    pixels, _ = decode_images(((f"{where}/{name}", read(name)) for name, _ in images), len(images))
    labels = np.array([label for _, label in images], dtype=np.int64)
    return Split(pixels, labels, f"{where}/{images[0][0]}" if images else where)


TINY_IMAGENET = Source(
    name="tiny_imagenet",
    summary="110,000 colour 64x64 photographs, 200 classes (Stanford CS231n; its val split is our test set)",
    flip=True,
    find=_find,
    read=_read,
    obtain=f"{_NAME}.zip, or the folder {_NAME} unpacked from it, in the data root",
    archives=(
        Archive("http://cs231n.stanford.edu/tiny-imagenet-200.zip", md5="90528d7ca1a48142e341f4ef8d21d0de"),
    ),
)
