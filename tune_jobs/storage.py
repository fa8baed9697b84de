"""Search folders in an object store: `s3://` and `gs://` addresses, which pyarrow's file systems open."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tune_jobs.errors import JobError, Problem, StorageError
from zsharp.atomic import atomic_write

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "gs")
_TIMEOUT_S = 20.0
_ATTEMPTS = 8  # for a request that the server answers with an error, with growing pauses
_MIN_FREE_BYTES = 1024 * 1024  # for a ledger and its results; a search that needs more ends resumable
_AT_ONCE = 16  # parallel transfers


class RemoteFolder:
    """A folder in an object store. Objects are written whole or not at all.

    Credentials come only from the environment, as for the store's own tools.

    Raises:
        JobError: If the address has another form, or contains credentials.
    """

    def __init__(self, address: str) -> None:
        if problem := address_problem(address):
            raise JobError([Problem("storage", _shown(address), problem)])
        self.address = address.rstrip("/")
        self._path = self.address.split("://", 1)[1]
        self._opened: FileSystem | None = None

    @property
    def cache(self) -> Path:
        """The local folder for copies of this folder's files."""
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return base / "tune-jobs" / hashlib.sha256(self.address.encode()).hexdigest()[:24]

    def names(self, below: str = "") -> list[str]:
        """Returns the names of all objects in a folder below this one, none if the folder does not exist."""
        from pyarrow.fs import FileSelector

        path = f"{self._path}/{below}".rstrip("/")
        with _translated(self.address):
            infos = self._files.get_file_info(FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.is_file)

    def folders(self) -> list[str]:
        """Returns the names of the folders in this one."""
        from pyarrow.fs import FileSelector, FileType

        with _translated(self.address):
            infos = self._files.get_file_info(FileSelector(self._path, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == FileType.Directory)

    def read(self, name: str) -> bytes | None:
        """Returns the content of an object, None if it does not exist."""
        with _translated(self.address):
            try:
                with self._files.open_input_stream(f"{self._path}/{name}") as stream:
                    content: bytes = stream.read()
            except FileNotFoundError:
                return None
        return content

    def read_all(self, names: Iterable[str]) -> list[bytes | None]:
        """Returns the contents of many objects, in the order of their names."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self.read, names))

    def write(self, name: str, content: bytes) -> None:
        """Creates or replaces an object."""
        with _translated(self.address), self._files.open_output_stream(f"{self._path}/{name}") as stream:
            stream.write(content)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes objects. Those that do not exist are ignored."""

        def drop(name: str) -> None:
            with _translated(self.address):
                try:
                    self._files.delete_file(f"{self._path}/{name}")
                except FileNotFoundError:
                    return

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(drop, names))

    def pull(self, name: str, file: Path) -> bool:
        """Downloads an object to a file. Returns False if the object does not exist."""
        content = self.read(name)
        if content is None:
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as unfinished:
            unfinished.write_bytes(content)
        return True

    def push(self, file: Path, name: str) -> None:
        """Uploads a file as an object."""
        self.write(name, file.read_bytes())

    def __getstate__(self) -> dict[str, str]:
        return {"address": self.address}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["address"])  # type: ignore[misc]  # a file system of this process

    @property
    def _files(self) -> "FileSystem":
        if self._opened is None:
            from pyarrow import fs

            if self.address.startswith("gs://"):
                self._opened = fs.GcsFileSystem()
            else:
                # pyarrow reads credentials and region from the environment, but not the endpoint.
                endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
                self._opened = fs.S3FileSystem(
                    endpoint_override=endpoint,
                    allow_delayed_open=True,  # one request for a small object
                    retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
                    connect_timeout=_TIMEOUT_S,
                    request_timeout=_TIMEOUT_S,
                )
        return self._opened


def room_problem(folder: Path) -> str | None:
    """Returns why nothing can be written in a local folder, or in the one where it would be made; None if it can be.

    Raises:
        OSError: If no folder can have this name.
    """
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        return f"nothing can be written in {above}; expected another folder"
    if shutil.disk_usage(above).free < _MIN_FREE_BYTES:
        return f"the disk of {above} is full; free some space, or give another folder"
    return None


def is_address(location: str | Path) -> bool:
    """Whether a search folder is in an object store, not on a disk."""
    return "://" in str(location)


def address_problem(address: str) -> str | None:
    """Returns what is wrong with an address, None if it is valid."""
    parts = urlsplit(address)
    if parts.scheme not in SCHEMES:
        return "expected a folder, or an address that begins with s3:// or gs://"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "an address must not hold credentials or options: the environment gives them"
    if not parts.netloc or not parts.path.strip("/"):
        return f"expected {parts.scheme}://bucket/folder"
    if any(part in (".", "..") for part in parts.path.split("/")):
        return "expected an address without . and .."
    return None


def _shown(address: str) -> str:
    """Returns the address without parts that may be secret."""
    scheme, _, rest = address.partition("://")
    return (
        f"{scheme}://...{rest.rpartition('@')[2].partition('?')[0]}"
        if "@" in rest or "?" in rest
        else address
    )


class _translated:  # noqa: N801  # reads as a statement
    """Turns errors of the file systems into `StorageError`, with the address in front."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | StorageError):
            raise StorageError(f"{self._address}: {error}") from error
