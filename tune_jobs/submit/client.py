"""Connects to a Ray cluster's job server with an address and a token; every failure is an error of one line."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version

from tune_jobs.cluster.listener import Listener, what_listens
from tune_jobs.errors import NOTHING, ClusterError, JobError, Problem, TuneJobsError
from tune_jobs.submit.http import is_loopback, send

OLDEST_RAY = "2.60"  # 2.54 fixed CVE-2026-27482, and 2.59 checks tokens everywhere

_ANSWERS_WITHIN_S = 10
_LARGEST_FACTS_BYTES = 2**16
_LARGEST_TOKEN_BYTES = 2**16
_DASHBOARD = "expected the port of the dashboard, 8265 by default (6379 and 10001 are other ports of Ray)"
_SESSION = re.compile(r"session_\d{4}-\d\d-\d\d_[\d_-]{6,40}")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_LONGEST_REASON = 500
_ADDRESS_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray's client prefers these to its argument


@dataclass(frozen=True)
class Cluster:
    """A job server that answered and accepted the token.

    Attributes:
        url: The address of the job server and of the dashboard.
        client: Ray's `JobSubmissionClient`.
        is_here: Whether the cluster's head runs on this machine and shares this process's file system.
        is_exposed: Whether token and code travel unencrypted over a network.
    """

    url: str
    client: Any
    is_here: bool
    is_exposed: bool


def connect(address: str) -> Cluster:
    """Returns the cluster at an address, after checking that it accepts the token.

    The token comes from `RAY_AUTH_TOKEN`, else from the file `RAY_AUTH_TOKEN_PATH`, else from `~/.ray/auth_token`,
    as in Ray itself. With `RAY_AUTH_MODE=disabled` no token is sent, and the cluster need not ask for one.

    Raises:
        JobError: If no job server answers, it is too old or takes jobs from anybody, or the token is missing or wrong.
    """
    url = checked_address(address)
    parts = urlsplit(url)
    is_near = is_loopback(parts.hostname or "")
    disabled = os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled"
    headers = {} if disabled else {"Authorization": f"Bearer {_token()}"}
    mode = _get(url, "/api/authentication_mode", {}).get("authentication_mode")
    if mode == "disabled" and not disabled:
        message = (
            "its token authentication is off: anybody who reaches it can run code there; "
            "set RAY_AUTH_MODE=disabled to use it anyway"
        )
        raise JobError([Problem("--address", url, message)])
    server = _get(url, "/api/version", headers)
    version = str(server.get("ray_version"))
    if not _is_recent(version):
        message = f"it runs Ray {version[:40]}; expected {OLDEST_RAY} or later"
        raise JobError([Problem("--address", url, message)])
    is_here = is_near and _runs_here(str(server.get("session_name")))
    return Cluster(url, _client(url, headers), is_here, parts.scheme == "http" and not is_near)


def checked_address(address: str) -> str:
    """Returns the address of a job server as a URL without a trailing slash.

    Raises:
        JobError: If it is neither `http(s)://host:port` nor `host:port`.
    """
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        # A user name and password would end up in messages; anything else odd could be read as another host.
        is_valid = (
            re.fullmatch(r"[!-~]+", url) is not None
            and parts.scheme in {"http", "https"}
            and re.fullmatch(r"[\w.:-]+", parts.hostname or "", re.ASCII) is not None
            and parts.port != 0
            and "@" not in parts.netloc
            and not (parts.query or parts.fragment)
        )
    except ValueError:
        is_valid = False
    if not is_valid:
        message = "expected the job server's http://host:port, as in http://127.0.0.1:8265"
        raise JobError([Problem("--address", address, message)])
    return url.rstrip("/")


def checked_id(job_id: str) -> str:
    """Returns a job's id, which is safe in URLs and file names.

    Raises:
        JobError: If it is not an id.
    """
    if not _ID.fullmatch(job_id):
        message = "expected an id that `submit` or `status` printed: letters, digits and _ . -"
        raise JobError([Problem("ID", job_id, message)])
    return job_id


@contextmanager
def answers(job_id: str | None = None) -> Iterator[None]:
    """Turns failures of the requests made inside into one-line errors.

    Raises:
        JobError: If there is no such job, or the token is no longer accepted.
        ClusterError: If the cluster does not answer, or reports an error.
    """
    from ray.exceptions import AuthenticationError

    try:
        yield
    except TuneJobsError:
        raise
    except AuthenticationError as error:
        raise _refused() from error
    except OSError as error:
        raise ClusterError(f"The cluster does not answer: {error}") from error
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # Ray's client takes the answers of a server apart without checking them.
        message = f"The cluster answered something else than a job server of Ray {OLDEST_RAY} or later would"
        raise ClusterError(f"{message} ({type(error).__name__})") from error
    except RuntimeError as error:  # Ray's client raises this for every other status
        if job_id is not None and "status code 404" in str(error):
            message = "no such job on this cluster; see `tune-jobs status`"
            raise JobError([Problem("ID", job_id, message)]) from error
        # The lines between the first and the last are the server's traceback; there may be millions.
        text = str(error).strip() or "no reason"
        reason, end = text[:_LONGEST_REASON].splitlines()[0], text[-_LONGEST_REASON:].splitlines()[-1]
        if len(reason) < min(len(text), _LONGEST_REASON):
            reason = f"{reason} {end}"
        raise ClusterError(f"The cluster reported an error: {reason}") from error


def _token() -> str:
    from zsharp.data.limits import read_regular

    token, source = os.environ.get("RAY_AUTH_TOKEN", ""), "RAY_AUTH_TOKEN"
    if not token:
        path = os.environ.get("RAY_AUTH_TOKEN_PATH")
        try:
            file = Path(path) if path else Path.home() / ".ray" / "auth_token"
            source = str(file)
            token = read_regular(file, _LARGEST_TOKEN_BYTES).decode()  # a pipe could wait forever
        except (OSError, ValueError, RuntimeError) as error:  # the last where there is no home
            message = (
                f"no token: {error}; put it in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names or in "
                "~/.ray/auth_token"
            )
            raise JobError([Problem("token", NOTHING, message)]) from error
    token = token.strip()
    if not re.fullmatch(r"[!-~]+", token):
        message = f"{source} does not hold a token: expected one printable word"
        raise JobError([Problem("token", NOTHING, message)])
    return token


def _refused() -> JobError:
    return JobError(
        [Problem("token", NOTHING, "the cluster refused it; expected the token of the cluster's head")]
    )


def _is_recent(version: str) -> bool:
    try:
        return Version(version) >= Version(OLDEST_RAY)
    except InvalidVersion:
        return False


def _get(url: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Returns the JSON object that the server sends for a path."""
    mistake = f"there is {Listener.HTTP.value}; {_DASHBOARD}"
    try:
        answer = send(
            "GET", url + path, headers, within_s=_ANSWERS_WITHIN_S, largest_bytes=_LARGEST_FACTS_BYTES
        )
        if answer.status_code in {401, 403}:
            raise _refused()
        if answer.status_code != 200:
            reason = f"{path} has status {answer.status_code}"
        elif isinstance(content := answer.json(), dict):
            return content
        else:
            reason = f"{path} is not what Ray sends"
    except OSError as error:
        reason = str(error)
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        mistake = _expected(url, what_listens(parts.hostname or "", port))
    except ValueError as error:
        if isinstance(error, JobError):
            raise
        reason = f"{path} is not JSON"
    message = f"no job server of Ray {OLDEST_RAY} or later answers ({reason}); {mistake}"
    raise JobError([Problem("--address", url, message)])


def _expected(url: str, listener: Listener) -> str:
    """Returns what listens at an address instead of a job server, and what to give."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    if listener is Listener.NOBODY:
        return f"nothing listens there: start the cluster or its tunnel; {_DASHBOARD}"
    if listener is Listener.TLS and not is_tls:
        return f"there is {listener.value}: expected https://{parts.netloc}, or {_DASHBOARD.removeprefix('expected ')}"
    if listener is Listener.TLS:
        return "expected a certificate that this machine trusts (SSL_CERT_FILE names a file of them), or a tunnel"
    if listener is Listener.HTTP and is_tls:
        return f"there is {listener.value} without TLS: expected http://{parts.netloc}, or another address"
    return f"there is {listener.value}; {_DASHBOARD}"


def _client(url: str, headers: dict[str, str]) -> Any:
    from tune_jobs.submit.ray_client import BoundedClient

    for name in ("dashboard_sdk", "job.sdk"):  # they log every upload and connection
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    before = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        with answers():
            return BoundedClient(url, headers=headers)
    finally:
        os.environ.update(before)


def _runs_here(session: str) -> bool:
    """Returns whether a process of this machine, in the same container, belongs to the Ray session.

    A loopback address may also be a tunnel to another machine. Ray's processes have the session's name among
    their arguments, which the processes of a tunnel do not.
    """
    if not _SESSION.fullmatch(session):  # a server that sends rubbish must not match anything that runs here
        return False
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if session.encode() in (process / "cmdline").read_bytes() and (process / "root").samefile("/"):
                return True
        except OSError:  # it has ended, or belongs to another user
            continue
    return False
