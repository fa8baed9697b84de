"""A search folder, on a disk or at an address: what is in it, and how it is opened."""

import atexit
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tune_jobs.errors import JobError, LedgerError, Problem, ResultsError, show
from tune_jobs.job.checks import check_job
from tune_jobs.job.code import FOLDER_NAME
from tune_jobs.job.spec import JobSpec
from tune_jobs.ledger.file import FILE_NAME
from tune_jobs.ledger.mirror import RemoteRecord
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.changes import another_job
from tune_jobs.storage import RemoteFolder, is_address, room_problem
from tune_jobs.wording import command_for

_PUBLISHED = ("job.yaml", "optuna.journal", "parquet/trials.parquet", "parquet/epochs.parquet")
_CODE = f"{FOLDER_NAME}.zip"  # at an address, code is one object
_PARQUET = (*_PUBLISHED[2:], "parquet/confirmations.parquet")


class SearchFolder:
    """A search folder.

    Args:
        address: A path, or an address such as `s3://bucket/folder`.
        writes: Whether this process is to write the search; readers of a remote one get copies of their own.

    Attributes:
        address: Where the search is, as users write it.
        remote: The object store's folder; None for one on a disk.

    Raises:
        JobError: If an address is malformed or holds credentials.
    """

    def __init__(self, address: str | Path, *, writes: bool = False) -> None:
        self.address = str(address)
        self.remote = RemoteFolder(self.address) if is_address(address) else None
        self._writes = writes
        if writes and self.remote is None and not _is_utf8(self.local):
            message = "Ray takes only paths in UTF-8; expected another folder"
            raise JobError([Problem("--out", self.address, message)])
        self._pulled: RemoteRecord | None = None  # whose copy of the ledger is as it was pulled

    @cached_property
    def local(self) -> Path:
        """Where this process reads and writes the files: the folder itself, or a copy on this machine."""
        if self.remote is None:
            return Path(self.address).absolute()  # workers have another working folder
        name = Path(self.address).name
        if self._writes:
            return self.remote.cache / name
        self.remote.cache.mkdir(parents=True, exist_ok=True)
        copy = Path(tempfile.mkdtemp(prefix="read-", dir=self.remote.cache))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        return copy / name

    @property
    def resume_hint(self) -> str:
        """Advice on how to continue the search, for messages."""
        return f"Resume with: {command_for('resume', self.address)}"

    def __str__(self) -> str:
        return self.address

    def __getstate__(self) -> dict[str, Any]:
        """Workers get an absolute path, since they start in other folders, and make their own copies."""
        address = str(self.local) if self.remote is None else self.address
        return {"address": address, "remote": self.remote, "_writes": False, "_pulled": None}

    def has_search(self) -> bool:
        """Whether there is a ledger."""
        if self.remote is not None:
            return RemoteRecord(self.remote).exists
        return (self.local / FILE_NAME).is_file()

    def check_usable(self) -> None:
        """Raises JobError if the folder holds no search and none can be started in it."""
        problem = self._local_problem() if self.remote is None else None
        if self.remote is not None and not self.has_search() and self.remote.names():
            problem = "it is not empty and is not a search folder; expected a new one"
        if problem is not None:
            raise JobError([Problem("--out", self.address, problem)])

    def _local_problem(self) -> str | None:
        folder = self.local
        try:
            above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        except OSError as error:
            return f"{error.strerror}; expected another folder"
        if above == folder and not self.has_search() and not _is_empty(folder):
            return "it exists and is not a search folder; expected a new one"
        return room_problem(folder)

    def create(self, job: Mapping[str, Any], provenance: Mapping[str, Any]) -> Ledger:
        """Starts the record of a search; there must be none yet."""
        if self.remote is None:
            return Ledger.create(self.local, job, provenance)
        shutil.rmtree(self.local, ignore_errors=True)
        ledger = Ledger.create(self.local, job, provenance)
        ledger.record = RemoteRecord(self.remote)
        ledger.record.take_over()
        ledger.store_copy()
        return ledger

    def open(self, *, read_only: bool = False) -> Ledger:
        """Opens the record of a search.

        Raises:
            LedgerError: If there is none that can be used; for writing, also if it is damaged or another process is
                writing it.
        """
        if self.remote is None:
            if not read_only:
                with Ledger.open(self.local, read_only=True) as ledger:
                    ledger.check_whole()  # before it is opened for writing, which would change what is damaged
            return Ledger.open(self.local, read_only=read_only)
        # A command that reads the ledger before it writes it fetches only what is new the second time.
        record = self._pulled or RemoteRecord(self.remote)
        self._pulled = record if read_only else None
        if not record.exists:
            raise LedgerError(
                f"{self.address}: no ledger there; expected a search folder, as `tune-jobs run` writes it"
            )
        if not read_only:
            record.take_over()
        record.pull(self.local)
        ledger = Ledger.open(self.local, read_only=read_only)
        if not read_only:
            ledger.check_whole()
            ledger.record = record
        return ledger

    def check_unused(self) -> None:
        """Raises LedgerError if another process on this machine is writing the search."""
        if self.remote is None:
            Ledger.open(self.local).close()

    def delete(self) -> None:
        """Deletes the search, unless another process is writing it."""
        self.check_unused()
        if self.remote is None:
            shutil.rmtree(self.local)
            return
        for below in ("ledger", "checkpoints", "logs", "parquet", ""):
            names = self.remote.names(below)
            self.remote.delete(f"{below}/{name}".lstrip("/") for name in names)

    def publish(self) -> None:
        """Stores what was written beside the ledger."""
        if self.remote is None:
            return
        if (self.local / FOLDER_NAME).is_dir():
            shutil.make_archive(str(self.local / FOLDER_NAME), "zip", self.local / FOLDER_NAME)
        for name in (*_PUBLISHED, _PARQUET[-1], _CODE):
            if (self.local / name).is_file():
                self.remote.push(self.local / name, name)

    def fetch_code(self) -> None:
        """Copies the code of the user's own that a remote search keeps to this machine."""
        if self.remote is not None and self.remote.pull(_CODE, self.local / _CODE):
            with zipfile.ZipFile(self.local / _CODE) as packed:
                packed.extractall(self.local / FOLDER_NAME)

    def results(self) -> Path:
        """Returns a folder on this machine with the search's Parquet files.

        Raises:
            ResultsError: If there are none at an address.
        """
        if self.remote is not None:
            for name in _PARQUET:
                if not self.remote.pull(name, self.local / name):
                    text = "no such object; expected a search folder with exported results"
                    raise ResultsError(f"{self.address}/{name}: {text}")
        return self.local


def search_folder(job: JobSpec, out: str | Path | None = None) -> SearchFolder:
    """Returns the folder for a job's search: `out`, or the job's name below its storage."""
    if out is not None:
        return SearchFolder(out, writes=True)
    if is_address(job.storage):
        return SearchFolder(f"{job.storage.rstrip('/')}/{job.name}", writes=True)
    return SearchFolder(Path(job.storage).expanduser() / job.name, writes=True)


def check_folder(job: JobSpec, folder: SearchFolder) -> bool:
    """Returns whether `folder` already holds this very search, finished or not.

    Raises:
        JobError: If it holds another job, or files that are not a search's.
    """
    folder.check_usable()
    if not folder.has_search():
        return False
    with folder.open(read_only=True) as ledger:
        other, num_started = ledger.job, len(ledger.trials())
    same, _ = check_job(other)  # an earlier version's may lack settings that have come since
    if same is None:
        name = show(other.get("name"))
        problem: str | None = (
            f"it holds another job ({name}), which this version cannot run; expected another folder"
        )
    else:
        problem = another_job(same, job, num_started, folder.address)
    if problem is not None:
        raise JobError([Problem("--out", folder.address, problem)])
    return True


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(map(_is_of_use, folder.iterdir()))


def _is_of_use(path: Path) -> bool:
    """Whether a file is more than a half-made ledger, left by a process that was killed."""
    return not path.name.startswith(f".{FILE_NAME}.")


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 become halves of surrogate pairs
        return False
    return True
