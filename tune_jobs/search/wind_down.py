"""What SIGINT (Ctrl-C) and SIGTERM (`ray job stop`) do to a running search."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tune_jobs.search.recorder import Recorder

EXIT_INTERRUPTED = 130
WIND_DOWN_S = 15.0  # that running epochs have to end, once a search is stopped


@contextmanager
def stopped_by_signals(recorder: Recorder) -> Iterator[Callable[[], None]]:
    """Winds the search down at the first signal inside, and ends the process at the second.

    Does nothing in any thread but the main one, where Python allows no handlers.

    Yields:
        What makes it listen again, after somebody else took the signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if recorder.stop_kind == "signal":
            say(f"Ended at once. {goes_on}")
            os._exit(EXIT_INTERRUPTED)
        recorder.stop(f"interrupted by {signal.Signals(number).name}", "signal")
        say(f"Stopping: running epochs have {WIND_DOWN_S:.0f} s to end. The same signal again ends at once.")

    def listen() -> None:
        for number in before:
            signal.signal(number, handle)

    goes_on = f"The ledger is whole; it goes on with: tune-jobs resume {recorder.ledger.file.parent}"
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


def say(text: str) -> None:
    """Unlike print, safe whatever the signal interrupted."""
    os.write(2, f"\n{text}\n".encode())
