"""Connects to a Ray cluster's job server with an address and a token; every failure is an error of one line."""

import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.version import Version

from tune_jobs.errors import NOTHING, ClusterError, JobError, Problem

OLDEST_RAY = "2.60"  # 2.54 fixed CVE-2026-27482, and 2.59 checks tokens everywhere

_ANSWERS_WITHIN_S = 10
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
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
    is_loopback = parts.hostname in _LOOPBACK
    if is_loopback:
        _bypass_proxies()
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
    if not re.match(r"\d+\.\d+", version) or Version(version) < Version(OLDEST_RAY):
        message = f"it runs Ray {version[:40]}; expected {OLDEST_RAY} or later"
        raise JobError([Problem("--address", url, message)])
    is_here = is_loopback and _runs_here(str(server.get("session_name")))
    return Cluster(url, _client(url, headers), is_here, parts.scheme == "http" and not is_loopback)


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
    except AuthenticationError as error:
        raise _refused() from error
    except OSError as error:  # includes the errors of requests and aiohttp
        raise ClusterError(f"The cluster does not answer: {error}") from error
    except ClusterError:
        raise
    except RuntimeError as error:  # Ray's client raises this for every other status
        if job_id is not None and "status code 404" in str(error):
            message = "no such job on this cluster; see `tune-jobs status`"
            raise JobError([Problem("ID", job_id, message)]) from error
        # The lines between the first and the last are the server's traceback.
        lines = str(error).strip().splitlines()
        reason = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
        raise ClusterError(f"The cluster reported an error: {reason}") from error


def _token() -> str:
    token, source = os.environ.get("RAY_AUTH_TOKEN", ""), "RAY_AUTH_TOKEN"
    if not token:
        path = os.environ.get("RAY_AUTH_TOKEN_PATH")
        file = Path(path) if path else Path.home() / ".ray" / "auth_token"
        source = str(file)
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, so the token stays with one server."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _bypass_proxies() -> None:
    """Keeps requests to this machine, and the token in them, away from the proxies that the environment names.

    Both urllib and Ray's client read the environment at each request, so this holds for the rest of the process.
    """
    exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if exceptions != "*":
        hosts = [*exceptions.split(","), *sorted(_LOOPBACK), "[::1]"]  # urllib wants the brackets
        exceptions = ",".join(dict.fromkeys(host.strip() for host in hosts if host.strip()))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = exceptions


# Not with `requests`: it would replace our token by a password from ~/.netrc, and takes as many lines.
def _get(url: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Returns the JSON object that the server sends for a path, of at most 64 KiB."""
    request = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_ANSWERS_WITHIN_S) as answer:
            content = json.loads(answer.read(2**16))
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            raise _refused() from error
        reason = f"{path} is {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    else:
        if isinstance(content, dict):
            return content
        reason = f"{path} is not what Ray sends"
    message = f"no job server of Ray {OLDEST_RAY} or later answers ({reason})"
    raise JobError([Problem("--address", url, message)])


def _client(url: str, headers: dict[str, str]) -> Any:
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # they log every upload and connection
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    before = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        with answers():
            return JobSubmissionClient(url, headers=headers)
    finally:
        os.environ.update(before)


def _runs_here(session: str) -> bool:
    """Returns whether a process of this machine, in the same container, belongs to the Ray session.

    A loopback address may also be a tunnel to another machine. Ray's processes have the session's name among
    their arguments, which the processes of a tunnel do not.
    """
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if session.encode() in (process / "cmdline").read_bytes() and (process / "root").samefile("/"):
                return True
        except OSError:  # it has ended, or belongs to another user
            continue
    return False
