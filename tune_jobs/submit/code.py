"""Packs what a cluster needs to run a job: the code of our two packages, the job file, and the user's own code."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import tune_jobs
import zsharp
from tune_jobs.errors import JobError, Problem
from tune_jobs.job.code import FOLDER_NAME as OWN_FOLDER
from tune_jobs.ledger.file import FILE_NAME as LEDGER_FILE
from tune_jobs.provenance import SENT_FROM, git_state
from tune_jobs.submit.protocol import JOB_FILE

LIMIT_BYTES = 100 * 2**20  # Ray's job server refuses an upload of this size or more

_CODE = {".py", ".yaml", ".css", ".js", ".typed"}
_OWN_CODE = {".py", ".pyi", ".yaml", ".yml", ".json", ".toml", ".txt", ".cfg", ".ini"}
_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")  # what is in a folder that holds an environment
_ROOTS = tuple(Path(str(package.__file__)).parent for package in (zsharp, tune_jobs))
# Without the files' own times, equal code gives equal archives, and Ray uploads each only once.
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_NUM_NAMED = 5


def pack_code(
    archive: Path,
    job: str | None = None,
    roots: tuple[Path, ...] = _ROOTS,
    limit_bytes: int = LIMIT_BYTES,
    own: Sequence[str] = (),
) -> None:
    """Writes a zip file with the packages' code and its commit, and the job as `job.yaml` if one is given.

    Only code is packed: no data, no `.git`, no hidden files, no symbolic links.

    Args:
        own: Folders of the user's own code, packed as `code/0`, `code/1` and so on, without environments in them and
            without search folders.

    Raises:
        JobError: If the archive is too large; the message names the largest files.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, file in code_files(roots):
            _add(packed, name, file.read_bytes())
        _add(packed, f"tune_jobs/{SENT_FROM}", json.dumps(git_state(Path(tune_jobs.__file__))).encode())
        if job is not None:
            _add(packed, JOB_FILE, job.encode())
        for number, folder in enumerate(own):
            for name, file in own_files(Path(folder)):
                _add(packed, f"{OWN_FOLDER}/{number}/{name}", file.read_bytes())
                _check_size(archive, packed, limit_bytes)
    _check_size(archive, packed, limit_bytes)


def _check_size(archive: Path, packed: zipfile.ZipFile, limit_bytes: int) -> None:
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


def own_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the files of a folder of the user's own that are sent, each with its path in it."""
    below = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__pycache__")) or path.is_symlink():
            continue
        if path.is_dir():
            below.append(path)
        elif path.suffix in _OWN_CODE and path.is_file():
            yield path.name, path
    for path in below:
        is_search = (path / LEDGER_FILE).exists()
        if not is_search and not any((path / name).exists() for name in _ENVIRONMENTS):
            for name, file in own_files(path):
                yield f"{path.name}/{name}", file


def _add(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.external_attr = 0o644 << 16
    packed.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
