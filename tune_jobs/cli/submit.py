"""The verbs that use a Ray cluster: submit, status, logs, stop, fetch.

Modules that import Ray are imported only after the cluster has answered, so that a wrong address is reported at once.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_jobs.cli.arguments import Architectures, ChangedCode, Methods, Sets, names_of
from tune_jobs.cli.printing import Printable
from tune_jobs.errors import EXIT_FAILED, NOTHING, ClusterError, JobError, Problem
from tune_jobs.submit.protocol import FOLDER
from tune_jobs.wording import printable, submit_command

if TYPE_CHECKING:
    from tune_jobs.submit.client import Cluster

Address = Annotated[
    str,
    typer.Option(
        "--address", metavar="URL", help="Address of the cluster's job server, such as http://127.0.0.1:8265."
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The id that `submit` printed.")]


def submit(
    address: Address,
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="A preset's name (see `list`) or a YAML file.")
    ] = None,
    sets: Sets = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="DIR", help="Instead of JOB: resume or extend the search in a folder there."
        ),
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option(
            "--confirm", metavar="DIR", help="Instead of JOB: confirm the winners of a search there."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=1, help="Fresh seeds of a confirmation.")
    ] = None,
    methods: Methods = None,
    architectures: Architectures = None,
    allow_changed_code: ChangedCode = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The search folder on the cluster; by default the job's storage and name.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the log until the search ends, then exit with its code.")
    ] = False,
    python: Annotated[
        str | None,
        typer.Option(
            "--python", metavar="PATH", help="Python interpreter on the cluster; by default `python`."
        ),
    ] = None,
    pip: Annotated[
        bool,
        typer.Option("--pip", help="Install the packages that are installed here, in the same versions."),
    ] = False,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", metavar="URI", help="Run in this container image, which must contain the package."
        ),
    ] = None,
    wait_for_workers: Annotated[
        float,
        typer.Option(
            "--wait-for-workers", metavar="S", min=0, help="Give the cluster up to S seconds to add machines."
        ),
    ] = 0.0,
) -> None:
    """Run a search on a Ray cluster, resume or extend it there, or confirm its winners."""
    given = [name for name, value in (("JOB", job), ("--resume", resume), ("--confirm", confirm)) if value]
    if len(given) != 1:
        wrong = f"not together with {given[1]}" if given else "missing"
        text = f"{wrong}; give one of JOB, --resume DIR and --confirm DIR"
        raise JobError([Problem("JOB", NOTHING, text)])
    _refuse("--set", sets, confirm is not None, "a confirmation trains what the search found")
    for option, value in (("--seeds", seeds), ("--methods", methods), ("--architectures", architectures)):
        _refuse(option, value, confirm is None, "it belongs to --confirm")
    _refuse("--out", out, job is None, f"{given[0]} names the folder")
    from tune_jobs.job.load import load_job

    spec = None if job is None else load_job(job, sets or [])
    with _cluster(address) as cluster:
        from tune_jobs.submit.submit import Setup, go_on
        from tune_jobs.submit.submit import submit as submit_job

        setup = Setup(python, pip, image, wait_for_workers, allow_changed_code)
        if spec is not None:
            submission = submit_job(spec, cluster, setup, out=out)
        elif resume is not None:
            submission = go_on("resume", resume, cluster, setup, sets=sets or [])
        else:
            chosen = {"methods": names_of(methods), "architectures": names_of(architectures)}
            submission = go_on("confirm", confirm or "", cluster, setup, seeds=seeds, **chosen)
        typer.echo(f"Submitted: {submission.id}")
        typer.echo(f"Dashboard: {submission.dashboard}")
        typer.echo(f"Folder: {submission.folder}")
        typer.echo(f"Live page: {submission.page}")
        if follow:
            _follow(cluster, submission.id)


def _refuse(option: str, value: object, is_wrong: bool, why: str) -> None:
    if value and is_wrong:
        raise JobError([Problem(option, NOTHING, f"not with this: {why}; remove it")])


def status(
    address: Address,
    job_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="The id that `submit` printed; without one, list all searches."),
    ] = None,
) -> None:
    """Show the status of submitted searches."""
    with _cluster(address, job_id) as cluster:
        from tune_jobs.submit.submit import dashboard
        from tune_jobs.submit.watch import details, submitted

        if job_id is None:
            for job in submitted(cluster):
                row = (job.submission_id, job.status.value, _when(job.start_time), job.metadata[FOLDER])
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
        bool, typer.Option("--follow", help="Keep printing until the search ends, then exit with its code.")
    ] = False,
) -> None:
    """Print the log of a submitted search."""
    with _cluster(address, job_id) as cluster:
        from tune_jobs.submit.watch import logs as job_logs

        if follow:
            _follow(cluster, job_id)
            return
        with closing(Printable()) as write:
            write(job_logs(cluster, job_id))


def stop(job_id: JobId, address: Address) -> None:
    """Stop a submitted search after its running epochs; `submit --resume DIR` resumes it."""
    with _cluster(address, job_id) as cluster:
        from tune_jobs.submit.watch import stop as stop_job

        job = stop_job(cluster, job_id)
    typer.echo(f"{job_id}: {job.status.value}")
    folder = (job.metadata or {}).get(FOLDER)
    if job.status == "STOPPED" and folder is not None:
        verb = "confirm" if "--verb=confirm" in (job.entrypoint or "") else "resume"
        typer.echo(printable(f"Resume with: {submit_command(verb, folder, cluster.url)}"))


def fetch(
    job_id: JobId,
    address: Address,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder to write to; by default one named after the id."),
    ] = None,
    all_files: Annotated[
        bool, typer.Option("--all", help="Fetch the ledger too, from which everything can be made again.")
    ] = False,
) -> None:
    """Copy a submitted search's Parquet files and report to this machine."""
    target = out if out is not None else Path(job_id)
    with _cluster(address, job_id) as cluster:
        from tune_jobs.submit.fetch import fetch as fetch_job

        for file in fetch_job(cluster, job_id, target, with_ledger=all_files):
            typer.echo(file)
    if not all_files:
        typer.echo(
            "Not fetched: the ledger, which `export` and `confirm` need (--all fetches it), and checkpoints."
        )


@contextmanager
def _cluster(address: str, job_id: str | None = None) -> "Iterator[Cluster]":
    """Connects to a cluster. Prints a failure of the cluster inside as one line and exits with code 1."""
    from tune_jobs.submit.client import checked_id, connect

    if job_id is not None:
        checked_id(job_id)
    cluster = connect(address)
    if cluster.is_exposed:
        typer.echo(
            f"Warning: token and code travel to {cluster.url} unencrypted; use https or a tunnel.",
            err=True,
        )
    try:
        yield cluster
    except ClusterError as error:
        typer.echo(printable(str(error)), err=True)
        raise typer.Exit(EXIT_FAILED) from None


def _follow(cluster: "Cluster", job_id: str) -> None:
    from tune_jobs.submit.watch import exit_code, follow

    try:
        with closing(Printable()) as write:
            job = follow(cluster, job_id, write)
    except KeyboardInterrupt:
        typer.echo(
            f"\nThe search is still running. Follow it with: tune-jobs logs {job_id} --follow --address {cluster.url}",
            err=True,
        )
        raise
    code = exit_code(job)
    if code:
        first_line = (job.message or "").partition("\n")[0]
        typer.echo(printable(f"{job_id}: {job.status.value}. {first_line}"), err=True)
        raise typer.Exit(code)


def _when(stamp_ms: Any) -> str:
    if not stamp_ms:  # not started, or not ended
        return ""
    try:
        return datetime.fromtimestamp(stamp_ms / 1000, UTC).isoformat(" ", "seconds")
    except (OverflowError, OSError, ValueError):  # a server may send any number
        return str(stamp_ms)
