"""How a running search stops: why, since when, and what SIGINT (Ctrl-C) and SIGTERM (`ray job stop`) do to it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

from tune_jobs.errors import EXIT_INTERRUPTED
from tune_jobs.search.folder import SearchFolder

StopKind = Literal["signal", "budget", "error", "repack"]

WIND_DOWN_S = 15.0  # that running epochs have to end, once a search is stopped
_SHOW_CURSOR = "\x1b[?25h"
KILLS_WITHIN_S = 3.0  # that the scheduler has on top to kill workers whose epoch has not ended


@dataclass(frozen=True)
class _Stop:
    reason: str
    kind: StopKind
    since_s: float


class WindDown:
    """Whether a search is stopping. From then on no trial starts or continues, and running epochs may end.

    The first reason counts, except that a signal replaces any other: it is what the user asked for.
    """

    def __init__(self) -> None:
        # A signal may arrive between any two lines, so it has an attribute of its own that nothing clears.
        self._by_signal: _Stop | None = None
        self._by_search: _Stop | None = None

    def begin(self, reason: str, kind: StopKind) -> None:
        """Stops the search.

        Args:
            kind: A signal; a budget that is used up; an error that concerns all trials; or a GPU with too many
                trials, after which the search continues by itself with fewer (`repack`).
        """
        stop = _Stop(reason, kind, time.monotonic())
        if kind == "signal":
            self._by_signal = stop
        elif self._by_search is None:
            self._by_search = stop

    def end_repack(self) -> None:
        """Lets the search continue with fewer trials to a GPU, unless there is another reason to stop."""
        if self._by_search is not None and self._by_search.kind == "repack":
            self._by_search = None

    @property
    def _current(self) -> _Stop | None:
        return self._by_signal or self._by_search

    @property
    def has_begun(self) -> bool:
        """Whether the search is stopping."""
        return self._current is not None

    @property
    def reason(self) -> str | None:
        """Why the search is stopping; None if it is not."""
        return self._current.reason if self._current else None

    @property
    def kind(self) -> StopKind | None:
        """What kind of reason that is; None if the search is not stopping."""
        return self._current.kind if self._current else None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the search was told to stop; 0 if it was not."""
        return time.monotonic() - self._current.since_s if self._current else 0.0

    @property
    def is_time_to_kill(self) -> bool:
        """Whether running epochs had the time they were promised."""
        return self.elapsed_s > WIND_DOWN_S

    def is_done(self, num_training: int) -> bool:
        """Returns whether the run can end.

        Trials that are still starting are not waited for: they have no epoch to end, and may take long to get to one.
        """
        return self.has_begun and (num_training == 0 or self.elapsed_s > WIND_DOWN_S + KILLS_WITHIN_S)


@contextmanager
def stopped_by_signals(wind_down: WindDown, folder: SearchFolder) -> Iterator[Callable[[], None]]:
    """Inside, the first signal stops the search and the second ends the process.

    Does nothing in any thread but the main one, where Python allows no handlers.

    Yields:
        A function that installs the handlers again, after somebody else replaced them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if wind_down.kind == "signal":
            say(f"Ended at once. Nothing recorded is lost. {folder.resume_hint}", is_last=True)
            os._exit(EXIT_INTERRUPTED)
        wind_down.begin(f"interrupted by {signal.Signals(number).name}", "signal")
        say(f"Stopping: running epochs have {WIND_DOWN_S:.0f} s to end. The same signal again ends at once.")

    def listen() -> None:
        for number in before:
            signal.signal(number, handle)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    listen()
    try:
        yield listen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt as SIGINT does; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_show: Callable[[str], None] | None = None


def show_with(show: Callable[[str], None] | None) -> None:
    """Has a live display show what is said, which would write over what it is told beside it; None ends that.

    It is called in a signal handler, so it may only take note of the text.
    """
    global _show
    _show = show


def say(text: str, *, is_last: bool = False) -> None:
    """Writes to standard error, or has a live display show it; unlike print, safe inside a signal handler.

    Args:
        is_last: Whether the process ends now, so that nothing is shown any more.
    """
    if _show is not None and not is_last:
        _show(text)
        return
    cursor = _SHOW_CURSOR if _show is not None else ""  # which a live display has hidden
    os.write(2, f"{cursor}\n{text}\n".encode())
