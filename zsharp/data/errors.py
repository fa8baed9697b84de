"""The one error that data raise: which file, what was found, what is expected."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class DataError(ValueError):
    """A data set is missing, damaged, mislabelled or unknown; the message names the file and the remedy."""


def data_error(where: str | Path, found: str, expected: str) -> DataError:
    """Returns the error for one file (or folder, or row of a file)."""
    return DataError(f"{where}: {found}; expected {expected}")


@contextmanager
def parsing(where: str | Path, expected: str) -> Iterator[None]:
    """Turns whatever a third-party parser raises on a damaged file into a `DataError` that names the file.

    Parsers document no closed list of errors (pickle alone can raise nearly anything), hence the wide net.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        detail = str(error).partition("\n")[0]
        raise data_error(where, f"cannot be read ({type(error).__name__}: {detail})", expected) from error
