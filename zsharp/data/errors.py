"""The error for bad data: which file, what is in it, and what is expected."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DataError(ValueError):
    """A data set is missing, damaged, mislabelled or unknown. The message names the file and a remedy."""


def data_error(where: str | Path, problem: str, expected: str) -> DataError:
    """Returns the error for one file (or folder, or row of a file)."""
    return DataError(f"{where}: {problem}; expected {expected}")


@contextmanager
def parsing(where: str | Path, expected: str) -> Iterator[None]:
    """Turns whatever a parser raises on a damaged file into a `DataError` that names the file."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # parsers document no closed list: pickle alone can raise nearly anything
        detail = str(error).partition("\n")[0]
        raise data_error(where, f"cannot be read ({type(error).__name__}: {detail})", expected) from error
