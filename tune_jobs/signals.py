"""What SIGINT (Ctrl-C) and SIGTERM (`ray job stop`) do to a running search."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tune_jobs.recorder import Recorder

EXIT_INTERRUPTED = 130
WIND_DOWN_S = 20.0  # that running epochs have to end, once a search is stopped


@contextmanager
def stopped_by_signals(recorder: Recorder) -> Iterator[None]:
    """Winds the search down at the first signal inside, and ends the process at the second.

    Does nothing in any thread but the main one, where Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if recorder.stop_kind == "signal":
            _say("Ended at once; the ledger is whole.")
            os._exit(EXIT_INTERRUPTED)
        recorder.stop(f"interrupted by {signal.Signals(number).name}", "signal")
        _say(f"Stopping: running epochs have {WIND_DOWN_S:.0f} s to end. The same signal again ends at once.")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
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


def _say(text: str) -> None:
    """Unlike print, safe whatever the signal interrupted."""
    os.write(2, f"\n{text}\n".encode())
