"""The verb that shows searches in a browser while they run: serve."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.storage import address_problem, is_address

DEFAULT_PORT = 8420


def serve(
    folders: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FOLDER]...", help="Where to look for searches; by default `results`."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="What to listen on; beyond loopback a token is asked for.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORT,
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
    check_installed()
    from tune_jobs.serve.server import serve as run_server

    run_server(
        searched,
        host=host,
        port=port,
        names=names or (),
        allow_stop=allow_stop,
        parent=parent,
        on_start=_say_address,
    )


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
def served(folder: str) -> Iterator[None]:
    """Inside, a process of its own serves a search's page, so that the search is not slowed."""
    check_installed()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"--port={port}", f"--parent={os.getpid()}"]
    # A session of its own: Ctrl-C is for the search, whose page shows how it winds down. What it prints is said here,
    # since it would write over the table of a running search.
    process = subprocess.Popen(
        [sys.executable, "-m", "tune_jobs", "serve", folder, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    _say_address(f"http://127.0.0.1:{port}/", None)
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
