"""The command line `tune-jobs`."""

import atexit
import gc
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tune_jobs.cli import job, results, search, submit
from tune_jobs.errors import EXIT_INTERRUPTED, TuneJobsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tune-jobs {version('zsharp-tune')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Find out whether sharpness-aware training helps your model, at which settings, and with what confidence."""


app.command("list")(job.list_choices)
for _verb in (
    job.validate,
    job.plan,
    search.run,
    search.resume,
    search.confirm,
    results.compare,
    results.export,
    submit.submit,
    submit.status,
    submit.logs,
    submit.stop,
    submit.fetch,
):
    app.command()(_verb)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line. Prints expected errors as text and exits with their codes.

    By default it takes the arguments of this process.
    """
    # At exit Python collects garbage once more, which takes most of a second with torch and Ray loaded.
    atexit.register(gc.freeze)
    # SIGTERM acts like Ctrl-C from the start; a running search installs its own handlers.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(argv, prog_name=None if argv is None else "tune-jobs")
    except TuneJobsError as error:
        typer.echo(error, err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before a search starts or after it has ended
        sys.exit(EXIT_INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
