"""The command line `tune-jobs`."""

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tune_jobs.cli import submit as submit_cli
from tune_jobs.errors import TuneJobsError

if TYPE_CHECKING:
    import pandas as pd

    from tune_jobs.job.spec import JobSpec
    from tune_jobs.search.run import SearchResult

app = typer.Typer(
    help="Find out whether sharpness-aware training helps a model, at which settings, and how sure one can be.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Job = Annotated[str, typer.Argument(metavar="JOB", help="A preset's name (see `list`) or a YAML file.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a value of the job; YAML.")
]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Search folder; default storage/name.")]
Folders = Annotated[list[str], typer.Argument(metavar="DIR...", help="Search folders.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A search folder.")]

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


@app.command("list")
def list_choices() -> None:
    """Presets, architectures, data sets, methods and parameters."""
    from tune_jobs.job.load import presets
    from tune_jobs.job.space import PARAMETERS
    from zsharp.data import DATASETS
    from zsharp.models import ARCHITECTURES
    from zsharp.optim import METHODS

    sections: dict[str, dict[str, str]] = {
        "Presets": presets(),
        "Architectures": {row.name: row.summary for row in ARCHITECTURES.values()},
        "Data sets": {row.name: row.summary for row in DATASETS.values()},
        "Methods": {row.name: row.summary for row in METHODS.values()},
        "Parameters": {row.name: f"{row.summary}; {row.valid}" for row in PARAMETERS.values()},
    }
    console = _console()
    for title, rows in sections.items():
        table = Table(box=None, padding=(0, 1), show_header=False, title=title, title_justify="left")
        table.add_column(no_wrap=True, style="bold")
        table.add_column()
        for name, summary in rows.items():
            table.add_row(escape(name), escape(summary))
        console.print(table)
        console.print()


@app.command()
def validate(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="A preset's name or a YAML file.")] = None,
    sets: Sets = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of job files.")] = False,
) -> None:
    """Every problem of a job file at once, each with its path, its value and what is valid."""
    import json

    from tune_jobs.job.load import load_job
    from tune_jobs.job.load import schema as job_schema

    if schema:
        typer.echo(json.dumps(job_schema(), indent=2))
        return
    if job is None:
        raise typer.BadParameter("name a job, or ask for --schema", param_hint="JOB")
    spec = load_job(job, sets or [])
    num_trials = len(spec.studies()) * spec.search.num_trials
    _console().print(
        f"[green]valid[/green]: {escape(spec.name)}, {len(spec.studies())} studies, {num_trials} trials"
    )


@app.command()
def plan(job: Job, sets: Sets = None, out: Out = None) -> None:
    """What a job would cost before it runs: studies, trials, epochs, resources, storage."""
    from tune_jobs.job.load import load_job
    from tune_jobs.search.plan import make_plan, render_plan

    _console().print(render_plan(make_plan(load_job(job, sets or []), out)))


@app.command()
def run(
    job: Job,
    sets: Sets = None,
    out: Out = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete a search in the folder and start again.")
    ] = False,
) -> None:
    """Run the search, write its Parquet files, and compare what it found."""
    from tune_jobs.cli.progress import Progress
    from tune_jobs.job.load import load_job
    from tune_jobs.search.run import run as run_search

    spec = load_job(job, sets or [])
    console = _console()
    with Progress(spec, console) as progress:
        result = run_search(spec, out, fresh=fresh, on_change=progress.on_change, on_start=progress.on_start)
    _show_result(console, spec, result)


@app.command()
def resume(folder: Folder, sets: Sets = None) -> None:
    """Continue a search after any stop; with more trials, epochs or budget, extend it."""
    from tune_jobs.cli.progress import Progress
    from tune_jobs.search.extend import extended
    from tune_jobs.search.folder import SearchFolder
    from tune_jobs.search.run import resume as resume_search

    search = SearchFolder(folder, writes=True)
    with search.open(read_only=True) as ledger:
        _, spec = extended(ledger, sets or [])
    console = _console()
    with Progress(spec, console) as progress:
        result = resume_search(search, sets or [], on_change=progress.on_change, on_start=progress.on_start)
    _show_result(console, spec, result)


def _show_result(console: Console, spec: "JobSpec", result: "SearchResult") -> None:
    """Prints what a search found and how it ended; the exit code says whether that is a success."""
    if result.stop_kind != "error":  # then there may be nothing to read
        _print_comparison(console, [result.folder])
        console.print(f"\nResults: {escape(str(result.folder / 'parquet'))}", soft_wrap=True)
    if result.stopped is not None:
        console.print(escape(f"Stopped before its last trial: {result.stopped}."), soft_wrap=True)
        console.print(escape(result.search.resume_hint), soft_wrap=True)
    if result.is_interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.stop_kind == "error":
        raise typer.Exit(EXIT_FAILED)
    num_failed = result.counts.get("failed", 0)
    if num_failed > spec.failures.max_failed_fraction * sum(result.counts.values()):
        console.print(f"{num_failed} trials failed: more than failures.max_failed_fraction allows.")
        raise typer.Exit(EXIT_FAILED)
    if not result.counts.get("completed"):
        console.print("No trial reached full fidelity.")
        raise typer.Exit(EXIT_FAILED)


@app.command()
def export(folder: Folder) -> None:
    """(Re)write the Parquet files of a search folder from its ledger."""
    from tune_jobs.results.write import export as export_folder
    from tune_jobs.search.folder import SearchFolder

    where = SearchFolder(folder)
    with where.open(read_only=True):  # of a remote one, the copy on this machine
        files = export_folder(where.local)
    where.publish()
    for file in files:
        typer.echo(file)


@app.command()
def confirm(
    folder: Folder,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Fresh seeds of each winner.")],
    top: Annotated[int, typer.Option("--top", metavar="K", help="Best configurations of each study.")] = 1,
    budget: Annotated[
        Literal["epochs", "gradients"],
        typer.Option("--budget", help="What is equal among methods: epochs, or gradient evaluations."),
    ] = "epochs",
    sharpness_images: Annotated[
        int,
        typer.Option(
            "--sharpness-images", min=0, metavar="N", help="Measure flatness on N training images; 0: not."
        ),
    ] = 512,
) -> None:
    """Retrain each study's winner with fresh seeds on all training data, and read the test set."""
    from tune_jobs.confirmation.run import confirm as confirm_folder

    console = _console()
    counts = {"done": 0, "all": 0}

    def on_start(num_runs: int, num_done: int) -> None:
        counts.update(done=num_done, all=num_runs)
        console.print(f"{num_runs} runs, {num_done} of them done already.")

    def on_row(row: dict[str, Any]) -> None:
        counts["done"] += 1
        accuracy = row.get("test_accuracy")
        found = f"test acc {accuracy:.4f}" if accuracy is not None else str(row["error"] or "")
        line = f"{counts['done']}/{counts['all']}  {row['trial_id']}  seed {row['seed']}  {row['status']}  {found}"
        console.print(escape(line), soft_wrap=True)

    try:
        rows = confirm_folder(
            folder,
            seeds,
            top=top,
            budget=budget,
            sharpness_images=sharpness_images,
            on_start=on_start,
            on_row=on_row,
        )
    except KeyboardInterrupt:
        console.print(
            escape(f"Interrupted. What ended is recorded; go on with: tune-jobs confirm {folder} ...")
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None
    for line in _answer(_local([folder])):
        console.print(escape(line), soft_wrap=True)
    if not any(row["status"] == "completed" for row in rows):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def compare(
    folders: Folders,
    form: Annotated[
        Literal["table", "csv", "markdown", "latex", "json"],
        typer.Option("--format", help="How to write it."),
    ] = "table",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one HTML page instead.")
    ] = None,
) -> None:
    """Architectures and methods side by side."""
    from tune_jobs.results.compare import comparison, to_csv, to_json, to_latex, to_markdown

    found = _local(folders)
    if html is not None:
        _write_report(found, html)
        return
    if form == "table":
        _print_comparison(_console(), found)
        return
    renderers: dict[str, Callable[[pd.DataFrame], str]] = {
        "csv": to_csv,
        "markdown": to_markdown,
        "latex": to_latex,
        "json": to_json,
    }
    typer.echo(renderers[form](comparison(found)), nl=False)


for _verb in submit_cli.VERBS:
    app.command()(_verb)


def _local(places: list[str]) -> list[Path]:
    """Returns the folders of this machine that have the results of searches, wherever those are."""
    from tune_jobs.search.folder import SearchFolder

    return [SearchFolder(place).results() for place in places]


def _write_report(folders: list[Path], page: Path) -> None:
    from tune_jobs.report.write import write_report

    try:
        written = write_report(folders, page)
    except OSError as problem:
        raise typer.BadParameter(f"cannot be written: {problem}", param_hint="--html") from None
    typer.echo(f"Report: {written.page}\nIts tables and figures as files: {written.files}")
    if written.missing:
        typer.echo(written.missing)


def _answer(folders: list[Path]) -> list[str]:
    from tune_jobs.report.answer import answer_in_words
    from tune_jobs.report.data import load

    return answer_in_words(load(folders))


def _print_comparison(console: Console, folders: list[Path]) -> None:
    from tune_jobs.report.answer import answer_in_words
    from tune_jobs.report.data import collect
    from tune_jobs.results import stopping_account as receipt
    from tune_jobs.results import transfer
    from tune_jobs.results.compare import compare_results, render_table
    from tune_jobs.results.read import read_all

    results = read_all(folders)
    answer = answer_in_words(collect(results))
    console.print(render_table(compare_results(results), is_settled=bool(answer)))
    for line in (*answer, *transfer.describe(results), *receipt.describe(results)):
        console.print(escape(line), soft_wrap=True)


def _console() -> Console:
    """In a pipe, lines are as long as they need to be, and nothing moves, even where colours are forced."""
    if sys.stdout.isatty():
        return Console(highlight=False, emoji=False)
    return Console(highlight=False, emoji=False, width=1000, force_interactive=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line. Prints an error of ours as text, and exits with its code.

    Args:
        argv: The words after `tune-jobs`; by default those of this process.
    """
    # As SIGINT from the first moment on: a search takes both over once it has begun.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(argv, prog_name=None if argv is None else "tune-jobs")
    except TuneJobsError as error:
        typer.echo(error, err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before a search has begun, or after it ended
        sys.exit(EXIT_INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
