"""Decoded data sets on disk: written once a machine, whole or not at all, memory-mapped by every trial."""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsharp.data.channels import channel_statistics
from zsharp.data.errors import data_error
from zsharp.data.sources.source import Decoded, Images, Labels, Source

FORMAT = 1  # raise it whenever decoding changes, so that older copies are not believed

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataInfo:
    """What training needs to know of a data set; mean and std are of train pixels / 255, per channel."""

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksum: str
    flip: bool


@dataclass(frozen=True)
class PreparedData:
    """A decoded data set: read-only memory maps, so trials on one machine share one copy."""

    info: DataInfo
    folder: Path

    def train(self) -> tuple[Images, Labels]:
        """Returns images uint8 [N, C, H, W] and labels int64 [N]; opens no file of the test split."""
        return self._open("train_images"), self._open("train_labels")

    def test(self) -> tuple[Images, Labels]:
        """Returns the test split; only a confirmation may call this."""
        return self._open("test_images"), self._open("test_labels")

    def _open(self, name: str) -> np.memmap:
        array: np.memmap = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array


def cache_folder(root: Path | None, cache: str | Path | None) -> Path:
    """Returns where decoded copies go: `cache`, $ZSHARP_CACHE, below a writable root, or the user's cache."""
    given = cache or os.environ.get("ZSHARP_CACHE")
    if given:
        return Path(given).expanduser()
    if root is not None and os.access(root, os.W_OK):
        return root / ".zsharp_cache"
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser() / "zsharp"


def open_cached(cache: Path, source: Source, checksum: str) -> PreparedData | None:
    """Returns the decoded copy if it is there and its files have the sizes they were written with."""
    folder = _folder(cache, source, checksum)
    try:
        meta = json.loads((folder / "meta.json").read_text())
        damaged = [
            name for name, size in meta["sizes_bytes"].items() if (folder / name).stat().st_size != size
        ]
        fields = meta["info"] | {key: tuple(meta["info"][key]) for key in ("image_shape", "mean", "std")}
        info = DataInfo(**fields | {"flip": source.flip})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _logger.warning("%s: damaged cache (%s), decoding again", folder, error)
        return None
    if damaged or info.checksum != checksum:
        _logger.warning("%s: damaged cache (%s), decoding again", folder, ", ".join(damaged) or "checksum")
        return None
    return PreparedData(info, folder)


def write_cached(cache: Path, source: Source, checksum: str, decoded: Decoded) -> PreparedData:
    """Writes the decoded copy to a temporary folder, then renames it; call with the lock held."""
    _, channels, height, width = decoded.train.images.shape
    mean, std = channel_statistics(decoded.train)
    info = DataInfo(
        name=source.name,
        image_shape=(channels, height, width),
        num_classes=decoded.num_classes,
        num_train=len(decoded.train.images),
        num_test=len(decoded.test.images),
        mean=mean,
        std=std,
        checksum=checksum,
        flip=source.flip,
    )
    _remove_leftovers(cache, source)
    folder = _folder(cache, source, checksum)
    try:
        temporary = Path(mkdtemp(prefix=f".{source.name}-", suffix=".tmp", dir=cache))
        _write_files(temporary, info, decoded)
        if folder.exists():  # damaged, or it would have been used; whoever has it open keeps it
            folder.rename(temporary.with_suffix(".old.tmp"))
        temporary.rename(folder)
    except OSError as error:
        _remove_leftovers(cache, source)
        raise data_error(cache, f"cannot be written ({error.strerror})", "a folder with room") from error
    _remove_leftovers(cache, source)
    return PreparedData(info, folder)


def _write_files(folder: Path, info: DataInfo, decoded: Decoded) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "train_images": decoded.train.images,
        "train_labels": decoded.train.labels,
        "test_images": decoded.test.images,
        "test_labels": decoded.test.labels,
    }
    for name, array in arrays.items():
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())  # the rename must not reach the disk before the data
    sizes_bytes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    meta = {"info": asdict(info), "sizes_bytes": sizes_bytes}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    folder.chmod(0o755)  # mkdtemp gives 0700, but other users may share this cache


def _remove_leftovers(cache: Path, source: Source) -> None:
    """Removes what killed processes left half-written: with the lock held, nobody is still writing it."""
    for leftover in cache.glob(f".{source.name}-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def locked(cache: Path, name: str) -> Iterator[None]:
    """Holds this machine's lock on one data set of a cache; waits its turn, and a dead holder's lock is free.

    Raises:
        DataError: The cache folder cannot be written or locked.
    """
    expected = "a folder that can be written and locked: give another as cache= or in ZSHARP_CACHE"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        file = (cache / f"{name}.lock").open("a")
    except OSError as error:
        raise data_error(cache, f"cannot be written ({error.strerror})", expected) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise data_error(cache, f"cannot be locked ({error.strerror})", expected) from error
        yield


def _folder(cache: Path, source: Source, checksum: str) -> Path:
    return cache / f"{source.name}-{checksum}-v{FORMAT}"
