"""Tables of the report: rows of plain values, written as HTML elements, CSV, Markdown and LaTeX."""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import pandas as pd

NONE = "–"
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
    "ρ": r"$\rho$",
}


@dataclass(frozen=True)
class Column:
    """One column as it is shown.

    Attributes:
        header: Its title.
        text: What is shown of a row.
        is_number: Whether it is set flush right.
        wraps: Whether it is prose, which may take several lines.
    """

    header: str
    text: Callable[[Mapping[str, Any]], str]
    is_number: bool = True
    wraps: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of plain values (None where missing), and how they are shown; the CSV has them all, in full.

    Attributes:
        name: Stem of its files.
        caption: What to read out of it, in a sentence.
        columns: What is shown.
        rows: One mapping a row, all with the same keys.
        marked: Whether a row stands out.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    marked: Callable[[Mapping[str, Any]], bool] = lambda row: False

    def cells(self) -> list[list[str]]:
        """Returns the text of every cell, by row."""
        return [[column.text(row) for column in self.columns] for row in self.rows]


def to_element(table: Table) -> Element:
    """Returns a table as an HTML element that scrolls by itself."""
    figure = Element("figure", {"class": "table", "id": f"table-{table.name}"})
    SubElement(figure, "figcaption").text = table.caption
    scroller = SubElement(figure, "div", {"class": "scroller", "tabindex": "0"})
    grid = SubElement(scroller, "table")
    kinds = ["number" if one.is_number else "prose" if one.wraps else "text" for one in table.columns]
    head = SubElement(SubElement(grid, "thead"), "tr")
    for column, kind in zip(table.columns, kinds, strict=True):
        SubElement(head, "th", {"class": kind, "scope": "col"}).text = column.header
    body = SubElement(grid, "tbody")
    for row, cells in zip(table.rows, table.cells(), strict=True):
        line = SubElement(body, "tr", {"class": "marked"} if table.marked(row) else {})
        for cell, kind in zip(cells, kinds, strict=True):
            SubElement(line, "td", {"class": kind}).text = cell
    return figure


def to_csv(table: Table) -> str:
    """Returns all values of all rows as CSV, nothing where one is missing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table.rows[0]) if table.rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """Returns what is shown as GitHub-flavoured Markdown."""
    rules = ["---:" if column.is_number else "---" for column in table.columns]
    headers = [escape_markdown(column.header) for column in table.columns]
    rows = [[escape_markdown(cell) for cell in cells] for cells in table.cells()]
    grid = "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, rules, *rows))
    return f"{escape_markdown(table.caption)}\n\n{grid}\n"


def to_latex(table: Table) -> str:
    """Returns what is shown as a LaTeX table, for the package booktabs."""
    return latex_table(
        table.caption,
        [column.header for column in table.columns],
        [column.is_number for column in table.columns],
        table.cells(),
    )


def latex_table(
    caption: str, headers: Sequence[str], numeric: Sequence[bool], rows: Sequence[Sequence[str]]
) -> str:
    """Returns a LaTeX table, for the package booktabs, of texts that are not escaped yet."""
    lines = [" & ".join(map(escape_latex, cells)) + r" \\" for cells in (headers, *rows)]
    parts = [
        r"\begin{table}",
        rf"\caption{{{escape_latex(caption)}}}",
        rf"\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numeric)}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def escape_markdown(text: str) -> str:
    """Returns Markdown that shows as this text (an underscore inside a word is no markup)."""
    return re.sub(r"[\\`*~<>&|$\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(text.split()))


def escape_latex(text: str) -> str:
    """Returns LaTeX that is set as this text."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def plain(value: Any) -> Any:
    """Returns a value of a data frame as a plain Python one, None where it is missing."""
    if value is None or value is pd.NA or value != value:
        return None
    return value.item() if hasattr(value, "item") else value


def fixed(value: float | None, digits: int = 4) -> str:
    """Returns a number with so many decimals."""
    return NONE if value is None or math.isnan(value) else f"{value:.{digits}f}"


def short(value: float | None) -> str:
    """Returns a number in three significant digits."""
    return NONE if value is None or math.isnan(value) else f"{value:.3g}"


def interval(low: float | None, high: float | None) -> str:
    """Returns the two ends of an interval of accuracies."""
    missing = low is None or high is None or math.isnan(low) or math.isnan(high)
    return NONE if missing else f"{fixed(low)} to {fixed(high)}"


def count(value: float | None) -> str:
    """Returns a whole number with its thousands apart."""
    return NONE if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """Returns a fraction in percent."""
    return NONE if value is None else f"{value:.0%}"


def duration(seconds: float | None) -> str:
    """Returns a time span in the two largest of its units."""
    if seconds is None or math.isnan(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
