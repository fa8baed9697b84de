"""Submits a job to a Ray cluster, where the search runs, and resumes if it has begun there before."""

import base64
import json
import re
import secrets
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.job.load import dump_job
from tune_jobs.job.spec import JobSpec
from tune_jobs.submit.client import Cluster, answers
from tune_jobs.submit.code import pack_code
from tune_jobs.submit.protocol import ENVIRONMENT, FOLDER, JOB_FILE, JOB_VARIABLE, PYTHON, STOP_WAIT_S

_ENV_VARS = {
    "RAY_JOB_STOP_SIGNAL": "SIGTERM",
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait take the cores that other trials need
}
_NO_AGENT, _AGENT_WITHIN_S = "No available agent", 60.0  # Ray itself waits for 10 s before it says so
_LONGEST_VARIABLE = 64 * 1024  # Linux takes twice that, and Ray wraps it


@dataclass(frozen=True)
class Submission:
    """A search that a cluster has taken.

    Attributes:
        id: Ray's submission id.
        dashboard: The page that shows it.
        folder: The search folder, as the cluster sees it.
    """

    id: str
    dashboard: str
    folder: str


def submit(
    job: JobSpec,
    cluster: Cluster,
    *,
    out: str | None = None,
    python: str | None = None,
    pip: bool = False,
    image: str | None = None,
    wait_for_workers_s: float = 0.0,
) -> Submission:
    """Submits a job: code and job file are sent, never data.

    A search that is in the folder already, of the same job, goes on where it stopped.

    Args:
        job: What to search.
        cluster: Where, as `tune_jobs.submit.client.connect` returns it.
        out: The search folder as the cluster sees it; by default the job's name below its storage.
        python: The interpreter that runs the search there; by default `python`, which is the one of the pip
            environment or of the container; on this very machine, the one that runs this.
        pip: Let Ray install our requirements, in the versions that are installed here, into an environment of the
            job's own.
        image: Let Ray start all workers in this container image, which has our packages; no code is sent.
        wait_for_workers_s: How long the search waits for `resources.max_concurrent` trials to have room.

    Raises:
        JobError: The folder is not one that all machines see under the same name, or the upload is too large.
        ClusterError: The cluster fails.
    """
    folder = folder_on_cluster(job, out, cluster.is_here)
    if pip and image is not None:
        raise JobError(
            [Problem("--pip", NOTHING, "a container image has its packages; expected one of the two")]
        )
    environment: dict[str, Any] = (
        {"image_uri": image} if image is not None else {"pip": _pip()} if pip else {}
    )
    python = interpreter(cluster, python, environment)
    words = [*("-m", "tune_jobs.cli.driver", JOB_FILE, f"--out={folder}")]
    if wait_for_workers_s:
        words.append(f"--wait-for-workers={wait_for_workers_s:g}")
    submission_id = start(
        cluster,
        python,
        words,
        environment,
        job=dump_job(job),
        name=job.name,
        metadata={FOLDER: folder, PYTHON: python, ENVIRONMENT: json.dumps(environment)},
    )
    return Submission(submission_id, dashboard(cluster, submission_id), folder)


def start(
    cluster: Cluster,
    python: str,
    words: list[str],
    environment: dict[str, Any],
    *,
    name: str,
    job: str | None = None,
    metadata: dict[str, str] | None = None,
) -> str:
    """Starts `python WORDS...` on the cluster's head, with our code; returns its id.

    Args:
        cluster: Where.
        python: The interpreter.
        words: Its arguments; each arrives as it is, whatever it contains.
        environment: What else the runtime_env says: `pip` or `image_uri`.
        name: What the id begins with.
        job: A job file that travels with the code.
        metadata: What to remember of it on the cluster.
    """
    submission_id = f"{re.sub('[^A-Za-z0-9_-]', '-', name)[:60]}-{secrets.token_hex(4)}"
    runtime_env = {**environment, "env_vars": dict(_ENV_VARS)}
    with tempfile.TemporaryDirectory(prefix="tune-jobs-") as scratch, answers():
        if "image_uri" not in environment:
            archive = Path(scratch) / "code.zip"
            pack_code(archive, job)
            runtime_env["working_dir"] = str(archive)
        elif job is not None:
            runtime_env["env_vars"][JOB_VARIABLE] = _variable(job)
        request = {
            "entrypoint": entrypoint(python, words),
            "submission_id": submission_id,
            "runtime_env": runtime_env,
            "metadata": metadata or {},
        }
        return _sent(cluster, request)


def entrypoint(python: str, words: list[str]) -> str:
    """Returns the shell's line for a command. `exec`: Ray signals the process itself, and once."""
    return "exec " + shlex.join([python, *words])


def interpreter(cluster: Cluster, python: str | None, environment: dict[str, Any]) -> str:
    """Returns the Python that runs our code on the cluster.

    Raises:
        JobError: What was given is no name of a program.
    """
    if python is None:
        return sys.executable if cluster.is_here and not environment else "python"
    if python.startswith("-") or not python.isprintable() or not python.strip():
        raise JobError([Problem("--python", python, "expected the path of an interpreter on the cluster")])
    return python


def folder_on_cluster(job: JobSpec, out: str | None, is_here: bool) -> str:
    """Returns the search folder as a path or an address that means the same on each machine of the cluster.

    Raises:
        JobError: It is relative or begins with ~, and the cluster is not this machine.
    """
    path, value = ("--out", out) if out is not None else ("storage", job.storage)
    folder = out if out is not None else f"{job.storage.rstrip('/')}/{job.name}"
    if not folder.isprintable():
        raise JobError([Problem(path, value, "expected a path without control characters")])
    if "://" in folder or folder.startswith("/"):
        return folder
    if is_here:
        return str(Path(folder).expanduser().absolute())
    message = (
        "another folder on each machine; expected a path from / that all of the cluster share, or an address"
    )
    raise JobError([Problem(path, value, message)])


def dashboard(cluster: Cluster, submission_id: str) -> str:
    """Returns the address of a job's page."""
    return f"{cluster.url}/#/jobs/{submission_id}"


def _sent(cluster: Cluster, request: dict[str, Any]) -> str:
    """Sends a job, again and again while the head has only just started and has no agent that takes it."""
    until = time.monotonic() + _AGENT_WITHIN_S
    while True:
        try:
            submission_id: str = cluster.client.submit_job(**request)
        except RuntimeError as error:
            if _NO_AGENT not in str(error) or time.monotonic() > until:
                raise
        else:
            return submission_id


def _pip() -> list[str]:
    """Returns our requirements in the versions that are installed here; Ray is the cluster's own."""
    needed = [Requirement(line) for line in requires("zsharp-tune") or []]
    names = {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})}
    return [f"{name}=={version(name).partition('+')[0]}" for name in sorted(names - {"ray"})]


def _variable(job: str) -> str:
    encoded = base64.b64encode(job.encode()).decode()
    if len(encoded) > _LONGEST_VARIABLE:
        raise JobError([Problem("job", NOTHING, "too long to travel without code; expected at most 48 KiB")])
    return encoded
