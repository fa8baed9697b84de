"""Writes the report of finished or running searches: one HTML page, and its tables and figures as files beside it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tune_jobs.report.answer import answer_section
from tune_jobs.report.cost import cost_section, failures_section, sharpness_section
from tune_jobs.report.curves import budget_section, curves_section
from tune_jobs.report.data import Report, load
from tune_jobs.report.figures import Picture
from tune_jobs.report.glossary import GLOSSARY
from tune_jobs.report.history import search_section
from tune_jobs.report.overtuning import overtuning_sections
from tune_jobs.report.page import Bullets, Details, Section, Terms, render_page
from tune_jobs.report.params import optima_section, params_section
from tune_jobs.report.svg import write_images
from tune_jobs.report.trials import tell_what_is_drawn
from tune_jobs.results import transfer
from tune_jobs.results.tables import NONE, Column, Table, to_csv, to_latex, to_markdown
from tune_jobs.wording import counted
from zsharp.atomic import atomic_write

_LARGEST_IMAGE = 300_000  # bytes of an SVG that the page carries


@dataclass(frozen=True)
class Written:
    """The files of a report."""

    page: Path  # the HTML page; it needs none of the other files
    files: Path  # the folder with tables (CSV, Markdown, LaTeX) and figures (SVG)
    missing: str | None  # what could not be written, and why


def write_report(folders: Sequence[Path], page: Path, addresses: Sequence[str] = ()) -> Written:
    """Writes the report of search folders to `page`, and its tables and figures to `<stem>_files` beside it.

    Args:
        folders: Local search folders.
        page: The page's file.
        addresses: What commands call the searches, where that is not the path of their folder.

    Raises:
        ResultsError: A folder has no results that can be read.
        OSError: The page cannot be written.
    """
    page = Path(page)
    title, subtitle, sections = _content(folders, addresses)
    pictures = [picture for section in sections for picture in section.pictures]
    name_apart(pictures)
    page.parent.mkdir(parents=True, exist_ok=True)
    files = page.with_name(f"{page.stem}_files")
    files.mkdir(exist_ok=True)
    missing = write_images(pictures, files)
    drawn = {} if missing else _images(pictures, files)
    _replace(page, render_page(title, subtitle, sections, drawn))
    for table in (table for section in sections for table in section.tables):
        for ending, text in (("csv", _to_csv), ("md", to_markdown), ("tex", to_latex)):
            _replace(files / f"{table.name}.{ending}", text(table))
    return Written(page, files, missing)


def write_page(folders: Sequence[Path], page: Path, addresses: Sequence[str] = ()) -> Path:
    """Writes only the page of a report, as `write_report` does, and returns its file."""
    _replace(page, render_page(*_content(folders, addresses), {}))
    return page


def _content(folders: Sequence[Path], addresses: Sequence[str]) -> tuple[str, str, list[Section]]:
    """Returns a report's title, subtitle and sections."""
    report = load(folders, addresses)
    title = "Search report: " + ", ".join(dict.fromkeys(report.trials["job"].astype(str)))
    num_studies = len(report.studies)
    subtitle = (
        f"{counted(len(report.trials), 'trial')} in {counted(num_studies, 'study', 'studies')}; "
        f"{counted(len(report.confirmations), 'confirmation')}."
    )
    return title, subtitle, sections_of(report)


# What the page's columns are called whose values have other names in code.
_HEADERS = {"workload": "architecture", "label": "method"}


def _to_csv(table: Table) -> str:
    """Returns a table as CSV, whose columns have the names that they have on the page."""
    rows = [{_HEADERS.get(name, name): value for name, value in row.items()} for row in table.rows]
    return to_csv(replace(table, rows=rows))


def sections_of(report: Report, *, audits: bool = True) -> list[Section]:
    """Returns all sections of the report.

    Args:
        report: What they are made from.
        audits: Whether to take the decisions of early stopping again, which takes minutes for thousands of trials.
    """
    if not len(report.trials):
        return [Section("answer", "Answer", ["No trial has started yet."]), _provenance(report)]
    sections = [
        answer_section(report),
        budget_section(report),
        curves_section(report),
        search_section(report, audits=audits),
        params_section(report),
        *([optima_section(report)] if len(report.workloads) > 1 else []),
        *_transfer(report),
        *overtuning_sections(report),
        *([sharpness_section(report)] if report.sharpness else []),
        cost_section(report),
        failures_section(report),
        _provenance(report),
        Section("glossary", "Glossary", [Terms(GLOSSARY)]),
    ]
    tell_what_is_drawn([picture for section in sections for picture in section.pictures])
    return sections


def _transfer(report: Report) -> Iterator[Section]:
    lines = transfer.describe(report.results)
    if lines:
        yield Section("transfer", "Do settings carry over between architectures?", [Bullets(lines)])


def _images(pictures: Sequence[Picture], files: Path) -> dict[str, str]:
    """Returns the SVG of each picture as far as they are small: the page has them for browsers without scripts."""
    texts = {picture.name: files / f"{picture.name}.svg" for picture in pictures}
    return {
        name: file.read_text(encoding="utf-8")
        for name, file in texts.items()
        if file.exists() and file.stat().st_size <= _LARGEST_IMAGE
    }


def name_apart(pictures: Sequence[Picture]) -> None:
    """Numbers pictures of the same name: names of methods that differ only in symbols have the same slug."""
    taken: set[str] = set()
    for picture in pictures:
        stem, number = picture.name, 1
        while picture.name in taken:
            number += 1
            picture.name = f"{stem}-{number}"
        taken.add(picture.name)


def _provenance(report: Report) -> Section:
    rows = [
        {"folder": result.folder_name, "fact": fact, "value": value}
        for result in report.results
        for fact, value in _facts(result.metadata)
    ]
    columns = [
        *([Column("folder", lambda row: row["folder"], False)] if len(report.results) > 1 else []),
        Column("fact", lambda row: row["fact"], False),
        Column("value", lambda row: row["value"] or NONE, False, wraps=True),
    ]
    jobs = [
        Details(
            f"The job of {result.folder} as resolved",
            json.dumps(result.metadata["job"], indent=2, ensure_ascii=False),
        )
        for result in report.results
    ]
    caption = "Where the results come from, as their files say: " + ", ".join(map(str, report.folders)) + "."
    return Section("provenance", "Provenance", [Table("provenance", caption, columns, rows), *jobs])


def _facts(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    dirty = {True: " with local changes", False: ""}.get(metadata["git_dirty"], "")
    hardware, packages = metadata["hardware"] or {}, metadata["package_versions"] or {}
    memory = hardware.get("memory_bytes")
    yield "git commit", f"{metadata['git_commit']}{dirty}" if metadata["git_commit"] else None
    yield "schema version", str(metadata["schema_version"])
    history = metadata.get("job_history") or []
    if len(history) > 1:
        yield "extended", f"after report {', '.join(str(seq) for seq, _ in history[1:])} (resume --set)"
    yield "Python", metadata["python_version"]
    yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items())
    yield "CPU", hardware.get("cpu_model")
    yield "CPUs", str(hardware["num_cpus"]) if hardware.get("num_cpus") else None
    yield "memory", f"{memory / 2**30:.1f} GiB" if memory else None
    yield "GPUs", ", ".join(map(str, hardware.get("gpus") or []))


def _replace(file: Path, text: str) -> None:
    with atomic_write(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
