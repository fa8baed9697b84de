"""Fetching the official files of a data set, on request only."""

import tarfile
from pathlib import Path

from zsharp.data.errors import data_error
from zsharp.data.sources.source import Source


def download_files(source: Source, root: Path) -> None:
    """Downloads and unpacks the archives of a data set below `root`; whole ones already there are kept.

    Raises:
        DataError: The data set cannot be downloaded, or the download failed or has a wrong checksum.
    """
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    if not source.archives:
        raise data_error(root, f"data set {source.name} cannot be downloaded", source.obtain)
    for archive in source.archives:
        fetch = download_and_extract_archive if archive.unpack else download_url
        try:
            fetch(archive.url, str(root / archive.folder), md5=archive.md5)
        except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
            found = f"download failed ({type(error).__name__}: {error})"
            raise data_error(archive.url, found, f"a connection, or by hand: {source.obtain}") from error
