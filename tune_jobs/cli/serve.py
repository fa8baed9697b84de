"""The verb that shows searches in a browser while they run: serve."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated

import typer

from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.storage import address_problem, is_address

DEFAULT_PORT = 8420
_TOKEN_VARIABLE = "TUNE_JOBS_TOKEN"
_SHORTEST_TOKEN = 16


def serve(
    folders: Annotated[
        list[str] | None,
        typer.Argument(metavar="FOLDER", help="Folders to look for searches in; by default results."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="The address to listen on; beyond this machine, whoever visits needs a token."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The port to listen on; 0 takes a free one.")
    ] = DEFAULT_PORT,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="HOST", help="Another name that the server goes by, behind a proxy."),
    ] = None,
    allow_stop: Annotated[
        bool, typer.Option("--allow-stop", help="Let whoever has the token stop searches from their pages.")
    ] = False,
    parent: Annotated[int | None, typer.Option("--parent", hidden=True)] = None,
) -> None:
    """Show searches in a browser, live: every search below some folders."""
    searched = folders or ["results"]
    problems = [
        Problem("FOLDER", folder, problem)
        for folder in searched
        if is_address(folder) and (problem := address_problem(folder))
    ]
    if problems:
        raise JobError(problems)
    token = os.environ.pop(_TOKEN_VARIABLE, None) or None
    if token is not None and len(token) < _SHORTEST_TOKEN:
        text = f"too short to be a secret; expected at least {_SHORTEST_TOKEN} characters"
        raise JobError([Problem(_TOKEN_VARIABLE, NOTHING, text)])
    check_installed()
    from tune_jobs.serve.server import serve as run_server

    run_server(
        searched,
        host=host,
        port=port,
        names=names or (),
        allow_stop=allow_stop,
        token=token,
        parent=parent,
        on_start=_say_address,
    )


def page_beside(folder: str, *, serve: bool, allow_stop: bool) -> AbstractContextManager[None]:
    """Returns what serves a search's page while it runs, if that is asked for."""
    if allow_stop and not serve:
        raise JobError([Problem("--allow-stop", NOTHING, "expected it with --serve")])
    return served(folder, allow_stop=allow_stop) if serve else nullcontext()


def check_installed() -> None:
    """Raises an error with the command that installs what the server needs, if that is missing."""
    try:
        import starlette
        import uvicorn
    except ModuleNotFoundError as missing:
        text = f"{missing.name} is not installed; the live page needs `pip install 'zsharp-tune[serve]'`"
        raise JobError([Problem("serve", NOTHING, text)]) from None
    assert starlette and uvicorn


@contextmanager
def served(folder: str, *, allow_stop: bool = False) -> Iterator[None]:
    """Inside, a process of its own serves a search's page, so that the search is not slowed."""
    check_installed()
    from tune_jobs.serve.guard import new_token

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"--port={port}", f"--parent={os.getpid()}", *(["--allow-stop"] if allow_stop else [])]
    token = new_token() if allow_stop and not os.environ.get(_TOKEN_VARIABLE) else None
    # A session of its own: Ctrl-C is for the search, whose page shows how it winds down. What it prints is said here,
    # since it would write over the table of a running search.
    process = subprocess.Popen(
        [sys.executable, "-m", "tune_jobs", "serve", folder, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | ({} if token is None else {_TOKEN_VARIABLE: token}),
    )
    _say_address(f"http://127.0.0.1:{port}/", token)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()


def _say_address(address: str, token: str | None) -> None:
    shown = address if token is None else f"{address}?token={token}"
    typer.echo(f"Live page: {shown}")
    if token is not None:
        typer.echo("The token in it is shown once; a browser that has opened the page keeps it.", err=True)
    sys.stdout.flush()
