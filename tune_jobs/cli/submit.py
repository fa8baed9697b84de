"""The verbs of `tune-jobs` that reach a Ray cluster: submit, status, logs, stop, fetch.

What loads Ray is imported once a cluster has answered: a wrong address is said at once.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_jobs.cli.printing import Printable, printable
from tune_jobs.submit.protocol import FOLDER

if TYPE_CHECKING:
    from tune_jobs.submit.client import Cluster

Address = Annotated[
    str,
    typer.Option("--address", metavar="URL", help="The cluster's job server, as in http://127.0.0.1:8265."),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="What `submit` printed.")]


def submit(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A preset's name (see `list`) or a YAML file.")],
    address: Address,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a value of the job; YAML.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Search folder on the cluster; default storage/name."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print its log until it ends, and end as it does.")
    ] = False,
    python: Annotated[
        str | None,
        typer.Option("--python", metavar="PATH", help="Interpreter on the cluster; default python."),
    ] = None,
    pip: Annotated[
        bool, typer.Option("--pip", help="Install the requirements there, pinned as here.")
    ] = False,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="URI", help="Run in this container image, which has the code."),
    ] = None,
    wait_for_workers: Annotated[
        float,
        typer.Option("--wait-for-workers", metavar="S", min=0, help="Seconds for a cluster to grow in."),
    ] = 0.0,
) -> None:
    """Run the search on a Ray cluster; the same again goes on where it stopped."""
    from tune_jobs.job.load import load_job

    spec = load_job(job, sets or [])
    with _cluster(address) as cluster:
        from tune_jobs.submit.submit import submit as submit_job

        begun = submit_job(
            spec, cluster, out=out, python=python, pip=pip, image=image, wait_for_workers_s=wait_for_workers
        )
        typer.echo(f"Submitted: {begun.id}\nDashboard: {begun.dashboard}\nFolder: {begun.folder}")
        if follow:
            _follow(cluster, begun.id)


def status(
    address: Address,
    job_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="What `submit` printed; without it, all searches.")
    ] = None,
) -> None:
    """How submitted searches stand."""
    with _cluster(address, job_id) as cluster:
        from tune_jobs.submit.submit import dashboard
        from tune_jobs.submit.watch import details, submitted

        if job_id is None:
            for one in submitted(cluster):
                row = (one.submission_id, one.status.value, _when(one.start_time), one.metadata[FOLDER])
                typer.echo(printable("  ".join(row)))
            return
        job = details(cluster, job_id)
    code = None if job.driver_exit_code is None else str(job.driver_exit_code)
    facts = {
        "Status": job.status.value,
        "Started": _when(job.start_time),
        "Ended": _when(job.end_time),
        "Exit code": code,
        "Folder": (job.metadata or {}).get(FOLDER),
        "Dashboard": dashboard(cluster, job_id),
        "Message": (job.message or "").partition("\n")[0],
    }
    for name, value in facts.items():
        if value:
            typer.echo(printable(f"{name}: {value}"))


def logs(
    job_id: JobId,
    address: Address,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the job ends, and end as it does.")
    ] = False,
) -> None:
    """What a submitted search has printed."""
    with _cluster(address, job_id) as cluster:
        from tune_jobs.submit.watch import logs as job_logs

        if follow:
            _follow(cluster, job_id)
            return
        with _printable() as write:
            write(job_logs(cluster, job_id))


def stop(job_id: JobId, address: Address) -> None:
    """Stop a submitted search; running epochs end first, and the same job submitted again resumes it."""
    with _cluster(address, job_id) as cluster:
        from tune_jobs.submit.watch import stop as stop_job

        job = stop_job(cluster, job_id)
    typer.echo(f"{job_id}: {job.status.value}")
    if job.status == "STOPPED":
        typer.echo("It goes on when the same job is submitted again.")


def fetch(
    job_id: JobId,
    address: Address,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to; default a folder with the id as its name."),
    ] = None,
) -> None:
    """Bring a submitted search's Parquet files and report home."""
    with _cluster(address, job_id) as cluster:
        from tune_jobs.submit.fetch import fetch as fetch_job

        for file in fetch_job(cluster, job_id, out if out is not None else Path(job_id)):
            typer.echo(file)


VERBS = (submit, status, logs, stop, fetch)


@contextmanager
def _cluster(address: str, job_id: str | None = None) -> "Iterator[Cluster]":
    """Connects; what the cluster fails at inside is one line and exit code 1."""
    from tune_jobs.errors import ClusterError
    from tune_jobs.submit.client import checked_id, connect

    if job_id is not None:
        checked_id(job_id)
    cluster = connect(address)
    if cluster.is_exposed:
        typer.echo(
            f"Unencrypted: token and code travel to {cluster.url} as they are; use https or a tunnel.",
            err=True,
        )
    try:
        yield cluster
    except ClusterError as error:
        typer.echo(printable(str(error)), err=True)
        raise typer.Exit(1) from None


def _follow(cluster: "Cluster", job_id: str) -> None:
    """Prints a job's log until it ends, and ends with the exit code of its class."""
    from tune_jobs.submit.watch import exit_code, follow

    try:
        with _printable() as write:
            job = follow(cluster, job_id, write)
    except KeyboardInterrupt:
        typer.echo(
            f"\nThe search goes on. See it: tune-jobs logs {job_id} --follow --address {cluster.url}",
            err=True,
        )
        raise
    code = exit_code(job)
    if code:
        typer.echo(
            printable(f"{job_id}: {job.status.value}. {(job.message or '').partition(chr(10))[0]}"), err=True
        )
        raise typer.Exit(code)


@contextmanager
def _printable() -> Iterator[Callable[[str], None]]:
    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    shown = Printable(write)
    try:
        yield shown
    finally:
        shown.close()


def _when(stamp_ms: Any) -> str:
    return "" if not stamp_ms else datetime.fromtimestamp(stamp_ms / 1000, UTC).isoformat(" ", "seconds")
