"""Packs the code of our two packages and the job file, which is all that a cluster needs to run a job."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import tune_jobs
import zsharp
from tune_jobs.errors import JobError, Problem
from tune_jobs.provenance import SENT_FROM, git_state
from tune_jobs.submit.protocol import JOB_FILE

LIMIT_BYTES = 100 * 2**20  # Ray's job server refuses an upload of this size or more

_CODE = {".py", ".yaml", ".css", ".js", ".typed"}
_ROOTS = tuple(Path(str(package.__file__)).parent for package in (zsharp, tune_jobs))
# Without the files' own times, equal code gives equal archives, and Ray uploads each only once.
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_NUM_NAMED = 5


def pack_code(
    archive: Path, job: str | None = None, roots: tuple[Path, ...] = _ROOTS, limit_bytes: int = LIMIT_BYTES
) -> None:
    """Writes a zip file with the packages' code and its commit, and the job as `job.yaml` if one is given.

    Only code is packed: no data, no `.git`, no hidden files, no symbolic links.

    Raises:
        JobError: If the archive is too large; the message names the largest files.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, file in code_files(roots):
            _add(packed, name, file.read_bytes())
        _add(packed, f"tune_jobs/{SENT_FROM}", json.dumps(git_state(Path(tune_jobs.__file__))).encode())
        if job is not None:
            _add(packed, JOB_FILE, job.encode())
        entries = packed.infolist()
    size = archive.stat().st_size
    if size >= limit_bytes:
        largest = sorted(entries, key=lambda entry: -entry.compress_size)[:_NUM_NAMED]
        names = ", ".join(f"{entry.filename} ({_mib(entry.compress_size)})" for entry in largest)
        message = f"Ray takes less than {_mib(limit_bytes)}, so nothing was sent; largest: {names}"
        raise JobError([Problem("upload", _mib(size), message)])


def code_files(roots: tuple[Path, ...] = _ROOTS) -> Iterator[tuple[str, Path]]:
    """Yields the files that `pack_code` packs, each with its name in the archive."""
    for root in roots:
        for file in sorted(root.rglob("*")):
            relative = file.relative_to(root)
            is_hidden = any(part.startswith((".", "__pycache__")) for part in relative.parts)
            if file.suffix in _CODE and not is_hidden and file.is_file() and not file.is_symlink():
                yield (root.name / relative).as_posix(), file


def _add(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.external_attr = 0o644 << 16
    packed.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
