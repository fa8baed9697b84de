"""The verbs that print and write results: compare, report, export, replay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from tune_jobs.cli.arguments import Folder, Folders
from tune_jobs.cli.printing import console
from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.storage import is_address, room_problem
from tune_jobs.wording import command_for, counted

if TYPE_CHECKING:
    from tune_jobs.report.data import Report
    from tune_jobs.search.folder import SearchFolder


def compare(
    folders: Folders,
    form: Annotated[
        Literal["table", "csv", "markdown", "latex", "json"],
        typer.Option("--format", help="How to print the comparison."),
    ] = "table",
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the report, one HTML page, to this file instead."),
    ] = None,
    details: Annotated[
        bool,
        typer.Option("--details", help="Say, study by study, where early stopping nearly stopped a winner."),
    ] = False,
    trials: Annotated[
        bool,
        typer.Option("--trials", help="With --format csv: one row for each trial, not for each study."),
    ] = False,
    differences: Annotated[
        bool,
        typer.Option(
            "--differences",
            help="Instead of studies: one row for every two methods on fresh seeds, with interval, p and verdict.",
        ),
    ] = False,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Print only rows where this holds, such as 'method != \"base\"'; columns are those of --format csv.",
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort",
            metavar="COLUMN,...",
            help="Sort the rows; a minus before a column puts the largest first.",
        ),
    ] = None,
) -> None:
    """Say which method beat which, and compare architectures and methods side by side."""
    from tune_jobs.results import compare as comparison
    from tune_jobs.results.read import read_all
    from tune_jobs.results.select import select

    if trials and (form != "csv" or html is not None):
        raise JobError([Problem("--trials", NOTHING, "needs --format csv; add that")])
    if differences and (trials or html is not None):
        other = "--trials" if trials else "--html, whose page has them"
        raise JobError([Problem("--differences", NOTHING, f"not with {other}; remove one of the two")])
    is_selected = where is not None or sort is not None
    if is_selected and html is not None:
        option = "--sort" if where is None else "--where"
        raise JobError(
            [Problem(option, NOTHING, "not with --html, whose tables can be sorted in the browser")]
        )
    page = None if html is None else _page(html)
    searched = local_folders(folders)
    if page is not None:
        _write_report(folders, searched, page)
    elif differences:
        _print_differences(searched, folders, form, where, sort)
    elif form == "table" and is_selected:
        table = select(comparison.compare(searched), where, sort)
        console().print(comparison.render_table(table))
    elif form == "table":
        print_comparison(console(), searched, folders, details=details)
    else:
        renderers: dict[str, Callable[..., str]] = {
            "csv": comparison.to_csv,
            "markdown": partial(comparison.to_markdown, is_settled=not is_selected),
            "latex": comparison.to_latex,
            "json": comparison.to_json,
        }
        if form == "markdown" and not is_selected:
            typer.echo(_answer_as_markdown(searched, folders))
        table = comparison.trials_of(read_all(searched)) if trials else comparison.compare(searched)
        typer.echo(renderers[form](select(table, where, sort)), nl=False)
        if form == "markdown" and not is_selected:
            typer.echo(_account_as_markdown(searched, details=details), nl=False)


def _print_differences(
    folders: list[Path], addresses: Sequence[str], form: str, where: str | None, sort: str | None
) -> None:
    import pandas as pd

    from tune_jobs.report.data import load
    from tune_jobs.report.differences import all_differences
    from tune_jobs.results import tables
    from tune_jobs.results.select import select

    table = all_differences(load(folders, addresses))
    if table is None:
        text = "no two methods have fresh seeds, so there are no pairs to compare; `tune-jobs confirm DIR` trains them"
        raise JobError([Problem("--differences", NOTHING, text)])
    table = replace(table, rows=tables.records(select(pd.DataFrame(table.rows), where, sort)))
    if form == "table":
        console().print(tables.to_rich(table))
        return
    to_text = {
        "csv": tables.to_csv,
        "json": tables.to_json,
        "markdown": tables.to_markdown,
        "latex": tables.to_latex,
    }
    typer.echo(to_text[form](table), nl=False)


def report(
    folders: Folders,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The page; by default report.html in the search folder.",
        ),
    ] = None,
) -> None:
    """Write the report, one HTML page of words, tables and pictures: the same as `compare --html`."""
    given = None if out is None else _page(out, "--out")
    searched = local_folders(folders)
    # What is copied from an object store does not last, so its page goes to the working folder.
    page = given or (Path() if is_address(folders[0]) else searched[0]) / "report.html"
    if given is None and searched[0].is_dir():  # a missing search is an error of its own
        page = _page(page, "--out")
    _write_report(folders, searched, page, "--out")


def report_hint(folder: str) -> str:
    """Returns the line that says how to get the report of a search."""
    return f"Report, with pictures: {command_for('report', folder)}"


def export(
    folder: Folder,
    to: Annotated[
        Literal["parquet", "tensorboard", "mlflow", "wandb"],
        typer.Option("--to", help="What to write: Parquet files, or what a tracker lacks."),
    ] = "parquet",
) -> None:
    """Write a search's Parquet files again from its ledger, or send it to a tracker."""
    from tune_jobs.results.write import export as export_folder
    from tune_jobs.search.folder import SearchFolder

    search = SearchFolder(folder)
    with search.open(read_only=True) as ledger:  # brings a remote search's ledger to this machine
        job = ledger.job
        if to == "parquet":
            files = export_folder(search.local)
    if to != "parquet":
        _export_to_tracker(to, search, job)
        return
    search.publish()
    for file in files:
        typer.echo(file)


def write_page(folders: Sequence[Path], page: Path, addresses: Sequence[str] = ()) -> Path:
    """Writes the page of a report; what that needs is imported only then."""
    from tune_jobs.report.write import write_page as write

    return write(folders, page, addresses)


def _export_to_tracker(
    kind: Literal["tensorboard", "mlflow", "wandb"], search: "SearchFolder", job: Mapping[str, Any]
) -> None:
    """Sends a search to a tracker with a report of its own, made in a folder that does not last."""
    from tune_jobs.results.write import export as export_folder
    from tune_jobs.trackers.export import export_to
    from tune_jobs.trackers.targets import shown_target, target_of

    target = target_of(kind, job)
    if kind != "mlflow" and search.remote is not None:
        text = f"{kind} writes to the folder of a search; expected one on this machine, such as a copy"
        raise JobError([Problem("DIR", search.address, text)])
    export_folder(search.local)
    with TemporaryDirectory() as scratch:
        page = write_page([search.local], Path(scratch) / "report.html", [search.address])
        written = export_to(kind, target, search.local, page)
    trials, reports = counted(written.num_trials, "trial"), counted(written.num_reports, "report")
    typer.echo(f"{shown_target(kind, target, search.local)}: {trials} and {reports} written")


def load_libraries() -> None:
    """Imports the modules that `print_comparison` needs: pandas, SciPy and Plotly take a second or two."""
    for name in ("report.answer", "report.data", "results.compare", "results.stopping_account"):
        import_module(f"tune_jobs.{name}")


def print_comparison(
    screen: Console,
    folders: list[Path],
    addresses: Sequence[str],
    *,
    details: bool = False,
    names_command: bool = True,
) -> None:
    """Prints the answer in words, the other pairs, the table of results, and the audit of early stopping."""
    from tune_jobs.report.data import collect
    from tune_jobs.results import overtuning, stopping_account, transfer
    from tune_jobs.results.compare import compare_results, render_table
    from tune_jobs.results.read import read_all

    results = read_all(folders)
    _print_answer(screen, collect(results, addresses), names_command=names_command)
    screen.print()
    screen.print(render_table(compare_results(results), is_settled=True))
    account = stopping_account.describe if details else stopping_account.summarise
    for line in (*transfer.describe(results), *account(results), *overtuning.describe(results)):
        screen.print(escape(line), soft_wrap=True)


def print_overtuning(screen: Console, folders: list[Path]) -> None:
    """Prints, of searches whose incumbents were confirmed, whether their last choices were the best on test data."""
    from tune_jobs.results.overtuning import describe
    from tune_jobs.results.read import read_all

    for line in describe(read_all(folders)):
        screen.print(escape(line), soft_wrap=True)


def print_answer(screen: Console, folders: list[Path], addresses: Sequence[str]) -> None:
    """Prints the answer of the searches in words, and the pairs that it does not say."""
    from tune_jobs.report.data import load

    _print_answer(screen, load(folders, addresses))


def _print_answer(screen: Console, report: "Report", *, names_command: bool = True) -> None:
    from tune_jobs.report.answer import answer_in_words, other_differences
    from tune_jobs.results.tables import to_rich

    for line in answer_in_words(report, names_command=names_command):
        screen.print(escape(line), soft_wrap=True)
    if (table := other_differences(report)) is not None:
        screen.print()
        screen.print(to_rich(table))


def _answer_as_markdown(folders: list[Path], addresses: Sequence[str]) -> str:
    from tune_jobs.report.answer import answer_in_words
    from tune_jobs.report.data import load
    from tune_jobs.results.tables import markdown_with_code

    lines = answer_in_words(load(folders, addresses))
    return "".join(f"- {markdown_with_code(line)}\n" for line in lines)


def _account_as_markdown(folders: list[Path], *, details: bool) -> str:
    from tune_jobs.results import overtuning, stopping_account, transfer
    from tune_jobs.results.read import read_all
    from tune_jobs.results.tables import markdown_with_code

    results = read_all(folders)
    account = stopping_account.describe if details else stopping_account.summarise
    lines = [*transfer.describe(results), *account(results), *overtuning.describe(results)]
    return "".join(f"\n{markdown_with_code(line.strip())}\n" for line in lines)


def replay(
    folder: Folder,
    rule: Annotated[
        str | None,
        typer.Option(
            "--rule",
            metavar="NAME,NAME",
            help="The stopping rule: asha, i_epoch or both; by default the search's own.",
        ),
    ] = None,
    grace: Annotated[
        str | None, typer.Option("--grace", metavar="N,N,...", help="Epochs before a trial can be stopped.")
    ] = None,
    reduction_factor: Annotated[
        str | None,
        typer.Option(
            "--reduction-factor",
            metavar="N,N,...",
            help="How many trials at a rung it takes for one to train on.",
        ),
    ] = None,
    protect_top: Annotated[
        int | None,
        typer.Option("--protect-top", min=0, help="How many of the best trials of a rung are never stopped."),
    ] = None,
    form: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="How to print the table.")
    ] = "table",
) -> None:
    """Say what other stopping rules would have spent, saved and lost on a search's recorded curves."""
    from tune_jobs.results.read import read_results
    from tune_jobs.results.rules_replayed import replay_table, rule_of, rules_like
    from tune_jobs.results.tables import to_csv, to_json, to_rich

    results = read_results(local_folders([folder])[0])
    rules = rules_like(
        rule_of(results),
        names=None if rule is None else [name.strip() for name in rule.split(",")],
        grace=_numbers("--grace", grace),
        reduction_factor=_numbers("--reduction-factor", reduction_factor),
        protect_top=protect_top,
    )
    table = replay_table(results, rules)
    if form == "table":
        console().print(to_rich(table))
    else:
        typer.echo({"csv": to_csv, "json": to_json}[form](table), nl=False)


def _numbers(option: str, text: str | None) -> list[int] | None:
    """Returns the whole numbers of a list such as `1,2,4`; None if the option was not given."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 7 for part in parts):
        raise JobError(
            [Problem(option, text, "expected whole numbers with commas between them, as in 1,2,4")]
        )
    return [int(part) for part in parts]


def local_folders(addresses: list[str]) -> list[Path]:
    """Returns local folders with the results of searches, after copying those of remote searches."""
    from tune_jobs.search.folder import SearchFolder

    return [SearchFolder(address).results() for address in addresses]


def _page(html: Path, option: str = "--html") -> Path:
    """Returns the file that a page is to be written to; of a link, the file it leads to.

    Raises:
        JobError: If something else than a page is there, such as a folder, a device or a ledger.
    """
    try:
        page = html.resolve()
        is_stream = html.absolute().parts[1:2] in (("dev",), ("proc",))  # streams can lead to files
        if is_stream or not html.name or (html.exists() and not page.is_file()):  # Path('') is the folder '.'
            raise _not_a_page(option, html, "it is no file")
        if page.is_file() and not _is_page_or_empty(page):
            raise _not_a_page(
                option, html, "it is a file, but no HTML page, and would be replaced; give another name"
            )
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise _not_a_page(option, html, str(error)) from None
    except ValueError as error:  # a name with a NUL
        if isinstance(error, JobError):
            raise
        raise _not_a_page(option, html, str(error)) from None
    if not page.parent.is_dir():
        raise _not_a_page(
            option, html, f"there is no folder {page.parent}; make it first, or give another name"
        )
    if (problem := room_problem(page.parent)) is not None:
        raise _not_a_page(option, html, problem)
    return page


def _is_page_or_empty(page: Path) -> bool:
    with page.open("rb") as file:
        start = file.read(512).lower()
    return not start.strip() or b"<html" in start or b"<!doctype html" in start


def _not_a_page(option: str, html: Path, reason: str) -> JobError:
    return JobError([Problem(option, str(html), f"cannot be written: {reason}")])


def _write_report(addresses: list[str], folders: list[Path], page: Path, option: str = "--html") -> None:
    from tune_jobs.report.write import write_report

    try:
        written = write_report(folders, page, addresses)
    except OSError as problem:
        raise _not_a_page(option, page, str(problem)) from None
    typer.echo(f"Report: {written.page}\nIts tables and figures as files: {written.files}")
    if written.missing:
        typer.echo(written.missing)
