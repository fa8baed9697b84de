"""Keeps the lines that a trial prints: beside Ray's log of its worker, in `logs/` of the search folder."""

import atexit
import logging
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, TextIO

from tune_jobs.errors import StorageError
from tune_jobs.results.log_lines import FOLDER_NAME, files_of
from tune_jobs.search.folder import SearchFolder

_MOST_BYTES = 128 * 1024  # of a file; a trial has two at most, the last lines and those before


class TrialLog:
    """Copies what this process prints, in any thread, to the log of the trial that it trains.

    A log that cannot be written does not disturb the training: its lines are dropped.

    Args:
        folder: The search folder.
    """

    def __init__(self, folder: SearchFolder) -> None:
        self._remote = folder.remote
        if self._remote is None:
            self._folder = folder.local / FOLDER_NAME
        else:
            self._folder = Path(tempfile.mkdtemp(prefix="tune-jobs-logs-"))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        self._trial_id: str | None = None
        self._handler: _Lines | None = None
        self._has_more = False  # than the object store
        for name in ("stdout", "stderr"):
            setattr(sys, name, _Copied(name, self._add))

    def begin(self, trial_id: str) -> None:
        """Copies to the log of this trial from now on; what an earlier attempt left on the same disk stays."""
        self.end()
        (file, *_) = files_of(trial_id)
        self._handler = _Lines(self._folder / file, maxBytes=_MOST_BYTES, backupCount=1, delay=True)
        form = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
        form.converter = time.gmtime  # workers may be anywhere
        self._handler.setFormatter(form)
        self._trial_id = trial_id

    def store(self) -> None:
        """Stores what is new in an object store, if the search is in one."""
        if self._remote is None or self._trial_id is None or not self._has_more:
            return
        self._has_more = False
        for file in files_of(self._trial_id):
            if (self._folder / file).exists():
                with suppress(StorageError, OSError):
                    self._remote.push(self._folder / file, f"{FOLDER_NAME}/{file}")

    def end(self) -> None:
        """Copies nothing until the next trial begins."""
        self.store()
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.close()

    def _add(self, line: str) -> None:
        if (handler := self._handler) is None:
            return
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)  # a search folder that is gone is not made again
            handler.handle(logging.LogRecord("", logging.INFO, "", 0, line, None, None))
            self._has_more = True


class _Lines(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Drops the line; logging would print that, which would be a line again."""


class _Copied:
    """One of this process's streams, whose whole lines are also passed to a function."""

    def __init__(self, name: str, add: Callable[[str], None]) -> None:
        self._name, self._add = name, add
        self._stream: TextIO = getattr(sys, name)
        self._rest = threading.local()  # of each thread its own, so that their lines do not mix

    def write(self, text: str) -> int:
        """Writes text, and passes on the lines that it completes."""
        *lines, rest = (getattr(self._rest, "text", "") + text).split("\n")
        for line in lines:
            if line.strip():
                self._add(line.rpartition("\r")[2])  # what a progress bar leaves
        self._rest.text = rest[-10_000:]
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __reduce__(self) -> Any:
        """In another process it is that one's own stream."""
        return getattr, (sys, self._name)
