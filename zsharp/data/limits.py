"""Bounds on what a data set may hold: far above any real one, far below what would fill memory or never end."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from zsharp.data.errors import DataError, data_error, parsing

MAX_PIXELS = 2**24  # of one image: 4096 x 4096
MAX_IMAGE_BYTES = 2**26  # of one encoded image
MAX_TEXT_BYTES = 2**24
MAX_FILE_BYTES = 2**38
MAX_IMAGES = 2**24
MAX_CLASSES = 2**16
MAX_FILES = 10_000  # of one split, or in one folder that is searched for them

_STRAYS = (".", "@", "__MACOSX")  # how the names start of what macOS, Jupyter and NAS boxes leave behind


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name is no part of a data set, such as `._x.JPEG` or `@eaDir`."""
    return name.startswith(_STRAYS)


def check_regular(path: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
    """Raises `DataError` unless a path leads to a regular file of at most so many bytes; opens nothing."""
    _check_status(path, path.stat(), max_bytes)


def read_regular(path: Path, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """Returns a file's content; raises `DataError` unless it is a regular file of at most so many bytes."""
    # Opening a pipe would wait for somebody who writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        _check_status(path, os.fstat(descriptor), max_bytes)  # before `fdopen`, which takes no folder
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        return file.read(max_bytes)


def entries_of(folder: Path, limit: int) -> Iterator[os.DirEntry[str]]:
    """Yields what is in a folder, strays left out, in any order.

    Raises:
        DataError: The folder cannot be read, or has more than `limit` entries.
    """
    with parsing(folder, "a folder that you may read"), os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= limit:
                raise data_error(folder, f"holds more than {limit:,} files", "fewer")
            if not is_stray(entry.name):
                yield entry


def check_count(count: int, limit: int, where: str | Path, what: str) -> None:
    """Raises `DataError` if there are more than `limit` of something."""
    if count > limit:
        raise data_error(where, f"found {count:,} {what}", f"at most {limit:,}")


def check_memory(num_bytes: int, where: str | Path) -> None:
    """Raises `DataError` if decoded images would not fit into this machine's memory."""
    try:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return
    if num_bytes > memory_bytes:
        problem = f"the images take {num_bytes / 1e9:,.0f} GB when decoded"
        raise data_error(where, problem, f"at most {memory_bytes / 1e9:,.0f} GB, the memory of this machine")


def _check_status(path: Path, status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _not_a_file(path, status.st_mode)
    if status.st_size > max_bytes:
        raise data_error(path, f"found {status.st_size:,} bytes", f"at most {max_bytes:,}")


def _not_a_file(path: Path, mode: int) -> DataError:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return data_error(path, f"found {kinds.get(stat.S_IFMT(mode), 'a device')}", "a file")
