"""Makes standard output and error last: closed, full, without a reader or of any encoding, they interrupt no work."""

import codecs
import errno
import io
import os
import select
import sys
from typing import Any, TextIO

_ERRORS = "tune_jobs.plain"
_PLAIN = {"–": "-", "−": "-", "×": "x", "±": "+-", "…": "...", "’": "'", "ρ": "rho", "σ": "sigma"}


def make_lasting() -> None:
    """Replaces this process's standard streams by ones whose failures do not interrupt what is printing.

    Streams that somebody else has put in their place, as a notebook does, stay.
    """
    # Else the next file that is opened, perhaps a ledger, would take the number of the closed stream.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    codecs.register_error(_ERRORS, _plain)
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  # open for as long as the process
        elif stream is getattr(sys, f"__{name}__") and not isinstance(stream, _Lasting):
            setattr(sys, name, _Lasting(stream))


def lost_output() -> str | None:
    """Returns why standard output has lost something; None if it has not, or if its reader has gone."""
    if not isinstance(sys.stdout, _Lasting):
        return None
    sys.stdout.flush()
    failure = sys.stdout.lasting.failure
    return None if failure is None or failure.errno == errno.EPIPE else str(failure.strerror)


class _Lasting(io.TextIOWrapper):
    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        self.lasting = _LastingBytes(stream.fileno())
        super().__init__(
            io.BufferedWriter(self.lasting),
            encoding=stream.encoding,
            errors=_ERRORS,
            line_buffering=stream.isatty() or stream is sys.__stderr__,
        )


class _LastingBytes(io.RawIOBase):
    """The bytes of a stream; once it has failed, what is written is dropped."""

    failure: OSError | None = None

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        while self.failure is None:
            try:
                return os.write(self._number, data)
            except BlockingIOError:  # a pipe that its other owner has set to be non-blocking
                select.select([], [self._number], [])
            except OSError as error:
                self.failure = error
        return size

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def close(self) -> None:
        """Leaves the stream open: it belongs to the process."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replaces what an encoding cannot hold, as an error handler for `codecs`."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_PLAIN.get(char, "?") for char in error.object[error.start : error.end]), error.end
