"""Writes a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yields a temporary path beside `file`; what you write there replaces `file` when the block ends.

    If the block raises, `file` stays as it was and the temporary file is removed. If the process is killed,
    `file` is untouched and a file `.NAME.*.tmp` may remain.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "answer.txt"
        >>> with atomic_write(file) as unfinished:
        ...     _ = unfinished.write_text("42")
        >>> file.read_text()
        '42'
    """
    # Threads, and machines that share a folder, can write the same file at once: a process id is not enough.
    unfinished = file.with_name(f".{file.name}.{uuid4().hex[:16]}.tmp")
    try:
        yield unfinished
        # The content must reach the disk before the new name does, or power loss leaves an empty file.
        with unfinished.open("rb+") as written:
            os.fsync(written.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
