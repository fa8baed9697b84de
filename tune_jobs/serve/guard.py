"""Who may ask: the host header, the token, and the headers that every answer carries."""

import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    # Plotly sets styles of its own; nothing is requested from anywhere else, and no page may frame this one.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Returns whether a host to listen on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def new_token() -> str:
    """Returns a token that nobody can guess."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Rules:
    """Who may ask.

    Attributes:
        hosts: Names that requests may be addressed to, besides those of loopback: a page elsewhere whose name leads
            here (DNS rebinding) is not among them.
        any_ip: Whether they may also be addressed to any IP address, which no such page can have.
        token: What a browser must have shown once; None if everybody on this machine may read.
        cookie: The name of the cookie that keeps it; browsers share cookies among the ports of a host.
    """

    hosts: frozenset[str] = frozenset()
    any_ip: bool = False
    token: str | None = None
    cookie: str = "tune_jobs"

    def csrf(self, action: str) -> str:
        """Returns what a form must carry for an action: only who has the token can know it."""
        assert self.token is not None, "an action without a token"
        return hmac.digest(self.token.encode(), action.encode(), "sha256").hex()

    def accepts_host(self, header: str) -> bool:
        """Returns whether a request's Host header is one of ours, whatever its port."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        if name in _LOOPBACK or name in self.hosts:
            return True
        return self.any_ip and _is_ip(name)


def rules_for(
    host: str, port: int, names: Iterable[str], *, needs_token: bool, token: str | None = None
) -> Rules:
    """Returns the rules for a server that listens on `host`, with a token of its own if one is needed and not given."""
    beyond = not is_loopback(host)
    if token is None and (needs_token or beyond):
        token = new_token()
    return Rules(frozenset(name.lower() for name in (host, *names)), beyond, token, f"tune_jobs_{port}")


class Guard:
    """Refuses requests that the rules do not allow, before any page is asked."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(Request(scope))
        await (answer or self._app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        """Returns the answer to a request that goes no further; None if it may."""
        if not self._rules.accepts_host(request.headers.get("host", "")):
            return _plain(
                421, "This server does not go by that name. Open the address that `tune-jobs serve` printed."
            )
        if request.method not in ("GET", "HEAD", "POST"):
            return _plain(405, "Pages are read, nothing else.")
        if request.method == "POST" and not _is_own(request):
            return _plain(403, "This request comes from another site.")
        token = self._rules.token
        if token is None:
            return None
        if _equal(request.cookies.get(self._rules.cookie, ""), token):
            return None
        if request.method == "GET" and _equal(request.query_params.get("token", ""), token):
            # The token leaves the address bar, the history and what is copied from there.
            rest = urlencode([pair for pair in request.query_params.multi_items() if pair[0] != "token"])
            answer = RedirectResponse(request.url.path + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(self._rules.cookie, token, httponly=True, samesite="lax")
            return answer
        return _plain(
            401, "A token is needed: open the address that `tune-jobs serve` printed, with its token."
        )


def _is_own(request: Request) -> bool:
    """Returns whether a request comes from a page of this very server."""
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers["host"]


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status)
