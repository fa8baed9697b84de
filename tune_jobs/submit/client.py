"""Reaches a Ray cluster's job server with an address and a token, and says in one line why if it cannot."""

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

OLDEST_RAY = "2.60"  # CVE-2026-27482 is fixed since 2.54, tokens are checked everywhere since 2.59

_ANSWERS_WITHIN_S = 10
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_ADDRESS_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray prefers these to any argument


@dataclass(frozen=True)
class Cluster:
    """A job server that answered and took the token.

    Attributes:
        url: Its address, which is the dashboard's too.
        client: Ray's `JobSubmissionClient`.
        is_here: Whether its head runs on this machine, seen from the file system that this process sees.
        is_exposed: Whether token and code travel unencrypted over a network.
    """

    url: str
    client: Any
    is_here: bool
    is_exposed: bool


def connect(address: str) -> Cluster:
    """Returns the cluster at an address, after it took the token.

    The token is `RAY_AUTH_TOKEN`, or in the file `RAY_AUTH_TOKEN_PATH`, or in `~/.ray/auth_token`: Ray's own order.
    With `RAY_AUTH_MODE=disabled` none is sent and none is demanded.

    Raises:
        JobError: No job server answers there, it is too old, it takes jobs from anybody, or there is no token or a
            wrong one.
    """
    url = checked_address(address)
    disabled = os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled"
    headers = {} if disabled else {"Authorization": f"Bearer {_token()}"}
    mode = _get(url, "/api/authentication_mode", {}).get("authentication_mode")
    if mode == "disabled" and not disabled:
        message = "its token authentication is off: anybody who reaches it can run code there; "
        raise JobError([Problem("--address", url, f"{message}RAY_AUTH_MODE=disabled uses it all the same")])
    version = _get(url, "/api/version", headers)
    running = str(version.get("ray_version"))
    if not re.match(r"\d+\.\d+", running) or Version(running) < Version(OLDEST_RAY):
        message = f"it runs Ray {running[:40]}; expected {OLDEST_RAY} or later"
        raise JobError([Problem("--address", url, message)])
    parts = urlsplit(url)
    is_loopback = parts.hostname in _LOOPBACK
    is_here = is_loopback and _runs_here(str(version.get("session_name")))
    return Cluster(url, _client(url, headers), is_here, parts.scheme == "http" and not is_loopback)


def checked_address(address: str) -> str:
    """Returns the address of a job server as a URL without a slash at its end.

    Raises:
        JobError: It is not `http(s)://host:port`, or `host:port` for short.
    """
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        sound = re.fullmatch(r"[\w.:-]+", parts.hostname or "", re.ASCII) is not None and parts.port != 0
    except ValueError:
        sound = False
    sound = sound and parts.scheme in {"http", "https"} and not (parts.query or parts.fragment)
    if not sound or "@" in parts.netloc or not re.fullmatch(r"[!-~]+", url):
        message = "expected the job server's http://host:port, as in http://127.0.0.1:8265"
        raise JobError([Problem("--address", address, message)])
    return url.rstrip("/")


def checked_id(job_id: str) -> str:
    """Returns a job's id, which becomes a part of URLs and of file names.

    Raises:
        JobError: No id looks like this.
    """
    if not _ID.fullmatch(job_id):
        message = "expected an id as `submit` and `status` print it: letters, digits, _ . -"
        raise JobError([Problem("ID", job_id, message)])
    return job_id


@contextmanager
def answers(job_id: str | None = None) -> Iterator[None]:
    """Inside, what goes wrong with a request is an error of one line.

    Raises:
        JobError: There is no such job, or the token is not taken any more.
        ClusterError: The cluster does not answer, or not as it should.
    """
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise _refused() from error
    except OSError as error:  # of requests and aiohttp too
        raise ClusterError(f"The cluster does not answer: {error}") from error
    except ClusterError:
        raise
    except RuntimeError as error:  # the client's word for every other status
        if job_id is not None and "status code 404" in str(error):
            raise JobError(
                [Problem("ID", job_id, "no such job on this cluster; see `tune-jobs status`")]
            ) from error
        lines = str(error).strip().splitlines()
        raise ClusterError(
            f"The cluster could not do that: {lines[0]} {lines[-1] if lines[1:] else ''}"
        ) from error


def _token() -> str:
    token, where = os.environ.get("RAY_AUTH_TOKEN", ""), "RAY_AUTH_TOKEN"
    if not token:
        given = os.environ.get("RAY_AUTH_TOKEN_PATH")
        file = Path(given) if given else Path.home() / ".ray" / "auth_token"
        where = str(file)
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            message = (
                f"no token: {error}; expected it in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH or in "
                "~/.ray/auth_token"
            )
            raise JobError([Problem("token", NOTHING, message)]) from error
    token = token.strip()
    if not re.fullmatch(r"[!-~]+", token):
        raise JobError(
            [Problem("token", NOTHING, f"what is in {where} is not one: expected one printable word")]
        )
    return token


def _refused() -> JobError:
    return JobError([Problem("token", NOTHING, "refused by the cluster; expected the one its head has")])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is for one server: nobody sends it on to another."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Returns what a path of the server answers."""
    request = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_ANSWERS_WITHIN_S) as answer:
            found = json.loads(answer.read(2**16))
    except urllib.error.HTTPError as error:
        if error.code in {401, 403}:
            raise _refused() from error
        reason = f"{path} is {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    else:
        if isinstance(found, dict):
            return found
        reason = f"{path} is not what Ray answers"
    message = f"no job server of Ray {OLDEST_RAY} or later answers there ({reason})"
    raise JobError([Problem("--address", url, message)])


def _client(url: str, headers: dict[str, str]) -> Any:
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # they name each upload and each connection
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    before = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        with answers():
            return JobSubmissionClient(url, headers=headers)
    finally:
        os.environ.update(before)


def _runs_here(session: str) -> bool:
    """Whether a process with our root folder has the session's name among its arguments; a tunnel has none."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if session.encode() in (process / "cmdline").read_bytes() and (process / "root").samefile("/"):
                return True
        except OSError:  # it ended, or is another user's
            continue
    return False
