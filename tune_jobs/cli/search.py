"""The verbs that train models: run, resume, confirm."""

import shlex
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from tune_jobs.cli import results
from tune_jobs.cli.arguments import (
    AllowStop,
    Architectures,
    ChangedCode,
    Folder,
    Job,
    Methods,
    Out,
    Serve,
    Sets,
    names_of,
)
from tune_jobs.cli.printing import console
from tune_jobs.cli.serve import page_beside
from tune_jobs.errors import EXIT_FAILED, EXIT_INTERRUPTED
from tune_jobs.wording import command_for, counted, duration

if TYPE_CHECKING:
    from tune_jobs.confirmation.forecast import Suggestion
    from tune_jobs.job.spec import JobSpec
    from tune_jobs.search.folder import SearchFolder
    from tune_jobs.search.run import SearchResult
    from tune_jobs.search.trial import LiveTrial

_SHARPNESS_IMAGES = 512


def run(
    job: Job,
    sets: Sets = None,
    out: Out = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the search in the folder and start over.")
    ] = False,
    allow_changed_code: ChangedCode = False,
    serve: Serve = False,
    allow_stop: AllowStop = False,
) -> None:
    """Run a search, write its Parquet files, and compare the results."""
    from tune_jobs.cli.progress import Progress
    from tune_jobs.job.load import load_job
    from tune_jobs.search.folder import search_folder
    from tune_jobs.search.run import run as run_search

    spec = load_job(job, sets or [])
    screen = console()
    page = page_beside(search_folder(spec, out).address, serve=serve, allow_stop=allow_stop)
    with page, Progress(spec, screen) as progress:
        on_change = _loading_results_early(progress.on_change)
        result = run_search(
            spec,
            out,
            fresh=fresh,
            allow_changed_code=allow_changed_code,
            on_change=on_change,
            on_start=progress.on_start,
            write_page=results.write_page,
            on_data=progress.on_data,
        )
    _show_result(screen, spec, result)


def resume(
    folder: Folder,
    sets: Sets = None,
    allow_changed_code: ChangedCode = False,
    serve: Serve = False,
    allow_stop: AllowStop = False,
) -> None:
    """Resume a stopped search, or extend one with more trials, epochs or budget."""
    from tune_jobs.cli.progress import Progress
    from tune_jobs.search.extend import extended
    from tune_jobs.search.folder import SearchFolder
    from tune_jobs.search.run import resume as resume_search

    search = SearchFolder(folder, writes=True)
    with search.open(read_only=True) as ledger:
        _, spec = extended(ledger, sets or [])
    screen = console()
    page = page_beside(search.address, serve=serve, allow_stop=allow_stop)
    with page, Progress(spec, screen) as progress:
        on_change = _loading_results_early(progress.on_change)
        result = resume_search(
            search,
            sets or [],
            allow_changed_code=allow_changed_code,
            on_change=on_change,
            on_start=progress.on_start,
            write_page=results.write_page,
            on_data=progress.on_data,
        )
    _show_result(screen, spec, result)


def confirm(
    folder: Folder,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            metavar="N",
            help="Number of fresh seeds for each winner; by default as many as can decide between the methods.",
        ),
    ] = None,
    methods: Methods = None,
    architectures: Architectures = None,
    top: Annotated[
        int, typer.Option("--top", metavar="K", help="Confirm the K best configurations of each study.")
    ] = 1,
    budget: Annotated[
        Literal["epochs", "gradients"],
        typer.Option(
            "--equal", "--budget", help="What all methods get equally: epochs or gradient evaluations."
        ),
    ] = "epochs",
    incumbents: Annotated[
        bool,
        typer.Option(
            "--incumbents",
            help="Also train what was each study's best so far as the search went, to learn whether it overtuned.",
        ),
    ] = False,
    sharpness: Annotated[
        bool,
        typer.Option("--sharpness", help="Measure how flat each minimum is; may take as long as training."),
    ] = False,
    sharpness_images: Annotated[
        int | None,
        typer.Option(
            "--sharpness-images",
            min=0,
            metavar="N",
            help=f"Measure it on N training images; by default {_SHARPNESS_IMAGES}.",
        ),
    ] = None,
    allow_changed_code: ChangedCode = False,
) -> None:
    """Retrain each study's winner on all training data with fresh seeds, and evaluate it on the test set."""
    from tune_jobs.cli.confirming import Confirming
    from tune_jobs.confirmation.run import confirm as confirm_folder
    from tune_jobs.job.metric import Metric
    from tune_jobs.search.folder import SearchFolder

    if sharpness_images is None:
        sharpness_images = _SHARPNESS_IMAGES if sharpness else 0
    with SearchFolder(folder).open(read_only=True) as ledger:
        metric = Metric.of_job(ledger.job)
    screen = console()
    try:
        with Confirming(metric, screen) as progress:
            rows = confirm_folder(
                folder,
                seeds,
                top=top,
                budget=budget,
                with_incumbents=incumbents,
                methods=names_of(methods),
                architectures=names_of(architectures),
                sharpness_images=sharpness_images,
                allow_changed_code=allow_changed_code,
                on_start=progress.on_start,
                on_row=progress.on_row,
            )
    except KeyboardInterrupt:
        given = {
            "--seeds": seeds,
            "--methods": methods,
            "--architectures": architectures,
            "--top": top if top > 1 else None,
            "--equal": budget if budget != "epochs" else None,
            "--sharpness-images": sharpness_images or None,
        }
        options = "".join(
            f" {name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None
        )
        options += " --incumbents" if incumbents else ""
        options += " --allow-changed-code" if allow_changed_code else ""
        screen.print(
            "Interrupted. Finished runs are recorded, and the others continue from their last epoch."
        )
        screen.print(escape(f"Resume with: {command_for('confirm', folder, options)}"), soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    searched = results.local_folders([folder])
    results.print_answer(screen, searched, [folder])
    results.print_overtuning(screen, searched)
    screen.print(escape(results.report_hint(folder)), soft_wrap=True)
    if not any(row["status"] == "completed" for row in rows):
        raise typer.Exit(EXIT_FAILED)


def _loading_results_early(on_change: Callable[["LiveTrial"], None]) -> Callable[["LiveTrial"], None]:
    """Imports the comparison's libraries while trials train, as users would wait for it after the last trial."""
    loading: Thread | None = None

    def call(trial: "LiveTrial") -> None:
        nonlocal loading
        if loading is None and trial.epoch > 0:
            loading = Thread(target=results.load_libraries, daemon=True)
            loading.start()
        on_change(trial)

    return call


def _show_result(screen: Console, spec: "JobSpec", result: "SearchResult") -> None:
    suggested = []
    if result.stopped is None and result.counts.get("completed"):
        suggested = _suggest_confirmation(result.search)
    if result.stop_kind != "error":  # an error may have left no results
        folders, addresses = [result.folder], [result.search.address]
        results.print_comparison(screen, folders, addresses, names_command=not suggested)
        screen.print(f"\nResults: {escape(str(result.folder / 'parquet'))}", soft_wrap=True)
        screen.print(escape(results.report_hint(result.search.address)), soft_wrap=True)
    if result.stopped is not None:
        screen.print(escape(f"Stopped before its last trial: {result.stopped}."), soft_wrap=True)
        screen.print(escape(result.search.resume_hint), soft_wrap=True)
    for line in suggested:
        screen.print(escape(line), soft_wrap=True)
    if result.is_interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.stop_kind == "error":
        raise typer.Exit(EXIT_FAILED)
    num_failed = result.counts.get("failed", 0)
    if num_failed > spec.failures.max_failed_fraction * sum(result.counts.values()):
        screen.print(f"{counted(num_failed, 'trial')} failed: more than failures.max_failed_fraction allows.")
        raise typer.Exit(EXIT_FAILED)
    if not result.counts.get("completed"):
        screen.print("No trial trained for all of its epochs.")
        raise typer.Exit(EXIT_FAILED)


def _suggest_confirmation(search: "SearchFolder") -> list[str]:
    """Returns the commands that settle which method is better, of all or of two alone, and what each costs."""
    from tune_jobs.confirmation.forecast import suggest_confirmation
    from tune_jobs.results.method_names import named_pairs, short_name

    with search.open(read_only=True) as ledger:
        whole = suggest_confirmation(ledger)
        if whole is None:
            return []
        methods = list(ledger.job["methods"])
        a, b = next(iter(named_pairs({name: name for name in methods})), ("", ""))
        few = suggest_confirmation(ledger, [a, b]) if len(methods) > 2 and a else None
    command = command_for("confirm", search.address, f" --seeds {whole.num_seeds}")
    lines = [f"Confirm the winners on fresh seeds with: {command}  ({_cost(whole)})"]
    if few is not None and few.num_runs < whole.num_runs:
        options = f" --methods {a},{b} --seeds {few.num_seeds}"
        command = command_for("confirm", search.address, options)
        lines.append(f"Or only {short_name(a)} and {short_name(b)}: {command}  ({_cost(few)})")
    return lines


def _cost(suggestion: "Suggestion") -> str:
    cost = counted(suggestion.num_runs, "run")
    return cost if suggestion.seconds is None else f"{cost}, about {duration(suggestion.seconds)}"
