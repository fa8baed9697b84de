"""Tiny ImageNet, from its official zip file or the folder unpacked from it.

The official test images have no public labels, so the validation images, which have them, serve as
the test set.
"""

import itertools
import re
import struct
import zipfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from zsharp.data.checks import missing
from zsharp.data.decode import decode_images
from zsharp.data.errors import data_error, parsing
from zsharp.data.limits import (
    MAX_CLASSES,
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_TEXT_BYTES,
    check_count,
    check_regular,
    entries_of,
    is_stray,
    read_regular,
)
from zsharp.data.source import Archive, Decoded, Source, SourceFiles, Split

_NAME = "tiny-imagenet-200"
_ANNOTATIONS = "val/val_annotations.txt"
_MAX_ZIP_BYTES = 2**34  # the official one has 0.25 GB
_ZIP_TAIL_BYTES = 2**16 + 1000  # a comment of the greatest length, and the records before it


def _find(source: Source, root: Path) -> SourceFiles:
    location = _folder_or_zip(source, root)
    if location.is_file():
        return SourceFiles(root, (location,))
    train, val = _class_folders(location / "train"), _class_folders(location / "val")
    files = [location / "wnids.txt"]
    unsorted = location / "val/images"
    if unsorted.is_dir() and any(entries_of(unsorted, MAX_IMAGES)):
        files.append(location / _ANNOTATIONS)
        val = [unsorted]
    for required in (*files, location / "train", location / "val"):
        if not required.exists():
            raise missing(source, required)
    if not val:
        raise missing(source, unsorted)
    for file in files:
        check_regular(file, MAX_TEXT_BYTES)
    return SourceFiles(location, tuple(files), (*train, *val))


def _class_folders(split: Path) -> list[Path]:
    """Returns the folder of each class's images, links among them: `CLASS/images`, or `CLASS` itself."""
    if not split.is_dir():
        return []
    folders = [Path(entry.path) for entry in entries_of(split, MAX_IMAGES) if entry.is_dir()]
    classes = [folder for folder in folders if folder.name != "images"]
    return sorted(folder / "images" if (folder / "images").is_dir() else folder for folder in classes)


def _folder_or_zip(source: Source, root: Path) -> Path:
    """Returns the unpacked folder, which may be the root itself, or else the zip file."""
    for folder in (root, root / _NAME):
        if (folder / "wnids.txt").is_file():
            return folder
    packed = root / f"{_NAME}.zip"
    if not packed.exists():
        raise missing(source, packed)
    check_regular(packed, _MAX_ZIP_BYTES)
    return packed


def _read(source: Source, root: Path) -> Decoded:
    location = _folder_or_zip(source, root)
    if location.is_dir():
        names = _names(location, _find(source, root))
        return _read_tree(str(location), names, lambda name: read_regular(location / name))
    expected = "the complete official zip file (delete a damaged one and download it again)"
    with parsing(location, expected):
        _check_directory(location)
        archive = zipfile.ZipFile(location)
    prefix = f"{_NAME}/"
    names = sorted(name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix))
    check_count(len(names), MAX_IMAGES, location, "files")
    for name, following in itertools.pairwise(names):
        if name == following:
            raise data_error(location, f"found {name[:80]!r} twice", expected)

    def read(name: str) -> bytes:
        with parsing(location, expected):
            member = archive.getinfo(prefix + name)
            check_count(member.file_size, MAX_IMAGE_BYTES, f"{location}/{name}", "bytes")
            # Of other methods, zipfile unpacks all there is, whatever size the member is said to have.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise data_error(
                    f"{location}/{name}",
                    f"found compression {member.compress_type}",
                    "none (0) or deflate (8)",
                )
            return archive.read(prefix + name)

    with closing(archive):
        return _read_tree(str(location / _NAME), names, read)


def _check_directory(path: Path) -> None:
    """Refuses a zip file whose list of members would fill memory; `zipfile` reads all of it at once."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _ZIP_TAIL_BYTES))
        tail = file.read()
    for signature, number in ((b"PK\5\6", struct.Struct("<12xI")), (b"PK\6\6", struct.Struct("<40xQ"))):
        # All there are: a record behind the one that `zipfile` goes by may be a decoy.
        for at in (match.start() for match in re.finditer(b"(?=%b)" % re.escape(signature), tail)):
            if len(tail) < at + number.size:
                break
            (size_bytes,) = number.unpack_from(tail, at)
            if size_bytes != 2**32 - 1:  # then the 64-bit record has the size
                check_count(size_bytes, MAX_IMAGE_BYTES, path, "bytes of names")


def _names(root: Path, files: SourceFiles) -> list[str]:
    """Returns the sorted names of a folder's files, with forward slashes."""
    names = [path.relative_to(root).as_posix() for path in files.files]
    for folder in files.folders:
        prefix = folder.relative_to(root).as_posix()
        names += [f"{prefix}/{entry.name}" for entry in entries_of(folder, MAX_IMAGES)]
    return sorted(names)


def _read_tree(where: str, names: list[str], read: Callable[[str], bytes]) -> Decoded:
    if "wnids.txt" not in names:
        raise data_error(f"{where}/wnids.txt", "not found", "as in the official archive")
    with parsing(f"{where}/wnids.txt", "one class a line"):
        wnids = read("wnids.txt").decode().split()
    check_count(len(wnids), MAX_CLASSES, f"{where}/wnids.txt", "classes")
    class_of = {wnid: label for label, wnid in enumerate(wnids)}
    if len(class_of) != len(wnids):
        raise data_error(f"{where}/wnids.txt", "found a class listed twice", "each class once")
    train = _sorted_images(where, "train", names, class_of)
    if any(name.startswith("val/images/") and _is_jpeg(name) for name in names):
        if _ANNOTATIONS not in names:
            raise data_error(f"{where}/{_ANNOTATIONS}", "not found", "as in the official archive")
        with parsing(f"{where}/{_ANNOTATIONS}", "lines of text"):
            annotations = read(_ANNOTATIONS).decode()
        test = _annotated_images(where, names, class_of, annotations)
    else:
        test = _sorted_images(where, "val", names, class_of)
    return Decoded(_decode(where, train, read), _decode(where, test, read), len(wnids))


def _sorted_images(
    where: str, split: str, names: list[str], class_of: dict[str, int]
) -> list[tuple[str, int]]:
    """Returns (name, label) of each image in a folder of its class, class by class in the order of wnids.txt."""
    nested: dict[str, list[str]] = defaultdict(list)
    flat: dict[str, list[str]] = defaultdict(list)
    for name in filter(_is_jpeg, names):
        match name.split("/"):
            case [top, wnid, "images", _] if top == split:
                nested[wnid].append(name)
            case [top, wnid, _] if top == split and wnid != "images":
                flat[wnid].append(name)
    by_class = {**flat, **nested}
    for wnid in by_class.keys() - class_of.keys():
        raise data_error(
            f"{where}/{split}/{wnid}", "found a class that wnids.txt lacks", "only classes listed there"
        )
    for wnid in class_of:
        if wnid not in by_class:
            raise data_error(
                f"{where}/{split}/{wnid}/images", "found no images", "*.JPEG files of this class"
            )
    return [(name, label) for wnid, label in class_of.items() for name in by_class[wnid]]


def _annotated_images(
    where: str, names: list[str], class_of: dict[str, int], text: str
) -> list[tuple[str, int]]:
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
    if any(map(is_stray, name.split("/"))):
        return False
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
