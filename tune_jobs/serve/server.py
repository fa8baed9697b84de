"""Runs the server until it is interrupted."""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence

import uvicorn

from tune_jobs.errors import JobError, Problem
from tune_jobs.serve.app import make_app
from tune_jobs.serve.guard import is_loopback, rules_for
from tune_jobs.serve.searches import Searches


def serve(
    folders: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    names: Sequence[str] = (),
    allow_stop: bool = False,
    token: str | None = None,
    parent: int | None = None,
    on_start: Callable[[str, str | None], None],
) -> None:
    """Serves the live page until SIGINT or SIGTERM.

    Args:
        folders: Where searches are looked for; folders or addresses in object stores.
        host: What to listen on; anything but loopback has everybody asked for a token.
        port: 0 takes a free one.
        names: Further names that the server goes by.
        allow_stop: Whether a search can be stopped from its page, with the token.
        token: What everybody is asked for; by default a new one where one is needed.
        parent: A process whose end ends the server.
        on_start: Called with the page's address, and the token if it is new, once the server listens.

    Raises:
        JobError: If nothing can listen there.
    """
    try:
        listener = _listen(host, port)
    except OSError as problem:
        where = f"{host}:{port}"
        message = f"cannot listen there: {problem.strerror or problem}; give another --host or --port"
        raise JobError([Problem("--port", where, message)]) from None
    port = listener.getsockname()[1]
    named = [*names] if is_loopback(host) else [*names, socket.gethostname(), socket.getfqdn()]
    rules = rules_for(host, port, named, needs_token=allow_stop, token=token)
    searches = Searches(folders)
    app = make_app(searches, rules, allow_stop=allow_stop)
    # Its access log would print the token.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2,
        proxy_headers=False, lifespan="off", ws="none",
    )  # fmt: skip
    server = uvicorn.Server(config)

    async def run() -> None:
        watch = asyncio.create_task(_end_with(server, app.state.site, parent))
        await server.serve(sockets=[listener])
        watch.cancel()

    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    on_start(f"http://{shown}:{port}/", None if token else rules.token)
    try:
        with listener:
            asyncio.run(run())
    except KeyboardInterrupt:  # uvicorn has ended and passes it on
        pass
    finally:
        searches.close()
    if threading.active_count() > 1:
        # A report of a large search that is being made would keep the process for as long as that takes.
        sys.stdout.flush()
        os._exit(0)


async def _end_with(server: uvicorn.Server, site: object, parent: int | None) -> None:
    """Ends open streams when the server ends, and the server when its parent has."""
    while not server.should_exit:
        if parent is not None and os.getppid() != parent:
            server.should_exit = True
        await asyncio.sleep(0.2)
    site.is_closing = True  # type: ignore[attr-defined]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen()  # from here on requests wait, even if they come before the first can be answered
    except OSError:
        listener.close()
        raise
    return listener
