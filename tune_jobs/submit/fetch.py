"""Fetches a submitted search's Parquet files and report through the cluster's job server."""

import base64
import hashlib
import io
import json
import os
import re
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tune_jobs.errors import ClusterError, JobError, Problem
from tune_jobs.submit.client import Cluster, answers
from tune_jobs.submit.protocol import END, ENVIRONMENT, FAILED, FILES, FOLDER, LEDGER, MAX_BYTES, PART, PYTHON
from tune_jobs.submit.submit import interpreter, start
from tune_jobs.submit.watch import ENDED, details, logs
from zsharp.atomic import atomic_write
from zsharp.data.limits import read_regular

_LOOK_EVERY_S = 0.5
_PACKED_WITHIN_S = 1800.0  # Ray may have to build an environment first
_LONGEST_SHOWN = 200
_LONGEST_REASON = 1000
_LARGEST_ENVIRONMENT = 64 * 1024
# What `submit` stores: an image's address, or our requirements with their versions. Ray's client would read anything
# else from this machine: folders for `working_dir` and `py_modules`, files for `pip` and `conda`.
_IMAGE = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,499}", re.ASCII)
_PINNED = re.compile(r"[A-Za-z0-9][\w.-]{0,99}==[\w.!+-]{1,99}", re.ASCII)
_MAX_UNPACKED_BYTES = 16 * MAX_BYTES
_RECORD = ".fetched.json"  # in the target: the hashes of what `fetch` wrote there, by name
_LARGEST_RECORD_BYTES = 2**16


def fetch(cluster: Cluster, job_id: str, target: Path, *, with_ledger: bool = False) -> list[Path]:
    """Writes a search's files into the folder `target` and returns them; the search may still be running.

    A job server offers no files, only logs. So a small Ray job on the cluster packs the files and prints them to its
    log as text.

    Args:
        with_ledger: Whether to fetch the ledger too, from which all else can be made again.

    Raises:
        JobError: If there is no such job, or `tune-jobs submit` did not start it, or files would be replaced that
            `fetch` did not write.
        ClusterError: If the cluster fails, the search has no results yet, or the files arrive damaged.
    """
    _check_target(target)
    metadata = details(cluster, job_id).metadata or {}
    if FOLDER not in metadata:
        raise JobError([Problem("ID", job_id, "not a search that `tune-jobs submit` started")])
    environment = checked_environment(metadata.get(ENVIRONMENT, "{}"))
    python = interpreter(cluster, metadata.get(PYTHON), environment)
    words = ["-m", "tune_jobs.submit.pack", metadata[FOLDER], *([LEDGER] if with_ledger else [])]
    fetch_id = start(cluster, python, words, environment, name=f"fetch-{job_id}")
    until_s = time.monotonic() + _PACKED_WITHIN_S
    while (status := details(cluster, fetch_id).status) not in ENDED:
        if time.monotonic() > until_s:
            raise ClusterError(f"{fetch_id} is still {status.value} after {_PACKED_WITHIN_S / 60:g} minutes")
        time.sleep(_LOOK_EVERY_S)
    files = unpack(logs(cluster, fetch_id))
    with answers(fetch_id):
        cluster.client.delete_job(fetch_id)
    return write_files(target, files)


def write_files(target: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes files into a folder and returns their paths; files of an earlier fetch are replaced.

    Raises:
        JobError: If one of them is there and `fetch` did not write it, or it has been changed since.
    """
    before = _check_target(target)  # once more: packing may have taken minutes
    after = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    # Before the files, with the hashes of both, so that a kill in between leaves nothing unknown behind.
    record = {name: [*before.get(name, ()), *([after[name]] if name in after else ())] for name in FILES}
    _write(target / _RECORD, json.dumps(record).encode())
    return [_write(target / name, content) for name, content in files.items()]


def _check_target(target: Path) -> dict[str, list[str]]:
    """Returns the hash of each file of an earlier fetch; raises JobError if there are others of these names."""
    try:
        record = json.loads(read_regular(target / _RECORD, _LARGEST_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):  # there is none
        record = {}
    hashes: dict[str, list[str]] = {}
    for name in FILES:
        file = target / name
        if not os.path.lexists(file):
            continue
        try:
            content = None if file.is_symlink() else read_regular(file, _MAX_UNPACKED_BYTES)
        except (OSError, ValueError):  # not a file, or not yours to read
            content = None
        known = record.get(name) if isinstance(record, dict) else None
        digest = None if content is None else hashlib.sha256(content).hexdigest()
        if digest is None or not isinstance(known, list) or digest not in known:
            message = (
                f"{name} in it is not from an earlier fetch and would be replaced; expected another folder"
            )
            raise JobError([Problem("--out", str(target), message)])
        hashes[name] = [digest]
    return hashes


def checked_environment(text: str) -> dict[str, Any]:
    """Returns the part of a `runtime_env` that `submit` stored with a search.

    The cluster may be anybody's, and Ray's client uploads what a `runtime_env` names on this machine.

    Raises:
        ClusterError: If it is anything but an image's address, or a list of packages with their versions.
    """
    try:
        environment = json.loads(text) if len(text) <= _LARGEST_ENVIRONMENT else None
    except (ValueError, RecursionError):
        environment = None
    match environment:
        case {"image_uri": str(image), **rest} if not rest and _IMAGE.fullmatch(image):
            return {"image_uri": image}
        case {"pip": list(packages), **rest} if not rest and all(map(_is_pinned, packages)):
            return {"pip": packages}
    if environment == {}:
        return {}
    raise ClusterError(
        f"The cluster asks for an environment that `submit` never sets: {text[:_LONGEST_SHOWN]!r}; nothing was sent"
    )


def unpack(log: str) -> dict[str, bytes]:
    """Returns the files in the log of `tune_jobs.submit.pack`, by name; all names are among `FILES` and `LEDGER`.

    The cluster may be anybody's, so nothing in the log is trusted.

    Raises:
        ClusterError: If there are no files, or they are damaged, too large or have unexpected names.
    """
    failure = next(_with_prefix(log, FAILED), None)
    ends = list(islice(_with_prefix(log, END), 2))
    if failure is not None or not ends:
        reason = failure or log.rstrip().rpartition("\n")[2] or "the log is empty"
        raise ClusterError(f"Nothing to fetch: {reason[:_LONGEST_REASON]}")
    try:
        packed = b"".join(base64.b64decode(part, validate=True) for part in _with_prefix(log, PART))
    except ValueError as error:  # also of letters beyond ASCII
        raise ClusterError(f"The files arrived damaged: {error}; fetch again") from error
    if ends != [f"{len(packed)} {hashlib.sha256(packed).hexdigest()}"]:
        raise ClusterError("The files arrived damaged: their hash differs from the one sent; fetch again")
    try:
        return _unzip(packed)
    except ClusterError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"The files arrived damaged: {error}; fetch again") from error


def _unzip(packed: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise ClusterError("The cluster sent two files of one name")
        for entry in entries:
            if entry.filename not in (*FILES, LEDGER):  # it could lead out of the folder
                raise ClusterError(
                    f"The cluster sent a file of another name: {entry.filename[:_LONGEST_SHOWN]!r}"
                )
            if (
                entry.compress_type != zipfile.ZIP_DEFLATED
            ):  # others fail, and take memory, in ways of their own
                raise ClusterError(
                    f"The cluster sent {entry.filename} packed in another way than `pack` does"
                )
        # A small archive can unpack to any size; the sizes stand in its index, and zipfile reads no more than that.
        if sum(entry.file_size for entry in entries) > _MAX_UNPACKED_BYTES:
            raise ClusterError("The files would take more than 1 GiB unpacked")
        return {entry.filename: archive.read(entry) for entry in entries}


def _is_pinned(package: object) -> bool:
    return isinstance(package, str) and _PINNED.fullmatch(package) is not None


def _with_prefix(log: str, prefix: str) -> Iterator[str]:
    # Not with a list of all lines: those of a hostile log could take thirty times its size.
    return (line[1] for line in re.finditer(rf"^{re.escape(prefix)}(.*)$", log, re.MULTILINE))


def _write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as unfinished:
        unfinished.write_bytes(content)
    return file
