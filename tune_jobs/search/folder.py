"""A search folder, on a disk or at an address: what is in it, and how it is opened."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tune_jobs.errors import JobError, LedgerError, Problem
from tune_jobs.ledger.mirror import RemoteRecord
from tune_jobs.ledger.writer import FILE_NAME, Ledger
from tune_jobs.storage import RemoteFolder, is_address

_PUBLISHED = ("job.yaml", "optuna.journal", "parquet/trials.parquet", "parquet/epochs.parquet")
_PARQUET = (*_PUBLISHED[2:], "parquet/confirmations.parquet")


class SearchFolder:
    """A search folder.

    Args:
        place: A path, or an address such as `s3://bucket/folder`.
        writes: Whether this process is to write the search; readers of a remote one get copies of their own.

    Attributes:
        local: Where this process reads and writes its files: the folder itself, or a copy on this machine.

    Raises:
        JobError: If an address is malformed or holds credentials.
    """

    def __init__(self, place: str | Path, *, writes: bool = False) -> None:
        self.place = str(place)
        self.remote = RemoteFolder(self.place) if is_address(place) else None
        if self.remote is None:
            self.local = Path(place)
        else:
            self.local = _working_folder(self.remote, writes) / Path(self.place).name

    def __str__(self) -> str:
        return self.place

    def has_search(self) -> bool:
        """Whether there is a ledger."""
        if self.remote is not None:
            return RemoteRecord(self.remote).exists
        return (self.local / FILE_NAME).is_file()

    def check_usable(self) -> None:
        """Raises JobError if a search can be neither here nor be begun here."""
        problem = self._local_problem() if self.remote is None else None
        if self.remote is not None and not self.has_search() and self.remote.names():
            problem = "it is not empty and is not a search folder; expected a new one"
        if problem is not None:
            raise JobError([Problem("--out", self.place, problem)])

    def _local_problem(self) -> str | None:
        folder = self.local
        try:
            above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        except OSError as error:
            return f"{error.strerror}; expected another place"
        if above != folder:
            is_fine = above.is_dir() and os.access(above, os.W_OK)
            return None if is_fine else f"no folder can be made in {above}; expected another place"
        if self.has_search() or (folder.is_dir() and not any(map(_is_of_use, folder.iterdir()))):
            return None
        return "it exists and is not a search folder; expected a new one"

    def create(self, job: Mapping[str, Any], provenance: Mapping[str, Any]) -> Ledger:
        """Starts the record of a search; there must be none."""
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
            LedgerError: If there is none that can be used.
        """
        if self.remote is None:
            return Ledger.open(self.local, read_only=read_only)
        record = RemoteRecord(self.remote)
        if not record.exists:
            raise LedgerError(
                f"{self.place}: no ledger there; expected a search folder, as `tune-jobs run` writes it"
            )
        if not read_only:
            record.take_over()
        record.pull(self.local)
        ledger = Ledger.open(self.local, read_only=read_only)
        if not read_only:
            ledger.record = record
        return ledger

    def delete(self) -> None:
        """Deletes the search that is here, unless another process writes it."""
        if self.remote is None:
            Ledger.open(self.local).close()  # refuses while another process writes it
            shutil.rmtree(self.local)
            return
        for below in ("ledger", "checkpoints", "parquet", ""):
            names = self.remote.names(below)
            self.remote.delete(f"{below}/{name}".lstrip("/") for name in names)

    def publish(self) -> None:
        """Stores what was written beside the ledger."""
        if self.remote is None:
            return
        for name in (*_PUBLISHED, _PARQUET[-1]):
            if (self.local / name).is_file():
                self.remote.push(self.local / name, name)

    def results(self) -> Path:
        """Returns a folder of this machine that has the search's Parquet files."""
        if self.remote is not None:
            for name in _PARQUET:
                self.remote.pull(name, self.local / name)
        return self.local


def _working_folder(remote: RemoteFolder, writes: bool) -> Path:
    if writes:
        return remote.cache
    remote.cache.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(prefix="read-", dir=remote.cache))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    return copy


def _is_of_use(path: Path) -> bool:
    """Whether a file is more than the ledger that a process was killed while it made."""
    return not path.name.startswith(f".{FILE_NAME}.")
