"""Brings a submitted search's Parquet files and report home, through the job server alone."""

import base64
import binascii
import hashlib
import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

from tune_jobs.errors import ClusterError, JobError, Problem
from tune_jobs.submit.client import Cluster, answers
from tune_jobs.submit.protocol import END, ENVIRONMENT, FAILED, FILES, FOLDER, MAX_BYTES, PART, PYTHON
from tune_jobs.submit.submit import interpreter, start
from tune_jobs.submit.watch import ENDED, details, logs
from zsharp.atomic import atomic_write

_LOOK_EVERY_S = 0.5
_MAX_UNPACKED_BYTES = 16 * MAX_BYTES


def fetch(cluster: Cluster, job_id: str, target: Path) -> list[Path]:
    """Writes what there is of a search, running or ended, below `target`; returns the files.

    A small Ray job reads the search folder and prints the files, packed, to its log: a job server offers no other way.

    Raises:
        JobError: There is no such job, or it is not a search of ours.
        ClusterError: The cluster fails, there is no search yet, or what arrived is damaged.
    """
    known = details(cluster, job_id).metadata or {}
    if FOLDER not in known:
        raise JobError([Problem("ID", job_id, "not a search that `tune-jobs submit` began")])
    environment: dict[str, Any] = json.loads(known.get(ENVIRONMENT, "{}"))
    python = interpreter(cluster, known.get(PYTHON), environment)
    words = ["-m", "tune_jobs.submit.pack", known[FOLDER]]
    fetch_id = start(cluster, python, words, environment, name=f"fetch-{job_id}")
    while details(cluster, fetch_id).status not in ENDED:
        time.sleep(_LOOK_EVERY_S)
    files = unpack(logs(cluster, fetch_id))
    with answers(fetch_id):
        cluster.client.delete_job(fetch_id)
    return [_write(target / name, content) for name, content in files.items()]


def unpack(log: str) -> dict[str, bytes]:
    """Returns the files that a log holds, by those of `FILES` that are among them.

    Raises:
        ClusterError: It holds none, or they are damaged, too large or of other names.
    """
    found = log.splitlines()
    failed = [line.removeprefix(FAILED) for line in found if line.startswith(FAILED)]
    ends = [line.removeprefix(END).split() for line in found if line.startswith(END)]
    if failed or not ends:
        raise ClusterError(f"Nothing to fetch: {failed[0] if failed else ' '.join(found[-1:])}")
    try:
        parts = (
            base64.b64decode(line.removeprefix(PART), validate=True)
            for line in found
            if line.startswith(PART)
        )
        packed = b"".join(parts)
    except binascii.Error as error:
        raise ClusterError(f"What arrived is damaged: {error}") from error
    if ends != [[str(len(packed)), hashlib.sha256(packed).hexdigest()]]:
        raise ClusterError("What arrived is damaged: its hash is not the one that was sent; fetch again")
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        entries = archive.infolist()
        if strange := [entry.filename for entry in entries if entry.filename not in FILES]:
            raise ClusterError(f"What arrived has files of other names: {strange[0]!r}")
        if sum(entry.file_size for entry in entries) > _MAX_UNPACKED_BYTES:
            raise ClusterError("What arrived would be more than 1 GiB")
        return {entry.filename: archive.read(entry) for entry in entries}


def _write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as unfinished:
        unfinished.write_bytes(content)
    return file
