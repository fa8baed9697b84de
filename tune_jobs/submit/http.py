"""Sends a request to a job server: bounded in size and time, past no proxy on this machine, and never redirected."""

import http.client
import ipaddress
import json
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

# A log carries the files that `fetch` brings home, in base64 inside JSON.
LARGEST_ANSWER_BYTES = 128 * 2**20
_LARGEST_ERROR_BYTES = 2**20  # what is longer is cut
_LARGEST_JSON_BYTES = 32 * 2**20  # as objects it may take 25 times as much; a log is one string
_LOG = re.compile(r'\s*\{\s*"logs"\s*:\s*(?=")')
_TRANSFERS_WITHIN_S = 600.0
_SILENT_AT_MOST_S = 60.0


@dataclass(frozen=True)
class Answer:
    """An answer to a request, with those parts of `requests.Response` that Ray's client uses."""

    status_code: int
    content: bytes

    @property
    def text(self) -> str:
        """The content as text, whatever its encoding."""
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """Returns the content read as JSON.

        Raises:
            ValueError: If it is not JSON, or so large that only a log may be.
        """
        if len(self.content) > _LARGEST_JSON_BYTES:
            return {"logs": _log(self.text)}
        try:
            return json.loads(self.content)
        except RecursionError as error:
            raise ValueError("JSON nested too deeply") from error

    def raise_for_status(self) -> None:
        """Raises RuntimeError unless the request succeeded."""
        if self.status_code >= 300:
            raise RuntimeError(f"the server answered with status code {self.status_code}")


def send(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    *,
    within_s: float = _TRANSFERS_WITHIN_S,
    largest_bytes: int = LARGEST_ANSWER_BYTES,
) -> Answer:
    """Sends a request and returns the answer, of any status.

    Raises:
        OSError: If there is no complete answer within the time, or it is too large.
        ConnectionAbortedError: If the answer is not HTTP.
    """
    outcome: list[Answer | Exception] = []

    def exchange() -> None:
        try:
            outcome.append(_exchange(method, url, headers, body, within_s, largest_bytes))
        except Exception as error:  # raised again in the caller's thread
            outcome.append(error)

    # A socket's timeout is for each piece: a server that sends a byte now and then would hold us forever.
    thread = threading.Thread(target=exchange, daemon=True)
    thread.start()
    thread.join(within_s)
    if not outcome:
        raise TimeoutError(f"no complete answer within {within_s:g} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def is_loopback(host: str) -> bool:
    """Returns whether a host name or address means this machine, however it is written."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # such as 127.1
        except (OSError, ValueError):
            return host in _names_of_this_machine()
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified or str(address) in _addresses_of_this_machine()


def _names_of_this_machine() -> set[str]:
    """Returns the names by which this machine knows itself: its own, and those of its table of loopback hosts."""
    names = {socket.gethostname().lower(), socket.getfqdn().lower()}
    with suppress(OSError):
        for line in Path("/etc/hosts").read_text(encoding="utf-8", errors="replace").splitlines():
            address, *known = line.partition("#")[0].lower().split() or [""]
            if address.startswith("127.") or address == "::1":
                names.update(known)
    return names


def _addresses_of_this_machine() -> set[str]:
    """Returns the addresses of this machine's network interfaces."""
    return {
        str(ipaddress.ip_address(entry.address.partition("%")[0]))
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    }


def _log(text: str) -> str:
    start = _LOG.match(text)
    if start is None:
        raise ValueError("JSON too large for anything but a log")
    log, end = json.JSONDecoder().raw_decode(text, start.end())
    if text[end : end + 100].strip() != "}":
        raise ValueError("JSON too large, with more than a log")
    return str(log)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, so the token stays with one server."""

    def redirect_request(self, *_: Any) -> None:
        return None


# Not with `requests`: it would replace our token by a password from ~/.netrc, and follow redirects.
def _exchange(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    within_s: float,
    largest_bytes: int,
) -> Answer:
    handlers: list[Any] = [_NoRedirect]
    if is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=body, headers=dict(headers), method=method)
    try:
        opener = urllib.request.build_opener(*handlers)
        try:
            response = opener.open(request, timeout=min(_SILENT_AT_MOST_S, within_s))
        except urllib.error.HTTPError as error:  # any status but success
            response = error
        with response:
            status = response.status
            if status >= 300:
                return Answer(status, response.read(min(_LARGEST_ERROR_BYTES, largest_bytes)))
            content = response.read(largest_bytes + 1)
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from error
    except (http.client.HTTPException, ConnectionResetError, ValueError) as error:
        raise ConnectionAbortedError(f"it does not speak HTTP: {type(error).__name__}") from error
    if len(content) > largest_bytes:
        raise OSError(f"an answer of more than {largest_bytes:,} bytes")
    return Answer(status, content)
