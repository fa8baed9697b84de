"""From a data set's name to decoded, checked, memory-mapped arrays."""

import logging
import time
from pathlib import Path

from zsharp.data.cache import PreparedData, cache_folder, locked, open_cached, write_cached
from zsharp.data.checks import check_decoded, verify_md5
from zsharp.data.download import download_files
from zsharp.data.errors import DataError, data_error
from zsharp.data.sources.checksums import checksum_files, recall_checksum, remember_checksum, stamp_files
from zsharp.data.sources.datasets import find_source
from zsharp.data.sources.source import Source

_logger = logging.getLogger(__name__)


def prepare(
    name: str, root: str | Path | None = None, *, download: bool = False, cache: str | Path | None = None
) -> PreparedData:
    """Checks a data set and decodes it once a machine; later calls take milliseconds.

    Files count as changed when a size or modification time differs; they are then decoded anew. Processes
    that call this at the same time wait for the one that decodes. (Listing an unpacked Tiny ImageNet takes
    0.2 s a call; its zip file does not.)

    Args:
        name: A key of `DATASETS`.
        root: The folder the data set is in; `digits` needs none.
        download: Fetch missing or damaged official files first.
        cache: Where decoded copies are kept; by default $ZSHARP_CACHE, else `.zsharp_cache` in a writable
            root, else the user's cache folder.

    Raises:
        DataError: The name is unknown, or a file is missing, damaged, wrongly sized or mislabelled.
    """
    source = find_source(name)
    base = _root(source, root, download)
    place = cache_folder(base if source.needs_root else None, cache)
    fetchable = download and bool(source.archives)
    try:
        if prepared := _unchanged(source, base, place, fetchable):
            return prepared
        with locked(place, source.name):
            # somebody else may have decoded while we waited
            return _unchanged(source, base, place, fetchable) or _renew(source, base, place, fetchable)
    except OSError as error:
        raise data_error(error.filename or base, f"failed ({error.strerror})", "files we may read") from error


def _root(source: Source, root: str | Path | None, download: bool) -> Path:
    if not source.needs_root:
        return Path()
    if root is None:
        raise DataError(f"data set {source.name}: got no root, expected the folder with {source.obtain}")
    base = Path(root).expanduser()
    if download and source.archives:
        try:
            base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise data_error(base, f"cannot be made ({error.strerror})", "a folder to download to") from error
    if not base.is_dir():
        found = "is not a folder" if base.exists() else "no such folder"
        raise data_error(base, f"{found} (root of data set {source.name})", source.obtain)
    return base


def _unchanged(source: Source, base: Path, place: Path, fetchable: bool) -> PreparedData | None:
    """Returns the decoded copy if the source files have the stamp they had when it was made.

    Missing files that cannot be fetched raise here, before anything is written.
    """
    try:
        files = source.find(source, base)
    except DataError:
        if fetchable:
            return None
        raise
    checksum = recall_checksum(place, source.name, files, stamp_files(files))
    return open_cached(place, source, checksum) if checksum else None


def _renew(source: Source, base: Path, place: Path, fetchable: bool) -> PreparedData:
    """Fetches what is missing, and decodes unless the files' contents were decoded before under other names."""
    if fetchable:
        try:
            source.find(source, base)
            verify_md5(source, base)
        except DataError:
            download_files(source, base)
    files = source.find(source, base)
    stamp = stamp_files(files)
    checksum = checksum_files(files)
    prepared = open_cached(place, source, checksum) or _decode(source, base, place, checksum)
    remember_checksum(place, source.name, files, stamp, checksum)
    return prepared


def _decode(source: Source, base: Path, place: Path, checksum: str) -> PreparedData:
    started_s = time.perf_counter()
    verify_md5(source, base)
    decoded = source.read(source, base)
    check_decoded(decoded)
    prepared = write_cached(place, source, checksum, decoded)
    _logger.info("%s decoded to %s in %.1f s", source.name, prepared.folder, time.perf_counter() - started_s)
    return prepared
