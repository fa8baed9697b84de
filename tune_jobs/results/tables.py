"""The table model: rows of plain values, rendered for a terminal, as HTML, CSV, JSON, Markdown and LaTeX."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.wording import printable, short_value

NONE = "–"
STUDENT_NOTE = "(t): Student's interval, for fewer than six seeds; it takes their values to be normal."
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "ρ": r"$\rho$",
    "σ": r"$\sigma$",
}
# What spreadsheets take for the start of a formula.
_FORMULA = re.compile(r"[=+\-@\t\r＝＋－＠]")


@dataclass(frozen=True)
class Column:
    """One column as it is shown."""

    header: str
    text: Callable[[Mapping[str, Any]], str]  # returns what is shown of a row
    is_number: bool = True  # whether it is aligned right
    wraps: bool = False  # whether it is prose, which may take several lines


@dataclass(frozen=True)
class Table:
    """Rows of plain values (None where missing), and how they are shown. CSV and JSON have all values in full."""

    name: str  # stem of its files
    caption: str  # what to read out of it, in a sentence
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]  # one mapping per row, all with the same keys
    marked: Callable[[Mapping[str, Any]], bool] = lambda row: False  # whether a row stands out
    notes: Sequence[str] = ()  # sentences below the table
    # Returns the line above rows that belong together, on a terminal; None if rows are not grouped.
    group: Callable[[Mapping[str, Any]], str] | None = None

    def cells(self) -> list[list[str]]:
        """Returns the text of every cell, by row."""
        return [[column.text(row) for column in self.columns] for row in self.rows]


def to_rich(table: Table) -> Group:
    """Returns a table for a terminal: the caption in bold, the grid, the notes. No text is taken for markup."""
    cells = table.cells()
    groups = [table.group(row) if table.group else None for row in table.rows]
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, column in enumerate(table.columns):
        if column.is_number:
            grid.add_column(Text(column.header), justify="right", no_wrap=True)
            continue
        # Names may be of any length: they keep up to 20 characters, and fold so that the numbers stay in view.
        names = [row[number] for row in cells] + [group for group in groups if group]
        longest = max((len(line) for name in names for line in name.splitlines()), default=0)
        grid.add_column(Text(column.header), overflow="fold", min_width=min(longest, 20))
    previous = None
    for row, texts, group in zip(table.rows, cells, groups, strict=True):
        if group is not None and group != previous:
            grid.add_row(Text(group))
        previous = group
        grid.add_row(*map(Text, texts), style="bold" if table.marked(row) else None)
    return Group(Text(table.caption, style="bold"), grid, *map(Text, table.notes))


def to_element(table: Table) -> Element:
    """Returns a table as an HTML element that scrolls by itself."""
    figure = Element("figure", {"class": "table", "id": f"table-{table.name}"})
    SubElement(figure, "figcaption").text = table.caption
    scroller = SubElement(figure, "div", {"class": "scroller", "tabindex": "0"})
    grid = SubElement(scroller, "table")
    kinds = [
        "number" if column.is_number else "prose" if column.wraps else "text" for column in table.columns
    ]
    head = SubElement(SubElement(grid, "thead"), "tr")
    for column, kind in zip(table.columns, kinds, strict=True):
        SubElement(head, "th", {"class": kind, "scope": "col"}).text = column.header
    body = SubElement(grid, "tbody")
    for row, cells in zip(table.rows, table.cells(), strict=True):
        line = SubElement(body, "tr", {"class": "marked"} if table.marked(row) else {})
        for cell, kind in zip(cells, kinds, strict=True):
            _fill(SubElement(line, "td", {"class": kind}), cell)
    for note in table.notes:
        SubElement(figure, "p").text = note
    return figure


def _fill(cell: Element, text: str) -> None:
    """Sets the text of a cell, which a narrow screen may break after an underscore."""
    cell.text, *rest = re.findall(r"[^_]*_|[^_]+$", text) or [text]
    for piece in rest:
        SubElement(cell, "wbr").tail = piece


def to_csv(table: Table) -> str:
    """Returns all values of all rows as CSV, with empty fields where values are missing."""
    names = list(table.rows[0]) if table.rows else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_field, names))
    writer.writerows([csv_field(row[name]) for name in names] for row in table.rows)
    return text.getvalue()


def csv_field(value: Any) -> Any:
    """Returns a value for a field of a CSV file, in which no spreadsheet sees a formula and no terminal a command.

    Text that starts like a formula gets an apostrophe in front. Numbers stay.
    """
    if not isinstance(value, str):
        return value
    text = "\n".join(map(printable, value.split("\n")))
    return f"'{text}" if _FORMULA.match(text.lstrip()) else text


def to_json(table: Table) -> str:
    """Returns all values of all rows as a JSON array of objects, null where a value is missing or not finite."""
    rows = [{name: _finite(value) for name, value in row.items()} for row in table.rows]
    text = json.dumps(rows, indent=2, allow_nan=False, ensure_ascii=False)
    # JSON itself escapes only some of what a terminal obeys.
    return (
        "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)
        + "\n"
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_markdown(table: Table) -> str:
    """Returns what is shown as GitHub-flavoured Markdown: the caption, the grid, the notes."""
    rules = ["---:" if column.is_number else "---" for column in table.columns]
    headers = [escape_markdown(_unbroken(column.header)) for column in table.columns]
    rows = [[escape_markdown(cell) for cell in cells] for cells in table.cells()]
    grid = "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, rules, *rows))
    return "\n\n".join([escape_markdown(table.caption), grid, *map(escape_markdown, table.notes)]) + "\n"


def to_latex(table: Table) -> str:
    """Returns what is shown as a LaTeX table, for the package booktabs; the notes are part of its caption."""
    caption = table.caption if table.caption.endswith(".") else f"{table.caption}."
    headers = [_unbroken(column.header) for column in table.columns]
    alignment = "".join("r" if column.is_number else "l" for column in table.columns)
    first, *lines = [_latex_row(cells) for cells in (headers, *table.cells())]
    parts = [
        r"\begin{table}",
        rf"\caption{{{escape_latex(' '.join([caption, *table.notes]))}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        first,
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    row = " & ".join(map(escape_latex, cells)) + r" \\"
    # LaTeX takes a star or bracket at the start of a row for an argument of the line break, or rule, before it.
    return f"{{}}{row}" if row.startswith(("*", "[")) else row


def escape_markdown(text: str) -> str:
    """Returns Markdown that shows as this text."""
    # An underscore inside a word is not markup, and escaping it would make names like zsharp_official unreadable.
    line = " ".join(printable(text.replace("\n", " ")).split())
    line = re.sub(r"[\\`*~<>&|$\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)
    # Starts of lists, headings and formulas; a number may have a sign, though.
    return re.sub(r"^(\d*)([.)](?!\d)|[=#@]|[-+](?![\d.]+(?:\s|$)))", r"\1\\\2", line)


def markdown_with_code(line: str) -> str:
    """Returns Markdown that shows as this text, what stands between backticks as code."""
    pieces = line.split("`")  # every second one is a command
    if len(pieces) % 2 == 0:
        return escape_markdown(line)
    return "".join(
        f"`{piece}`" if odd % 2 else _spaced_markdown(piece, odd) for odd, piece in enumerate(pieces)
    )


def _spaced_markdown(piece: str, number: int) -> str:
    before, after = piece[: len(piece) - len(piece.lstrip())], piece[len(piece.rstrip()) :]
    # Only at the start of a line are some characters markup.
    middle = escape_markdown(f"x{piece.strip()}")[1:] if number else escape_markdown(piece)
    return f"{before}{middle}{after}"


def escape_latex(text: str) -> str:
    """Returns LaTeX that is set as this text."""
    line = " ".join(printable(text.replace("\n", " ")).split())
    return "".join(_LATEX.get(character) or _plain_latex(character) for character in line)


def _plain_latex(character: str) -> str:
    # pdfLaTeX has letters up to Latin Extended-A; it stops at others.
    return character if character < "\u0180" else f"(U+{ord(character):04X})"


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows of a frame as plain Python values, None where one is missing."""
    # As object first: the missing value of a column of floats would turn back into NaN.
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _unbroken(header: str) -> str:
    """Returns a header without the line breaks that keep it narrow on a terminal."""
    return header.replace("-\n", "").replace("\n", " ")


def fixed(value: float | None, digits: int = 4) -> str:
    """Returns a number with `digits` decimals."""
    return NONE if value is None or math.isnan(value) else f"{value:.{digits}f}"


def measured(value: float | None, metric: Metric) -> str:
    """Returns a value of a metric as `Metric.text` writes it."""
    return NONE if value is None or math.isnan(value) else metric.text(value)


def difference(value: float | None, metric: Metric) -> str:
    """Returns a difference between two values of a metric, with its sign."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:+.4f}" if metric.is_accuracy else f"{value:+.4g}"


def short(value: float | None) -> str:
    """Returns a number with three significant digits."""
    return NONE if value is None or math.isnan(value) else f"{value:.3g}"


def setting(value: float | str | None) -> str:
    """Returns a parameter's value: a name as it is, a number with at most three significant digits if not whole."""
    return NONE if value is None or value != value else short_value(value)


def interval(
    low: float | None, high: float | None, metric: Metric = VAL_ACCURACY, kind: str | None = None
) -> str:
    """Returns the two ends of an interval of a metric's values, marked if it is Student's (`kind` "t")."""
    missing = low is None or high is None or math.isnan(low) or math.isnan(high)
    mark = " (t)" if kind == "t" else ""
    return NONE if missing else f"{measured(low, metric)} to {measured(high, metric)}{mark}"


def count(value: float | None) -> str:
    """Returns a whole number with separators between thousands."""
    return NONE if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """Returns a fraction in percent."""
    return NONE if value is None else f"{value:.0%}"


def duration(seconds: float | None) -> str:
    """Returns a time span in seconds, minutes, or hours and minutes."""
    if seconds is None or math.isnan(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
