"""Decoded data sets on disk: written once per machine, completely or not at all, memory-mapped by all trials."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zsharp.data.errors import data_error
from zsharp.data.limits import MAX_TEXT_BYTES, read_regular
from zsharp.data.source import Decoded, Images, Labels, Source

FORMAT = 2  # raise it whenever decoding changes, so that older copies are not used
_ATTEMPTS = 100  # to lock a file that other processes remove

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataInfo:
    """What training needs to know about a data set.

    Attributes:
        num_train: Training images, without those of `num_val`.
        mean: Of the training images' pixels / 255, by channel; `std` likewise.
        flip: Whether a mirrored image still shows its class.
        num_val: Images that the data set itself keeps for validation: the last rows of the training arrays.
        notes: What was decided about the data when they were decoded.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksum: str
    flip: bool
    num_val: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PreparedData:
    """A decoded data set, as read-only memory maps, so that all trials on a machine share one copy."""

    info: DataInfo
    folder: Path

    def train(self) -> tuple[Images, Labels]:
        """Returns images uint8 [N, C, H, W] and labels int64 [N], its own validation images last.

        Does not open the test split.
        """
        return self._open("train_images"), self._open("train_labels")

    def test(self) -> tuple[Images, Labels]:
        """Returns the test split, like `train`. Only a confirmation may call this."""
        return self._open("test_images"), self._open("test_labels")

    def _open(self, name: str) -> np.memmap:
        array: np.memmap = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array


def cache_folder(root: Path | None, cache: str | Path | None) -> Path:
    """Returns the folder for decoded copies: `cache`, $ZSHARP_CACHE, in a writable root, or the user's cache."""
    given = cache or os.environ.get("ZSHARP_CACHE")
    if given:
        return Path(given).expanduser()
    if root is not None and os.access(root, os.W_OK):
        return root / ".zsharp_cache"
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser() / "zsharp"


def open_cached(cache: Path, source: Source, checksum: str) -> PreparedData | None:
    """Returns the decoded copy if it exists and all its files still have the size they were written with."""
    folder = _folder(cache, source, checksum)
    try:
        meta = json.loads(read_regular(folder / "meta.json", MAX_TEXT_BYTES))
        damaged = [
            name
            for name, size in meta["sizes_bytes"].items()
            if (folder / name).stat().st_size != size or not (folder / name).is_file()
        ]
        lists = {key: tuple(value) for key, value in meta["info"].items() if isinstance(value, list)}
        info = DataInfo(**meta["info"] | lists | {"flip": source.flip})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _logger.warning("%s: damaged cache (%s), decoding again", folder, error)
        return None
    if damaged or (info.checksum != checksum and not source.by_content):
        _logger.warning("%s: damaged cache (%s), decoding again", folder, ", ".join(damaged) or "checksum")
        return None
    return PreparedData(info, folder)


def write_cached(cache: Path, source: Source, checksum: str, decoded: Decoded) -> PreparedData:
    """Writes the decoded copy to a temporary folder, then renames it; call with the lock held."""
    _, channels, height, width = decoded.train.images.shape
    num_train = len(decoded.train.images) - decoded.num_val
    mean, std = _channel_statistics(decoded.train.images[:num_train], decoded.train.where)
    info = DataInfo(
        name=source.name,
        image_shape=(channels, height, width),
        num_classes=decoded.num_classes,
        num_train=num_train,
        num_test=len(decoded.test.images),
        mean=mean,
        std=std,
        checksum=_content_checksum(decoded) if source.by_content else checksum,
        flip=source.flip,
        num_val=decoded.num_val,
        notes=decoded.notes,
    )
    _remove_leftovers(cache, source)
    folder = _folder(cache, source, checksum)
    try:
        temporary = Path(mkdtemp(prefix=f".{source.file_name}-", suffix=".tmp", dir=cache))
        _write_files(temporary, info, decoded)
        if folder.exists():  # it is damaged: an intact one would have been used
            folder.rename(temporary.with_suffix(".old.tmp"))  # processes that have it open can go on
        temporary.rename(folder)
    except OSError as error:
        _remove_leftovers(cache, source)
        raise data_error(cache, f"cannot be written ({error.strerror})", "a folder with room") from error
    _remove_leftovers(cache, source)
    return PreparedData(info, folder)


def _channel_statistics(images: Images, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (mean, std) of pixels / 255 for each channel, std over all pixels (not n - 1).

    Counts how often each of the 256 values occurs, so the only rounding is that of the final float64 sums.

    Raises:
        DataError: All pixels of a channel have the same value, so its std is zero.
    """
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        pixels = images[:, channel]
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(pixels), 4096):  # in parts, as bincount copies them to int64
            counts += np.bincount(pixels[start : start + 4096].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        std = float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
        if np.count_nonzero(counts) == 1:
            raise data_error(where, f"every pixel of channel {channel} is the same", "images that differ")
        means.append(mean)
        stds.append(std)
    return tuple(means), tuple(stds)


def _content_checksum(decoded: Decoded) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for split in (decoded.train, decoded.test):
        for array in (split.images, split.labels):
            digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).data)
    return digest.hexdigest()


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
            os.fsync(file.fileno())  # the data must reach the disk before the rename does
    sizes_bytes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    meta = {"info": asdict(info), "sizes_bytes": sizes_bytes}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    folder.chmod(0o755)  # mkdtemp allows its owner only, but users may share a cache


def _remove_leftovers(cache: Path, source: Source) -> None:
    """Removes what killed processes left half-written. Call with the lock held: nobody else is writing then."""
    for leftover in cache.glob(f".{source.file_name}-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def locked(cache: Path, name: str) -> Iterator[None]:
    """Holds the lock on one data set of a cache, after waiting for it. It is released if its holder dies.

    If what is done with the lock fails, the lock file is removed, and the cache folder if it is empty: a refusal
    leaves nothing behind in the user's folders.

    Raises:
        DataError: The cache folder cannot be written or locked.
    """
    path = cache / f"{name}.lock"
    with _lock(cache, path):
        try:
            yield
        except BaseException:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # others' copies are in it
                cache.rmdir()
            raise


def _lock(cache: Path, path: Path) -> IO[bytes]:
    """Returns the lock file, open and locked: closing it releases the lock."""
    expected = "a folder that can be written and locked: name another in ZSHARP_CACHE or cache="
    for attempt in range(_ATTEMPTS):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            # A data folder may bring a cache of its own, with a pipe in this place: opening that would wait for ever.
            flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
            file = os.fdopen(os.open(path, flags, 0o666), "wb")
        except OSError as error:
            if isinstance(error, FileNotFoundError | FileExistsError) and attempt < _ATTEMPTS - 1:
                continue  # another process has just removed the folder
            raise data_error(cache, f"cannot be written ({error.strerror})", expected) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who held it before may have failed and removed the file; then others lock a new one.
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    return file
        except OSError as error:
            file.close()
            raise data_error(cache, f"cannot be locked ({error.strerror})", expected) from error
        file.close()
    raise data_error(cache, "cannot be locked (its lock file is removed again and again)", expected)


def _folder(cache: Path, source: Source, checksum: str) -> Path:
    settings = ""
    if source.image_column is not None or source.label_column is not None:
        names = json.dumps([source.image_column, source.label_column]).encode()
        settings = f"-{hashlib.blake2b(names, digest_size=8).hexdigest()}"
    if source.settings:
        settings += f"-{hashlib.blake2b(source.settings.encode(), digest_size=8).hexdigest()}"
    if source.image_size is not None:
        settings += f"-{source.image_size}px"
    return cache / f"{source.file_name}-{checksum}{settings}-v{FORMAT}"
