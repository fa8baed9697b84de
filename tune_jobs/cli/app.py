"""The command line `tune-jobs`."""

import atexit
import errno
import gc
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tune_jobs.cli import job, results, search, serve, submit
from tune_jobs.cli.streams import lost_output, make_lasting
from tune_jobs.cli.usage import run_verb
from tune_jobs.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED, TuneJobsError
from tune_jobs.wording import printable
from zsharp.home import ensure_home

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
    results.report,
    results.export,
    results.replay,
    serve.serve,
    submit.submit,
    submit.status,
    submit.logs,
    submit.stop,
    submit.fetch,
):
    app.command()(_verb)


# A path that somebody gave is at fault; anything else is the machine's.
_ABOUT_PATHS = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV, errno.ENXIO),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line. Prints expected errors as text and exits with their codes.

    By default it takes the arguments of this process.
    """
    # At exit Python collects garbage once more, which takes most of a second with torch and Ray loaded.
    atexit.register(gc.freeze)
    make_lasting()
    # SIGTERM acts like Ctrl-C from the start; a running search installs its own handlers.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ensure_home()
        try:
            sys.exit(run_verb(app, argv))
        except SystemExit as ended:
            if ended.code not in (0, None) or (reason := lost_output()) is None:
                raise
            _complain(f"Standard output failed, and what should have followed is lost: {reason}")
            # A search that has run is a success, whoever heard of it.
            trained = {*(sys.argv[1:] if argv is None else argv)} & {"run", "resume", "confirm"}
            sys.exit(0 if trained else EXIT_FAILED)
    except TuneJobsError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # the one place for all verbs: files that cannot be read or written
        _complain(_explained(error))
        sys.exit(EXIT_BAD_INPUT if error.errno in _ABOUT_PATHS else EXIT_FAILED)
    except KeyboardInterrupt:  # before a search starts or after it has ended
        sys.exit(EXIT_INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _complain(message: str) -> None:
    for line in message.split("\n"):
        typer.echo(printable(line), err=True)


def _explained(error: OSError) -> str:
    """Returns which file could not be used, and why."""
    if error.strerror is None:  # raised by a library, with a text of its own
        return str(error) or type(error).__name__
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*files, error.strerror])
