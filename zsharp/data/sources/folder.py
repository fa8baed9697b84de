"""Any folder of images with one folder for each class, below `train`, `val` and `test` or without them."""

from collections import Counter
from pathlib import Path

import numpy as np

from zsharp.data.checks import missing
from zsharp.data.decode import SUFFIXES, decode_images
from zsharp.data.errors import data_error
from zsharp.data.limits import MAX_CLASSES, MAX_IMAGES, check_count, entries_of, read_regular
from zsharp.data.source import Decoded, Labels, Source, SourceFiles, Split
from zsharp.data.split import split_indices

TEST_FRACTION, TEST_SEED = 0.2, 0
"""The test set of a folder that has none: this share of each class, drawn with this seed."""

_SPLIT_OF = {
    "train": "train", "test": "test",
    "val": "val", "validation": "val", "valid": "val", "dev": "val",
}  # fmt: skip


def _find(source: Source, root: Path) -> SourceFiles:
    splits = _splits(source, root)
    folders = [folder for classes in splits.values() for folder in classes.values()]
    return SourceFiles(root, (), tuple(sorted(folders)), by_content=True)


def _splits(source: Source, root: Path) -> dict[str, dict[str, Path]]:
    """Returns the folder of each class, by split and class; all are of `train` where there are no splits."""
    below = _folders(root)
    present: dict[str, Path] = {}
    for folder in below:
        split = _SPLIT_OF.get(folder.name.lower())
        if split in present:
            problem = f"found both {present[split].name} and {folder.name}"
            raise data_error(root, problem, f"one folder of {split} images: move the other away")
        if split is not None:
            present[split] = folder
    if not present:
        if not below:
            raise missing(source, root / "train")
        return {"train": {folder.name: folder for folder in below}}
    if "train" not in present:
        raise missing(source, root / "train")
    splits = {split: {f.name: f for f in _folders(folder)} for split, folder in present.items()}
    for split, classes in splits.items():
        if not classes:
            raise data_error(present[split], "found no folders", "a folder of images for each class")
        for name in classes:
            if name not in splits["train"]:
                problem = f"found class {name[:80]!r}, which {present['train']} lacks"
                raise data_error(present[split], problem, "only classes that there are training images of")
    return splits


def _folders(parent: Path) -> list[Path]:
    folders = sorted(Path(entry.path) for entry in entries_of(parent, MAX_IMAGES) if entry.is_dir())
    check_count(len(folders), MAX_CLASSES, parent, "folders")
    return folders


def _read(source: Source, root: Path) -> Decoded:
    splits = _splits(source, root)
    classes = sorted(splits["train"])
    images, notes = {}, []
    others: Counter[str] = Counter()
    for split, folders in splits.items():
        images[split], left_out = _images(classes, folders, is_train=split == "train")
        others += left_out
    if others:
        kinds = ", ".join(kind or "without a suffix" for kind, _ in others.most_common(5))
        notes.append(f"{others.total():,} files that are no {', '.join(SUFFIXES)} are left out ({kinds})")
    if "test" not in images:
        images["train"], images["test"] = _drawn(root, images["train"])
        notes.append(
            f"there is no folder of test images: {len(images['test']):,} of the training images, "
            f"{TEST_FRACTION:.0%} of each class drawn with seed {TEST_SEED}, are the test set"
        )
    if val := images.get("val"):
        notes.append(
            f"the {len(val):,} images of its validation folder are validated on; val_fraction is ignored"
        )
    ordered = [*images["train"], *images.get("val", ()), *images["test"]]
    check_count(len(ordered), MAX_IMAGES, root, "images")
    pixels, all_grey = decode_images(
        ((str(path), read_regular(path)) for path, _ in ordered), len(ordered), source.image_size
    )
    if all_grey:
        pixels = np.ascontiguousarray(pixels[:, :1])
    labels: Labels = np.array([label for _, label in ordered], dtype=np.int64)
    num_test = len(images["test"])
    where = [str(part[0][0]) if part else str(root) for part in (images["train"], images["test"])]
    return Decoded(
        Split(pixels[:-num_test], labels[:-num_test], where[0]),
        Split(pixels[-num_test:], labels[-num_test:], where[1]),
        len(classes),
        num_val=len(images.get("val", ())),
        notes=tuple(notes),
    )


def _images(
    classes: list[str], folders: dict[str, Path], *, is_train: bool
) -> tuple[list[tuple[Path, int]], Counter[str]]:
    """Returns (path, label) of each image, class by class, and how many other files there are by suffix."""
    images: list[tuple[Path, int]] = []
    others: Counter[str] = Counter()
    for label, name in enumerate(classes):
        if name not in folders:
            continue
        entries = list(entries_of(folders[name], MAX_IMAGES))
        files = sorted(Path(entry.path) for entry in entries if not entry.is_dir())
        chosen = [file for file in files if file.suffix.lower() in SUFFIXES]
        others.update(file.suffix.lower() for file in files if file.suffix.lower() not in SUFFIXES)
        if not chosen and is_train:
            below = (
                "; its own folders may be the classes: then it is the root"
                if len(entries) > len(files)
                else ""
            )
            raise data_error(
                folders[name], f"found no images{below}", f"files that end in {', '.join(SUFFIXES)}"
            )
        images += [(file, label) for file in chosen]
    return images, others


def _drawn(
    root: Path, images: list[tuple[Path, int]]
) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Returns the images that stay for training, and those of the test set."""
    try:
        train, test = split_indices([label for _, label in images], TEST_FRACTION, TEST_SEED)
    except ValueError as error:
        problem = f"found {len(images)} images, too few to draw a test set from"
        raise data_error(root, problem, "more, or a folder test") from error
    return [images[row] for row in train], [images[row] for row in test]


FOLDER = Source(
    name="folder",
    summary="any folder of images with a folder for each class, in train, val and test or without them",
    flip=True,
    find=_find,
    read=_read,
    obtain="a folder of images for each class, or train (and val, test) with such folders",
)
