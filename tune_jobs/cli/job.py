"""The verbs that inspect a job without running it: list, validate, plan."""

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tune_jobs.cli.arguments import Job, Out, Sets
from tune_jobs.cli.printing import console


def list_choices() -> None:
    """Show the presets, architectures, data sets, methods and parameters that a job can name."""
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
    """Check a job and print all of its problems at once, each with the valid values."""
    from tune_jobs.job import load

    if schema:
        typer.echo(json.dumps(load.schema(), indent=2))
        return
    if job is None:
        raise typer.BadParameter("give a job, or use --schema", param_hint="JOB")
    spec = load.load_job(job, sets or [])
    console().print(
        f"[green]valid[/green]: {escape(spec.name)}, {len(spec.studies())} studies, {spec.num_trials} trials"
    )


def plan(job: Job, sets: Sets = None, out: Out = None) -> None:
    """Show what a job would cost before it runs: trials, epochs, resources, storage."""
    from tune_jobs.job.load import load_job
    from tune_jobs.search.plan import make_plan, render_plan

    console().print(render_plan(make_plan(load_job(job, sets or []), out)))
