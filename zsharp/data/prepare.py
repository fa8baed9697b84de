"""Turns a data set's name into decoded, checked, memory-mapped arrays, and downloads it if asked to."""

import logging
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zsharp.data.cache import PreparedData, cache_folder, locked, open_cached, write_cached
from zsharp.data.checks import check_decoded, how_to_obtain, verify_md5
from zsharp.data.checksums import checksum_files, recall_checksum, remember_checksum, stamp_files
from zsharp.data.datasets import find_source
from zsharp.data.errors import DataError, data_error
from zsharp.data.source import Source
from zsharp.data.sources.function import function_source
from zsharp.data.stack import fitted_data
from zsharp.user_code import is_reference

_logger = logging.getLogger(__name__)


def prepare(
    name: str,
    root: str | Path | None = None,
    *,
    download: bool = False,
    cache: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    code: Sequence[str | Path] = (),
) -> PreparedData:
    """Checks a data set and decodes it, once per machine; later calls take milliseconds.

    If the size or modification time of a file has changed, the files are checked and decoded again. Processes
    that call this at the same time wait for the one that decodes. (Listing an unpacked Tiny ImageNet takes
    0.2 s per call; its zip file avoids that.)

    Args:
        name: A key of `DATASETS`, or `module:function` of a function of the user's own.
        root: The folder that holds the data set; `digits` needs none.
        download: Whether to download missing or damaged official files first.
        cache: Where to keep decoded copies; by default $ZSHARP_CACHE, else `.zsharp_cache` in a writable
            root, else the user's cache folder.
        image_column: Which column of Parquet files holds the images, if it has none of the usual names.
        label_column: The same for the labels.
        image_size: Side of the square that every image is resized to (the shorter side, antialiased) and cropped to
            (the middle); None keeps the images, which must then all have one size.
        arguments: What the user's function is called with, by name.
        code: Folders that the user's function is looked up in.

    Raises:
        DataError: The name is unknown, or a file is missing, damaged, of the wrong size or mislabelled.
        UserCodeError: The user's function cannot be used.
    """
    if is_reference(name):
        own_root = None if root is None else str(Path(root).expanduser())
        source = function_source(name, code, own_root, arguments or {})
    elif arguments:
        raise DataError(f"arguments are {dict(arguments)!r} for data set {name}, which takes none")
    else:
        source = find_source(name)
    source = replace(_with_columns(source, image_column, label_column), image_size=image_size)
    base = _root(source, root, download)
    copies = cache_folder(base if source.needs_root else None, cache)
    fetchable = download and bool(source.archives)
    try:
        if prepared := _unchanged(source, base, copies, fetchable):
            return prepared
        with locked(copies, source.file_name):
            # Another process may have decoded it while this one waited for the lock.
            return _unchanged(source, base, copies, fetchable) or _renew(source, base, copies, fetchable)
    except OSError as error:
        raise data_error(
            error.filename or base, f"failed ({error.strerror})", "files that you may read"
        ) from error


def _with_columns(source: Source, image_column: str | None, label_column: str | None) -> Source:
    for setting, column in (("image_column", image_column), ("label_column", label_column)):
        if column is not None and not source.has_columns:
            raise DataError(f"{setting} is {column!r} for data set {source.name}, which has no columns")
    return replace(source, image_column=image_column, label_column=label_column)


def _root(source: Source, root: str | Path | None, download: bool) -> Path:
    if not source.needs_root:
        return Path()
    if root is None:
        raise DataError(
            f"data set {source.name}: got no root, expected the folder with {how_to_obtain(source)}"
        )
    base = Path(root).expanduser()
    if download and source.archives:
        try:
            base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise data_error(
                base, f"cannot be created ({error.strerror})", "a folder to download to"
            ) from error
    if not base.is_dir():
        problem = "is not a folder" if base.exists() else "no such folder"
        raise data_error(base, f"{problem} (root of data set {source.name})", how_to_obtain(source))
    return base


def _unchanged(source: Source, base: Path, cache: Path, fetchable: bool) -> PreparedData | None:
    """Returns the decoded copy if the source files have not changed since it was made.

    Missing files that cannot be downloaded raise here, before anything is written.
    """
    try:
        files = source.find(source, base)
    except DataError:
        if fetchable:
            return None
        raise
    checksum = recall_checksum(cache, source.file_name, files, stamp_files(files))
    return open_cached(cache, source, checksum) if checksum else None


def _renew(source: Source, base: Path, cache: Path, fetchable: bool) -> PreparedData:
    """Downloads what is missing; decodes unless a copy with the same contents exists."""
    if fetchable:
        try:
            source.find(source, base)
            verify_md5(source, base)
        except DataError:
            _download(source, base)
    files = source.find(source, base)
    stamp = stamp_files(files)  # before reading: a file that changes meanwhile is then noticed next time
    checksum = checksum_files(files)
    prepared = open_cached(cache, source, checksum) or _decode(source, base, cache, checksum)
    remember_checksum(cache, source.file_name, files, stamp, checksum)
    return prepared


def _download(source: Source, root: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    for archive in source.archives:
        fetch = download_and_extract_archive if archive.unpack else download_url
        try:
            fetch(archive.url, str(root / archive.folder), md5=archive.md5)
        except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
            problem = f"download failed ({type(error).__name__}: {error})"
            raise data_error(archive.url, problem, f"a connection, or by hand: {source.obtain}") from error


def _decode(source: Source, base: Path, cache: Path, checksum: str) -> PreparedData:
    started_s = time.perf_counter()
    verify_md5(source, base)
    _logger.info("decoding %s, once on this machine", source.name if source.by_content else base)
    decoded = source.read(source, base)
    if source.image_size is not None:
        decoded = fitted_data(decoded, source.image_size)
    check_decoded(decoded)
    prepared = write_cached(cache, source, checksum, decoded)
    for note in decoded.notes:
        _logger.warning("%s: %s", base if source.needs_root else source.name, note)
    _logger.info("%s decoded to %s in %.1f s", source.name, prepared.folder, time.perf_counter() - started_s)
    return prepared
