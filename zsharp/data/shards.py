"""Finds the Parquet files of each split of a folder, and refuses any but one complete set of them."""

import re
from collections.abc import Iterable
from pathlib import Path

from zsharp.data.checks import missing
from zsharp.data.errors import DataError, data_error
from zsharp.data.limits import MAX_FILES, MAX_IMAGES, check_count, check_regular, entries_of
from zsharp.data.source import Source

TEST_SPLITS = ("test", "validation", "valid", "val", "dev")
_SPLITS = ("train", *TEST_SPLITS)
# 00001-of-00003, and with the fingerprint that the `datasets` library appended before version 2.15.
_OF = re.compile(r"(?P<number>\d+)-of-(?P<count>\d+)(?P<fingerprint>-[0-9a-f]{16})?")
_NUMBER = re.compile(r"\d+")


def find_shards(source: Source, root: Path) -> dict[str, list[Path]]:
    """Returns the files of `train`, and of each test split that is there, each sorted by name.

    They may lie in the root, in `data`, or in a folder of theirs below it, as `train-00000-of-00002.parquet`
    or `train/0000.parquet`: the layouts of the Hugging Face hub.

    Raises:
        DataError: Files are missing or no regular ones, or there are several sets to choose from.
    """
    with_train = [folder for folder in (root, root / "data") if _files(folder, "train")]
    with_train = with_train or [folder for folder in _below(root) if _files(folder, "train")]
    if not with_train:
        raise missing(source, root / "train-*.parquet")
    if len(with_train) > 1:
        names = ", ".join(str(folder) for folder in with_train[:5])
        raise data_error(
            root, f"found training files in several folders ({names})", "one of these as the root"
        )
    shards = {}
    for split in _SPLITS:
        if paths := _files(with_train[0], split):
            _check_complete(source, split, paths)
            for path in paths:
                check_regular(path)
            shards[split] = paths
    if len(shards) == 1:
        raise missing(source, with_train[0] / "test-*.parquet")
    return shards


def _below(root: Path) -> list[Path]:
    """Returns the folders at most two levels below a folder, without those of a single split."""
    upper = _folders(root)
    below = list(upper)
    for parent in upper:
        below += _folders(parent)
        check_count(len(below), MAX_FILES, root, "folders")  # links to the root would multiply without end
    return below


def _folders(parent: Path) -> list[Path]:
    entries = entries_of(parent, MAX_IMAGES)
    return sorted(Path(entry.path) for entry in entries if entry.name not in _SPLITS and entry.is_dir())


def _files(folder: Path, split: str) -> list[Path]:
    """Returns what looks like a file of a split: `SPLIT.parquet`, `SPLIT-*.parquet` and `SPLIT/*.parquet`."""
    if not folder.is_dir():
        return []
    paths = [
        Path(entry.path)
        for entry in entries_of(folder, MAX_IMAGES)
        if entry.name == f"{split}.parquet"
        or (entry.name.startswith(f"{split}-") and entry.name.endswith(".parquet"))
    ]
    if (folder / split).is_dir():
        inside = entries_of(folder / split, MAX_IMAGES)
        paths += [Path(entry.path) for entry in inside if entry.name.endswith(".parquet")]
    check_count(len(paths), MAX_FILES, folder, f"files of {split}")
    return sorted(paths)


def _check_complete(source: Source, split: str, paths: list[Path]) -> None:
    """Refuses files of two numberings, such as those of an earlier upload, and numberings with gaps."""
    if len({path.parent for path in paths}) > 1:
        raise _ambiguous(split, paths)
    numbers = [_number(split, path) for path in paths]
    matches = [_OF.fullmatch(number) for number in numbers]
    complete = [match for match in matches if match is not None]
    if not complete:
        if len(paths) > 1 and not _counts_up(numbers):
            raise _ambiguous(split, paths)
        if len(paths) == 1 and _NUMBER.fullmatch(numbers[0]) and int(numbers[0]) != 0:
            raise _ambiguous(split, paths)
        return
    first = complete[0]
    count, width = int(first["count"]), len(first["number"])
    styles = {(match["count"], len(match["number"])) for match in complete}
    present = {int(match["number"]) for match in complete}
    if len(complete) < len(paths) or len(styles) > 1 or len(present) < len(paths):
        raise _ambiguous(split, paths)
    check_count(count, MAX_FILES, paths[0], "files announced in its name")
    for number in range(count):
        if number not in present:
            prefix = paths[0].stem.removesuffix(first.group())
            rest = "-*" if first["fingerprint"] else ""
            name = f"{prefix}{number:0{width}}-of-{first['count']}{rest}.parquet"
            raise missing(source, paths[0].with_name(name))
    if len(present) > count:
        raise _ambiguous(split, paths)


def _number(split: str, path: Path) -> str:
    """Returns what tells a file from the others of its split: `00000-of-00002` of `train-00000-of-00002.parquet`."""
    return path.stem.removeprefix(split).removeprefix("-")


def _counts_up(numbers: Iterable[str]) -> bool:
    """Whether the names are the numbers from 0 on, each once."""
    numbers = list(numbers)
    if not all(_NUMBER.fullmatch(number) for number in numbers):
        return False
    return sorted(int(number) for number in numbers) == list(range(len(numbers)))


def _ambiguous(split: str, paths: list[Path]) -> DataError:
    names = ", ".join(path.name for path in paths[:6]) + (", ..." if len(paths) > 6 else "")
    return data_error(
        paths[0].parent,
        f"found files of {split} that are not one complete set ({names})",
        f"all of {split}-00000-of-0000N.parquet and no others: move the rest away",
    )
