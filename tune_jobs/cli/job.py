"""The verbs that inspect a job without running it: list, validate, plan."""

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tune_jobs.cli.arguments import Job, Out, Sets
from tune_jobs.cli.printing import console
from tune_jobs.errors import UsageError
from tune_jobs.wording import counted

if TYPE_CHECKING:
    from tune_jobs.job.data_checks import TriedJob
    from tune_jobs.job.spec import JobSpec


def list_choices() -> None:
    """Show the presets, architectures, data sets, methods and parameters that a job can name."""
    from tune_jobs.job.load import presets
    from tune_jobs.job.space import PARAMETERS
    from zsharp.data import DATASETS
    from zsharp.models import ARCHITECTURES, LIBRARIES
    from zsharp.optim import METHODS

    sections: dict[str, dict[str, str]] = {
        "Presets": presets(),
        "Architectures": {row.name: row.summary for row in ARCHITECTURES.values()}
        | {f"{library}/NAME": summary for library, summary in LIBRARIES.items()}
        | {"MODULE:FUNCTION": "a function of your own, such as nets:mixer (docs/own_model.md)"},
        "Data sets": {row.name: row.summary for row in DATASETS.values()}
        | {"MODULE:FUNCTION": "a function of your own that returns data sets or arrays (docs/own_data.md)"},
        "Methods": {row.name: row.summary for row in METHODS.values()},
        "Parameters": {row.name: f"{row.summary}; {row.valid}" for row in PARAMETERS.values()}
        | {
            "train.NAME": "any number or name of train, such as train.batch_size (docs/searching.md)",
            "model.NAME": "an argument of your own model or task",
        },
    }
    screen = console()
    for title, rows in sections.items():
        table = Table(box=None, padding=(0, 1), show_header=False, title=title, title_justify="left")
        table.add_column(no_wrap=True, style="bold")
        table.add_column()
        for name, summary in rows.items():
            table.add_row(escape(name), escape(summary))
        screen.print(table)
        screen.print()


def validate(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="A preset's name or a YAML file.")] = None,
    sets: Sets = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of job files.")] = False,
) -> None:
    """Check a job and print all of its problems at once, each with the valid values.

    Where its data are on this machine, each model is built once and run on two images.
    """
    from tune_jobs.job import load

    if schema:
        typer.echo(json.dumps(load.schema(), indent=2))
        return
    if job is None:
        raise UsageError("tune-jobs validate: missing JOB: a preset's name or a YAML file; or give --schema")
    spec = load.load_job(job, sets or [])
    shown = _rehearsal(spec) if spec.own else _models(spec)
    if spec.search.warm_start:
        from tune_jobs.search.warm_start import warm_points

        num_points = sum(map(len, warm_points(spec).values()))
        shown = [*shown, f"{counted(num_points, 'configuration')} of earlier searches will be tried first"]
    shown = [*shown, *map(escape, _not_for_here(spec))]
    screen = console()
    screen.print(
        f"[green]valid[/green]: {escape(spec.name)}, {counted(len(spec.studies()), 'study', 'studies')}, "
        f"{counted(spec.num_trials, 'trial')}"
    )
    for part in shown:
        screen.print(part, soft_wrap=isinstance(part, str))


def _not_for_here(job: "JobSpec") -> Iterator[str]:
    """Yields what `run` would refuse on this machine, and what was not looked at; elsewhere the job may run."""
    import torch

    from tune_jobs.cluster.slots import plan_slots
    from tune_jobs.errors import JobError, LedgerError, StorageError
    from tune_jobs.search.folder import check_folder, search_folder
    from zsharp.cpu import num_cpus

    if os.environ.get("RAY_ADDRESS"):
        yield "Not checked: whether trials fit the Ray of RAY_ADDRESS; `tune-jobs plan` does."
    else:
        try:
            slots = plan_slots(
                job.resources, num_cpus(), torch.cuda.device_count() if torch.cuda.is_available() else 0
            )
            if slots.sharing_line:
                yield f"On this machine: {slots.sharing_line}."
        except JobError as error:
            yield f"Not on this machine: {error}"
    try:
        check_folder(job, search_folder(job))
    except (JobError, LedgerError) as error:
        yield f"Not in its default folder: {error}"
    except StorageError as error:
        yield f"Not checked: its folder. {error}"


def _rehearsal(job: "JobSpec") -> list[str]:
    from tune_jobs.job.rehearsal import rehearse

    done = rehearse(job)
    if job.task is None:  # what a loop trains shows only when it does
        return []
    assert done.num_parameters is not None and done.steps_per_epoch is not None, "a task was built"
    weighs = f"{counted(done.num_parameters, 'trained parameter')}, {counted(done.steps_per_epoch, 'step')} per epoch"
    return [f"{escape(job.task)}: {weighs}", *map(escape, done.notes)]


def _models(job: "JobSpec") -> list[Table | str]:
    """Returns what the job's models weigh; a note if the data, which the models are sized by, are not here."""
    from tune_jobs.errors import JobError
    from tune_jobs.job.data_checks import try_job
    from zsharp.user_code import is_reference

    # Checking a job downloads nothing.
    here = job.model_copy(update={"data": job.data.model_copy(update={"download": False})})
    try:
        tried = try_job(here)
    except JobError as error:
        is_elsewhere = [problem.path for problem in error.problems] == ["data"]
        if not is_elsewhere or is_reference(job.data.name):
            raise
        unseen = "the models, and train.batch_size and data.max_images against the number of images"
        return [f"Not checked, since the data cannot be read here: {unseen}. {escape(str(error))}"]
    return [_models_table(job, tried), *map(escape, tried.notes)]


def _models_table(job: "JobSpec", tried: "TriedJob") -> Table:
    from tune_jobs.job.model_checks import memory_bytes

    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("architecture", no_wrap=True)
    for name in ("parameters", "trained", "MB before activations", "steps per epoch"):
        table.add_column(name, justify="right")
    for architecture, facts in tried.models.items():
        table.add_row(
            escape(architecture),
            f"{facts.num_parameters:,}",
            f"{facts.num_trained:,}",
            f"{memory_bytes(job, facts) / 1e6:,.1f}",
            f"{tried.steps_per_epoch:,}",
        )
    return table


def plan(
    job: Job,
    sets: Sets = None,
    out: Out = None,
    no_timing: Annotated[
        bool,
        typer.Option("--no-timing", help="Take no steps: say nothing of how long the search would take."),
    ] = False,
) -> None:
    """Show what a job would cost before it runs: trials, epochs, minutes, resources, storage.

    A few steps of each study are timed; the times are kept, so that a second plan is quick.
    """
    from tune_jobs.job.load import load_job
    from tune_jobs.search.plan import make_plan, render_plan

    spec, screen = load_job(job, sets or []), console()
    with screen.status("Timing a few steps of each study") if not no_timing else nullcontext():
        made = make_plan(spec, out, is_timed=not no_timing)
    screen.print(render_plan(made))
