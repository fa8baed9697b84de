"""Keeps trackers up to date beside a running search, in threads that the search never waits for."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tune_jobs.errors import TuneJobsError
from tune_jobs.trackers.catch_up import catch_up
from tune_jobs.trackers.targets import Kind, asked_for, make_tracker, shown_target
from tune_jobs.trackers.tracker import Tracker
from tune_jobs.trackers.turns import turn
from tune_jobs.wording import command_for, last_line

_logger = logging.getLogger(__name__)

_EVERY_S = 3.0
_SHARE = 0.1  # of a core: with a large ledger, passes come less often
_LAST_PASS_S = 60.0

WritePage = Callable[[Sequence[Path], Path, Sequence[str]], Path]
"""Writes the report of search folders to a file: `tune_jobs.report.write.write_page`."""


class Followed:
    """The trackers of a running search.

    Attributes:
        write_page: Set it to have the search's report attached by the last pass.
    """

    def __init__(self) -> None:
        self.write_page: WritePage | None = None


@contextmanager
def followed(job: Mapping[str, Any], folder: Path, address: str) -> Iterator[Followed]:
    """Inside, the trackers that a job asks for follow its ledger; at the end each catches up a last time.

    A tracker that is down is told once, and holds nothing up: what it lacks is written when it is back, by the next
    session, or by `tune-jobs export`.

    Args:
        folder: The search folder on this machine.
        address: Where the search is, as users write it.
    """
    followers = [_Follower(kind, target, folder, address) for kind, target in asked_for(job).items()]
    for follower in followers:
        follower.start()
    trackers = Followed()
    with TemporaryDirectory(prefix="tune-jobs-report-", ignore_cleanup_errors=True) as scratch:
        try:
            yield trackers
        finally:
            if followers and trackers.write_page is not None:
                page = _page(trackers.write_page, folder, Path(scratch) / "report.html", address)
                for follower in followers:
                    follower.page = page
            until = time.monotonic() + _LAST_PASS_S
            for follower in followers:
                follower.is_over.set()
            for follower in followers:
                follower.finish(until)


def _page(write_page: WritePage, folder: Path, file: Path, address: str) -> Path | None:
    try:
        return write_page([folder], file, [address])
    except Exception as error:  # the search has ended well, and its report can be made again
        problem = last_line(str(error)) or type(error).__name__
        _logger.warning("The trackers get no report: %s", problem)
        return None


class _Follower(threading.Thread):
    def __init__(self, kind: Kind, target: str, folder: Path, address: str) -> None:
        super().__init__(
            name=f"tracker-{kind}", daemon=True
        )  # a tracker that hangs does not hold the process
        self._kind, self._target, self._folder, self._address = kind, target, folder, address
        self._tracker: Tracker | None = None
        self._is_told = False
        self._is_up_to_date = False
        self.is_over = threading.Event()
        self.page: Path | None = None  # for the last pass

    def run(self) -> None:
        """Catches up again and again; once more after the search is over."""
        try:
            with turn(self._folder, self._kind):
                while True:
                    is_last, started = self.is_over.is_set(), time.monotonic()
                    self._is_up_to_date = self._pass()
                    if is_last:
                        break
                    self.is_over.wait(max(_EVERY_S, (time.monotonic() - started) / _SHARE))
                if self._tracker is not None:
                    self._tracker.close()
        except Exception as error:
            self._is_up_to_date = False
            self._tell(error)

    def finish(self, until: float) -> None:
        """Waits for the last pass, unless the tracker is down, and says how to send what it lacks."""
        self.join(max(0.0, until - time.monotonic()) if not self._is_told else 5.0)
        if self.is_alive() or not self._is_up_to_date:
            command = command_for("export", self._address, f" --to {self._kind}")
            _logger.warning("%s has not got all of the search. Send the rest with: %s", self._kind, command)

    def _pass(self) -> bool:
        try:
            if self._tracker is None:
                self._tracker = make_tracker(self._kind, self._target, self._folder)
            catch_up(self._tracker, self._folder, self.page if self.is_over.is_set() else None)
        except Exception as error:  # whatever it is, the search goes on
            self._tell(error)
            if self._tracker is not None:
                self._forget(self._tracker)
            return False
        if self._is_told:
            self._is_told = False
            _logger.warning("%s answers again and has caught up.", self._kind)
        return True

    def _forget(self, tracker: Tracker) -> None:
        """Drops what this process believes of the tracker, so that the next pass asks it."""
        try:
            tracker.close()
        except Exception:
            self._tracker = None

    def _tell(self, error: Exception) -> None:
        if self._is_told:
            return
        self._is_told = True
        if isinstance(error, TuneJobsError):
            _logger.warning("%s", error)
            return
        _logger.warning(
            "%s does not take the search at %s: %s. The search goes on; what is missing is sent later.",
            self._kind,
            shown_target(self._kind, self._target, self._folder),
            last_line(str(error)) or type(error).__name__,
        )
