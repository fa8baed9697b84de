"""Data that a function of the user's own returns: data sets as torchvision's are, or arrays."""

import importlib
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import numpy as np

from zsharp.data.decode import pixels_of
from zsharp.data.errors import data_error
from zsharp.data.limits import MAX_CLASSES, MAX_IMAGES, check_count
from zsharp.data.source import Decoded, Images, Labels, Source, SourceFiles, Split
from zsharp.data.stack import stack_images
from zsharp.user_code import UserCodeError, accepted, load_callable, told_as_theirs, unused_argument

_EXPECTED = "(train, test) or (train, test, validation), or a dict of train, test and val"
_UINT8 = (
    "uint8 pixels from 0 to 255: leave out transforms such as ToTensor() and Normalize(), training does that"
)


@dataclass(frozen=True)
class _Part:
    """One split as the function returned it, item by item."""

    name: str
    items: Any  # a map-style data set, or the images of a pair of arrays
    labels: Any | None  # the labels of a pair of arrays

    def __len__(self) -> int:
        return len(self.items)

    def item(self, row: int) -> tuple[Any, Any]:
        if self.labels is not None:
            return self.items[row], self.labels[row]
        item = self.items[row]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise TypeError(f"an item is a {type(item).__name__}; expected a pair (image, label)")
        return item[0], item[1]


def function_source(
    reference: str, folders: Sequence[str | Path], root: str | None, arguments: Mapping[str, Any]
) -> Source:
    """Returns the data set that a function `module:function` makes.

    Its decoded copy is good for as long as the source files that the function's module imports from `folders`, the
    arguments and the root are the same. What else the function reads is not looked at.

    Raises:
        UserCodeError: If it cannot be imported, or does not take the arguments.
    """
    with _own_random_numbers():
        load = load_callable(reference, folders)
        files = _imported_files(reference.partition(":")[0], folders)
    offered = dict(arguments) if root is None else {"root": root, **arguments}
    passed = accepted(load, offered, reference, section="data.arguments")
    if unused := [name for name in offered if name not in passed]:
        raise unused_argument(load, unused[0], reference)
    return Source(
        name=reference,
        summary="",
        flip=True,
        find=lambda _source, _root: files,
        read=partial(_read, load, passed, folders),
        obtain="",
        needs_root=False,
        by_content=True,
        settings=json.dumps([root, dict(arguments)], sort_keys=True),
    )


def _imported_files(module: str, folders: Sequence[str | Path]) -> SourceFiles:
    """Returns the source files of a module and of what it imports from the folders, now or when it is called."""
    finder = ModuleFinder([str(Path(folder).expanduser().absolute()) for folder in folders])
    with suppress(Exception):  # an installed module, or more than the finder can read
        finder.import_hook(module)
    files = [str(file) for member in finder.modules.values() if (file := getattr(member, "__file__", None))]
    for name in finder.modules:
        # What is imported only when the function is called counts as the search's code whether it is called or not.
        with suppress(Exception), told_as_theirs(f"importing {name}", folders):
            importlib.import_module(name)
    paths = sorted({Path(file).resolve() for file in files or [str(sys.modules[module].__file__)]})
    base = paths[0].parent
    while not all(path.is_relative_to(base) for path in paths):
        base = base.parent
    return SourceFiles(base, tuple(paths))


def _read(
    load: Callable[..., Any],
    arguments: Mapping[str, Any],
    folders: Sequence[str | Path],
    source: Source,
    _root: Path,
) -> Decoded:
    with _own_random_numbers(), redirect_stdout(sys.stderr):
        with told_as_theirs(source.name, folders, limit_s=None):
            returned = load(**arguments)
        parts = _parts(source.name, returned, folders)
        labels: list[Any] = []
        count = sum(len(part) for part in parts)
        check_count(count, MAX_IMAGES, source.name, "images")
        images, all_grey = stack_images(
            _images(source.name, parts, labels, folders), count, source.image_size
        )
    if all_grey:
        images = np.ascontiguousarray(images[:, :1])
    train = parts[0]
    num_val = sum(len(part) for part in parts[1:-1])
    numbers, num_classes = _numbered(source.name, labels, train)
    names = f"{source.name}, training images", f"{source.name}, test images"
    rows = len(train) + num_val
    return Decoded(
        Split(images[:rows], numbers[:rows], names[0]),
        Split(images[rows:], numbers[rows:], names[1]),
        num_classes,
        num_val,
        (f"its {num_val:,} images for validation are validated on; val_fraction is ignored",)
        if num_val
        else (),
    )


def _parts(label: str, returned: Any, folders: Sequence[str | Path]) -> list[_Part]:
    """Returns the parts that a function returned: train, validation if there is one, test."""
    if isinstance(returned, tuple | list) and len(returned) in (2, 3):
        returned = dict(zip(("train", "test", "val"), returned, strict=False))
    if not isinstance(returned, Mapping) or not {"train", "test"} <= set(returned) <= {
        "train",
        "test",
        "val",
    }:
        raise UserCodeError(f"{label}: returned a {type(returned).__name__}; expected {_EXPECTED}")
    return [
        _part(label, name, returned[name], folders) for name in ("train", "val", "test") if name in returned
    ]


def _part(label: str, name: str, given: Any, folders: Sequence[str | Path]) -> _Part:
    if isinstance(given, tuple | list) and len(given) == 2 and hasattr(given[0], "ndim"):
        images, labels = given
        if images.ndim not in (3, 4):
            raise data_error(
                label, f"{name} images have shape {list(images.shape)}", "[N, H, W, C] or [N, H, W]"
            )
        if len(images) != len(labels):
            raise data_error(
                label, f"found {len(labels)} {name} labels for {len(images)} images", "one label an image"
            )
        part = _Part(name, images, labels)
    elif hasattr(given, "__len__") and hasattr(given, "__getitem__") and not isinstance(given, str | Mapping):
        part = _Part(name, given, None)
    else:
        kind = type(given).__name__
        raise UserCodeError(
            f"{label}: {name} is a {kind}; expected a data set with len() and [i] that gives (image, label), "
            "or a pair of arrays (images, labels)"
        )
    with told_as_theirs(f"{label}: len() of {name}", folders, limit_s=None):
        is_empty = len(part) == 0
    if is_empty:
        raise data_error(label, f"{name} is empty", "at least one image")
    return part


def _images(
    label: str, parts: Sequence[_Part], labels: list[Any], folders: Sequence[str | Path]
) -> Iterator[tuple[str, Images]]:
    """Yields (where, uint8 [C, H, W]) of every image, and adds its label to `labels`."""
    for part in parts:
        for row in range(len(part)):
            where = f"{label}: {part.name} image {row}"
            try:
                image, answer = part.item(row)
            except (Exception, SystemExit):
                with told_as_theirs(where, folders, limit_s=None):
                    raise
            labels.append(_label(answer, where))
            yield where, _pixels(image, where)


def _label(answer: Any, where: str) -> int | str:
    if isinstance(answer, str):
        return str(answer)
    if getattr(answer, "ndim", None) == 0:  # of NumPy or torch
        answer = answer.item()
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise data_error(
            where, f"its label is {str(answer)[:80]} ({type(answer).__name__})", "an int or a str"
        )
    return answer


def _numbered(label: str, labels: Sequence[int | str], train: _Part) -> tuple[Labels, int]:
    """Returns labels from 0 on and the number of classes; texts are numbered in alphabetical order."""
    kinds = {type(answer) for answer in labels}
    if len(kinds) > 1:
        raise data_error(label, "found labels that are ints and labels that are texts", "one kind")
    if kinds == {str}:
        classes = sorted({str(answer) for answer in labels[: len(train)]})
        check_count(len(classes), MAX_CLASSES, label, "classes")
        position = {name: number for number, name in enumerate(classes)}
        for answer in labels:
            if answer not in position:
                problem = f"found class {str(answer)[:80]!r}, which train lacks"
                raise data_error(label, problem, "only classes that there are training images of")
        return np.array([position[str(answer)] for answer in labels], dtype=np.int64), len(classes)
    named = getattr(train.items, "classes", ())
    largest = max(int(answer) for answer in labels[: len(train)])
    num_classes = max(largest + 1, len(named) if isinstance(named, tuple | list) else 0)
    check_count(num_classes, MAX_CLASSES, label, "classes, as the largest label says")
    return np.array(labels, dtype=np.int64), num_classes


def _pixels(image: Any, where: str) -> Images:
    """Returns uint8 [C, H, W] of a PIL image, a tensor [C, H, W] or an array [H, W, C]; grey ones may be [H, W]."""
    import torch
    from PIL.Image import Image

    if isinstance(image, Image):
        return pixels_of(image, where)
    if isinstance(image, torch.Tensor):
        array, order, is_last = image.detach().cpu().numpy(), "[C, H, W]", False
    elif isinstance(image, np.ndarray):
        array, order, is_last = image, "[H, W, C]", True
    else:
        raise data_error(where, f"is a {type(image).__name__}", "a PIL image, a tensor or an array")
    if array.dtype != np.uint8:
        raise data_error(where, f"is of type {array.dtype}", _UINT8)
    if array.ndim == 2:
        return array[None]
    shape = array.shape
    channels = shape[-1 if is_last else 0] if array.ndim == 3 else 0
    if array.ndim != 3 or 0 in shape or channels > 4 >= min(shape[0], shape[-1]):
        kind = "an array" if is_last else "a tensor"
        raise data_error(where, f"is {kind} of shape {list(shape)}", f"{order} or [H, W] of {kind}")
    return np.moveaxis(array, -1, 0) if is_last else array


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Seeds the global generators, so that every machine decodes the same, and puts them back afterwards.

    A trial draws the same numbers whether it is the one that decodes or not.
    """
    import torch

    python, numpy, on_host = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # not `torch.manual_seed`, which would seed GPUs too
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(on_host)
