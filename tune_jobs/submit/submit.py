"""Submits a job to a Ray cluster, which runs its search or resumes one that stopped."""

import base64
import json
import re
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from tune_jobs.errors import NOTHING, JobError, Problem, StorageError
from tune_jobs.job.code import FOLDER_NAME as OWN_FOLDER
from tune_jobs.job.code import check_own_code
from tune_jobs.job.load import dump_job
from tune_jobs.job.spec import JobSpec
from tune_jobs.search.extend import extended
from tune_jobs.search.folder import SearchFolder, check_folder
from tune_jobs.storage import is_address
from tune_jobs.submit.client import Cluster, answers
from tune_jobs.submit.code import pack_code
from tune_jobs.submit.http import is_loopback
from tune_jobs.submit.protocol import ENVIRONMENT, FOLDER, JOB_FILE, JOB_VARIABLE, PYTHON, STOP_WAIT_S
from tune_jobs.wording import CLUSTER_ADDRESS, CLUSTER_ID

_ENV_VARS = {
    "RAY_JOB_STOP_SIGNAL": "SIGTERM",
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait would take cores from other trials
}
_NO_AGENT = "No available agent"  # a head that has just started says so, after 10 s
_AGENT_WITHIN_S = 60.0
_PAGE_PORT = 8420
_LONGEST_VARIABLE = 64 * 1024  # Linux allows twice that, and Ray adds to it


@dataclass(frozen=True)
class Submission:
    """A search that a cluster has accepted."""

    id: str  # Ray's submission id
    dashboard: str  # the address of its page on the dashboard
    folder: str  # the search folder on the cluster
    page: str  # the command that shows the search in a browser of this machine


@dataclass(frozen=True)
class Setup:
    """What runs our code on the cluster.

    Attributes:
        python: The cluster's interpreter that runs the search. By default `python`, which is that of the pip
            environment or the container if there is one; if the cluster runs on this machine, the current one.
        pip: Whether Ray installs our requirements, in the versions installed here, into a new environment.
        image: A container image that has our packages, in which Ray starts all workers; no code is sent.
        wait_for_workers_s: How long the search may wait for room for `resources.max_concurrent` trials.
        allow_changed_code: Whether a search continues although code of the user's own is not what it began with.
    """

    python: str | None = None
    pip: bool = False
    image: str | None = None
    wait_for_workers_s: float = 0.0
    allow_changed_code: bool = False


def submit(job: JobSpec, cluster: Cluster, setup: Setup, *, out: str | None = None) -> Submission:
    """Sends a job, our code and the folders of its own, never data, to a cluster and starts the search there.

    If the folder already holds a search of the same job, that search resumes.

    Raises:
        JobError: If the machines of the cluster would not share the folder, or the upload is too large.
        ClusterError: If the cluster fails.
    """
    folder = folder_on_cluster(job, out, cluster.is_here)
    if cluster.is_here or is_address(folder):
        with suppress(StorageError):  # the cluster may have credentials that this machine lacks
            check_folder(job, SearchFolder(folder))
    own = job.code if setup.image is None else ()
    if own:
        check_own_code(job)
        job = job.model_copy(update={"code": tuple(f"{OWN_FOLDER}/{number}" for number in range(len(own)))})
    return _start_driver(
        cluster, setup, folder, [JOB_FILE], _extras(job), name=job.name, job=dump_job(job), own=own
    )


def go_on(
    verb: Literal["resume", "confirm"],
    folder: str,
    cluster: Cluster,
    setup: Setup,
    *,
    sets: Sequence[str] = (),
    seeds: int | None = None,
    methods: Sequence[str] = (),
    architectures: Sequence[str] = (),
) -> Submission:
    """Resumes or extends a search in a folder of the cluster, or confirms its winners there.

    Args:
        sets: Changes of the job to resume, as `path=value`.
        seeds: Fresh seeds of a confirmation; None leaves the number to it.
        methods: Which methods to confirm; none named are all.
        architectures: Which architectures, likewise.

    Raises:
        JobError: If the machines of the cluster would not share the folder or, where this machine can see it, it holds
            no search.
        ClusterError: If the cluster fails.
    """
    folder = shared_folder(f"--{verb}", folder, cluster.is_here)
    name = folder.rstrip("/").rpartition("/")[2] or "search"
    extras: set[str] = set()
    if cluster.is_here or is_address(folder):
        with suppress(StorageError), SearchFolder(folder).open(read_only=True) as ledger:
            job, _ = extended(ledger, sets)
            name, extras = job.name, _extras(job)
    words = [f"--verb={verb}", *(f"--set={change}" for change in sets)]
    if seeds is not None:
        words.append(f"--seeds={seeds}")
    chosen = {"methods": methods, "architectures": architectures}
    words += [f"--{kind}={','.join(names)}" for kind, names in chosen.items() if names]
    return _start_driver(cluster, setup, folder, words, extras, name=f"{name}-{verb}")


def _start_driver(
    cluster: Cluster, setup: Setup, folder: str, words: list[str], extras: set[str], **sent: Any
) -> Submission:
    """Starts the command line of a search on the cluster; `sent` is passed on to `start`."""
    environment = _environment(extras, pip=setup.pip, image=setup.image)
    python = interpreter(cluster, setup.python, environment)
    words = ["-m", "tune_jobs.cli.driver", *words, f"--out={folder}"]
    if setup.wait_for_workers_s:
        words.append(f"--wait-for-workers={setup.wait_for_workers_s:g}")
    if setup.allow_changed_code:
        words.append("--allow-changed-code")
    metadata = {FOLDER: folder, PYTHON: python, ENVIRONMENT: json.dumps(environment)}
    submission_id = start(cluster, python, words, environment, metadata=metadata, **sent)
    page = live_page(cluster, folder, python)
    return Submission(submission_id, dashboard(cluster, submission_id), folder, page)


def start(
    cluster: Cluster,
    python: str,
    words: list[str],
    environment: dict[str, Any],
    *,
    name: str,
    job: str | None = None,
    own: Sequence[str] = (),
    metadata: dict[str, str] | None = None,
) -> str:
    """Starts a Python command with our code on the cluster's head and returns its id.

    Args:
        words: The interpreter's arguments, passed on unchanged whatever they contain.
        own: Folders of the user's own code, which are sent along.
        environment: Ray's `runtime_env` apart from what is added here: `pip`, `image_uri` or nothing.
    """
    submission_id = f"{re.sub('[^A-Za-z0-9_-]', '-', name)[:60]}-{secrets.token_hex(4)}"
    runtime_env = {
        **environment,
        "env_vars": {**_ENV_VARS, CLUSTER_ADDRESS: cluster.url, CLUSTER_ID: submission_id},
    }
    with tempfile.TemporaryDirectory(prefix="tune-jobs-") as scratch, answers():
        if "image_uri" not in environment:
            archive = Path(scratch) / "code.zip"
            pack_code(archive, job, own=own)
            runtime_env["working_dir"] = str(archive)
        elif job is not None:
            runtime_env["env_vars"][JOB_VARIABLE] = _variable(job)
        request = {
            "entrypoint": entrypoint(python, words),
            "submission_id": submission_id,
            "runtime_env": runtime_env,
            "metadata": metadata or {},
        }
        return _send(cluster, request)


def entrypoint(python: str, words: list[str]) -> str:
    """Returns a command as a line for the shell, every word quoted."""
    # Without `exec`, Ray's signal would reach the shell and Python both.
    return "exec " + shlex.join([python, *words])


def interpreter(cluster: Cluster, python: str | None, environment: dict[str, Any]) -> str:
    """Returns the Python interpreter that runs our code on the cluster.

    Raises:
        JobError: If `python` cannot be the path of a program.
    """
    if python is None:
        return sys.executable if cluster.is_here and not environment else "python"
    if python.startswith("-") or not python.isprintable() or not python.strip():
        raise JobError([Problem("--python", python, "expected the path of an interpreter on the cluster")])
    return python


def folder_on_cluster(job: JobSpec, out: str | None, is_here: bool) -> str:
    """Returns the search folder as a path or an address that means the same on every machine of the cluster.

    Raises:
        JobError: If it is relative or starts with ~, and the cluster does not run on this machine.
    """
    if out is not None:
        return shared_folder("--out", out, is_here)
    return shared_folder("storage", f"{job.storage.rstrip('/')}/{job.name}", is_here, shown=job.storage)


def shared_folder(option: str, folder: str, is_here: bool, *, shown: str | None = None) -> str:
    """Returns a folder that an option names, as `folder_on_cluster` does.

    Args:
        shown: What the option says, for messages; by default the folder.
    """
    value = folder if shown is None else shown
    if not folder.isprintable():
        raise JobError([Problem(option, value, "expected a path without control characters")])
    if "://" in folder or folder.startswith("/"):
        return folder
    if is_here:
        return str(Path(folder).expanduser().absolute())
    message = "a relative path: each machine would use its own; expected a path from /, shared by all, or an address"
    raise JobError([Problem(option, value, message)])


def dashboard(cluster: Cluster, submission_id: str) -> str:
    """Returns the address of a job's page on the dashboard."""
    return f"{cluster.url}/#/jobs/{submission_id}"


def live_page(cluster: Cluster, folder: str, python: str) -> str:
    """Returns the command that shows a search of a cluster in a browser of this machine.

    It runs where the folder is: here, if it is in an object store or the cluster is here; otherwise on the head, with
    a tunnel to it.
    """
    if cluster.is_here or is_address(folder):
        return f"tune-jobs serve {shlex.quote(folder)}"
    host = urlsplit(cluster.url).hostname or ""
    head = "HEAD" if is_loopback(host) else host  # behind a tunnel of its own, nobody knows its name
    there = shlex.join([python, "-m", "tune_jobs", "serve", folder, f"--port={_PAGE_PORT}"])
    tunnel = f"-L {_PAGE_PORT}:127.0.0.1:{_PAGE_PORT}"
    return f"ssh -t {tunnel} {head} {shlex.quote(there)}, then http://127.0.0.1:{_PAGE_PORT}/"


def _send(cluster: Cluster, request: dict[str, Any]) -> str:
    """Submits a Ray job and returns its id; retries while a head that has just started cannot take it yet."""
    until = time.monotonic() + _AGENT_WITHIN_S
    while True:
        try:
            cluster.client.submit_job(**request)
        except RuntimeError as error:
            if _NO_AGENT not in str(error) or time.monotonic() > until:
                raise
        else:
            return str(request["submission_id"])  # ours, whatever the server makes of it


def _environment(extras: Iterable[str], *, pip: bool, image: str | None) -> dict[str, Any]:
    """Returns Ray's `runtime_env` for the packages that a search needs.

    Raises:
        JobError: If both ways to get them are asked for.
    """
    if pip and image is not None:
        message = "not with --image, which has its own packages; give one of the two"
        raise JobError([Problem("--pip", NOTHING, message)])
    if image is not None:
        return {"image_uri": image}
    return {"pip": _pip(extras)} if pip else {}


def _extras(job: JobSpec) -> set[str]:
    """Returns which of our optional requirements a job needs."""
    trackers = {name for name, target in job.track.model_dump().items() if target}
    return trackers | ({"timm"} if any(name.startswith("timm/") for name in job.architectures) else set())


def _pip(extras: Iterable[str] = ()) -> list[str]:
    """Returns our requirements, pinned to the versions installed here, without Ray: the cluster has its own."""
    names = set()
    for line in requires("zsharp-tune") or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            names.add(requirement.name)
    return [f"{name}=={version(name).partition('+')[0]}" for name in sorted(names - {"ray"})]


def _variable(job: str) -> str:
    encoded = base64.b64encode(job.encode()).decode()
    if len(encoded) > _LONGEST_VARIABLE:
        raise JobError(
            [Problem("job", NOTHING, "too long to send to a container image; expected at most 48 KiB")]
        )
    return encoded
