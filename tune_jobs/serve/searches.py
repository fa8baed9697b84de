"""Finds the searches below some folders, and keeps what their ledgers say up to date."""

import hashlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, RLock

from tune_jobs.errors import LedgerError, StorageError
from tune_jobs.ledger.file import FILE_NAME
from tune_jobs.ledger.mirror import RemoteRecord
from tune_jobs.results.live import LiveResults
from tune_jobs.results.log_lines import FOLDER_NAME as LOGS
from tune_jobs.results.log_lines import files_of, last_lines
from tune_jobs.serve.summary import Summary, summarize
from tune_jobs.serve.writer import writer_of
from tune_jobs.storage import RemoteFolder, is_address

_DEEPEST = 4  # folders below those given
_MOST = 1000  # searches
_EVERY_S, _EVERY_REMOTELY_S, _FIND_EVERY_S = 0.5, 10.0, 2.0
_LONGEST_READ_S = 0.7  # of a long ledger, so that whoever waits sees how far it is


class Search:
    """A search that is watched.

    Attributes:
        address: Where it is.
        id: What addresses of the server call it.
        live: What its ledger says.
        summary: The same in a few numbers; None before anything could be read.
        problem: Why its ledger cannot be read; None if it can be.
        pid: Its driver, if that runs on this machine.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.id = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self._remote = RemoteFolder(address) if is_address(address) else None
        self._record = None if self._remote is None else RemoteRecord(self._remote)
        self.live = LiveResults(Path(address) if self._record is None else _copy_folder())
        self.summary: Summary | None = None
        self.problem: str | None = None
        self.pid: int | None = None
        self._lock = RLock()
        self._read_s = -float("inf")
        self._lines_s: dict[str, float] = {}  # when a trial's lines were last fetched from a store

    @property
    def name(self) -> str:
        """Its folder's name."""
        return Path(self.address).name

    @contextmanager
    def held(self, wait_s: float = -1) -> Iterator[bool]:
        """Inside, no other thread changes `live`; yields whether that could be had within a time."""
        is_held = self._lock.acquire(timeout=wait_s)
        try:
            yield is_held
        finally:
            if is_held:
                self._lock.release()

    def lines_of(self, trial_id: str, most: int) -> list[str]:
        """Returns the last lines that a trial printed."""
        folder, now_s = self.live.folder, time.monotonic()
        if self._remote is not None and now_s - self._lines_s.get(trial_id, -math.inf) > _EVERY_REMOTELY_S:
            self._lines_s[trial_id] = now_s
            for name in files_of(trial_id):
                with suppress(StorageError):
                    self._remote.pull(f"{LOGS}/{name}", folder / LOGS / name)
        return last_lines(folder, trial_id, most)

    def close(self) -> None:
        """Removes the copy of a ledger in an object store."""
        if self._record is not None:
            shutil.rmtree(self.live.folder.parent, ignore_errors=True)

    def refresh(self) -> None:
        """Reads what is new, unless that was done just before; any thread may call it."""
        every = _EVERY_S if self._record is None else _EVERY_REMOTELY_S
        with self._lock:
            if time.monotonic() - self._read_s < every and self.live.is_complete:
                return
            try:
                self._read()
                self.problem = None
            except (LedgerError, StorageError) as problem:
                self.problem = str(problem)
            self._read_s = time.monotonic()

    def _read(self) -> None:
        if self._record is not None:
            self._record.pull(self.live.folder)
        until = time.monotonic() + _LONGEST_READ_S
        while self.live.update() and not self.live.is_complete and time.monotonic() < until:
            pass
        self.pid = None if self._record is not None else writer_of(self.live.folder)
        self.summary = summarize(self.live, self.pid, can_tell=self._record is None)


class Searches:
    """The searches below some folders, found again every two seconds; any thread may use it."""

    def __init__(self, folders: Sequence[str]) -> None:
        self.folders = list(folders)
        self._known: dict[str, Search] = {}
        self._lock = Lock()
        self._found_s = -float("inf")

    def all(self) -> list[Search]:
        """Returns all searches, those of a folder in the order of their names."""
        with self._lock:
            if time.monotonic() - self._found_s > _FIND_EVERY_S:
                addresses = {address: None for folder in self.folders for address in _below(folder)}
                known = {search.address: search for search in self._known.values()}
                searches = [known.get(address) or Search(address) for address in list(addresses)[:_MOST]]
                self._known = {search.id: search for search in searches}
                self._found_s = time.monotonic()
            return list(self._known.values())

    def find(self, search_id: str) -> Search | None:
        """Returns the search with an id of the list; no text leads to any other folder."""
        self.all()
        return self._known.get(search_id)

    def close(self) -> None:
        """Removes the copies of ledgers in object stores."""
        for search in self._known.values():
            search.close()


def _below(folder: str) -> Iterator[str]:
    if is_address(folder):
        yield from _remote_below(RemoteFolder(folder))
        return
    top = Path(folder).expanduser().absolute()
    for path, folders, files in os.walk(top):
        if FILE_NAME in files:
            yield path
            folders.clear()
        depth = len(Path(path).relative_to(top).parts)
        folders[:] = [] if depth >= _DEEPEST else sorted(name for name in folders if not name.startswith("."))


def _remote_below(remote: RemoteFolder) -> Iterator[str]:
    try:
        if RemoteRecord(remote).exists:
            yield remote.address
            return
        for name in remote.folders():
            address = f"{remote.address}/{name}"
            if RemoteRecord(RemoteFolder(address)).exists:
                yield address
    except StorageError:
        return


def _copy_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="tune-jobs-serve-")) / "search"
