"""Puts architectures and methods of finished searches side by side, and writes that as text."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tune_jobs.results.read import Results, read_all
from tune_jobs.results.schema import PARAM_PREFIX, STANDARD_PARAMS
from tune_jobs.results.tables import escape_markdown, latex_table

_LEGEND = "* best of its architecture; sd: over completed trials, which differ in configuration or seed."
_CAUTION = (
    "Winners are single trials: differences within seed noise are not established; "
    "`tune-jobs confirm` settles them."
)
NOTE = f"{_LEGEND}\n{_CAUTION}"
_STUDY = ["job", "dataset", "architecture", "method"]
_COUNTS = ("rank", "max_epochs", "num_trials", "num_completed", "epochs", "gradient_evaluations")
_NONE = "–"


def compare(folders: Iterable[Path | str]) -> pd.DataFrame:
    """Returns one row for each study of the searches, the best of an architecture first.

    Winners are chosen on validation data among completed trials only: highest `val_accuracy`, then lower
    `val_loss`, then `trial_id`. Columns (nulls where no trial completed):
    - `folder job dataset architecture method`
    - `rank` among all rows of that dataset and architecture, 1 is best; equal accuracy and loss share a rank
    - `best_val_accuracy best_val_loss best_trial_id max_epochs` and `param.*` of the winner
    - `num_trials num_completed pruned_fraction diverged_fraction failed_fraction` (of `num_trials`)
    - `median_val_accuracy std_val_accuracy` over completed trials (sample standard deviation, null below two)
    - `epochs gradient_evaluations` that all trials of the study spent

    Accuracies and fractions are in [0, 1]; counts are nullable `Int64`.

    Args:
        folders: Local search folders with exported results; a folder named twice counts once.

    Raises:
        ResultsError: A folder has no results that can be read.

    Example:
        >>> table = compare(["results/digits"])  # doctest: +SKIP
        >>> table[table["rank"] == 1][["architecture", "method", "best_val_accuracy"]]  # doctest: +SKIP
    """
    return compare_results(read_all(folders))


comparison = compare
"""The name of `compare` in version 0.1."""


def compare_results(results: Iterable[Results]) -> pd.DataFrame:
    """Returns the table of `compare` for results that are loaded already."""
    rows = []
    for result in results:
        trials = result.trials
        params = [name for name in trials.columns if name.startswith(PARAM_PREFIX)]
        for study, members in trials.groupby(_STUDY, sort=False):
            rows.append(
                {
                    "folder": str(result.folder),
                    **dict(zip(_STUDY, study, strict=True)),
                    **_row(members, params),
                }
            )
    standard = [f"{PARAM_PREFIX}{name}" for name in STANDARD_PARAMS]
    others = sorted({name for row in rows for name in row if name.startswith(PARAM_PREFIX)} - {*standard})
    columns = [
        *("folder", *_STUDY, "rank", "best_val_accuracy", "best_val_loss", "best_trial_id", "max_epochs"),
        *(*standard, *others, "num_trials", "num_completed"),
        *(
            "pruned_fraction",
            "diverged_fraction",
            "failed_fraction",
            "median_val_accuracy",
            "std_val_accuracy",
        ),
        *("epochs", "gradient_evaluations"),
    ]
    return _ranked(pd.DataFrame(rows, columns=columns))


def render_table(table: pd.DataFrame, *, is_settled: bool = False) -> Group:
    """Returns a comparison for a terminal of 100 columns: the winner in words and a table, by dataset.

    Args:
        table: As `comparison` returns it.
        is_settled: Whether something else says which differences are established, so that this needs no caution.
    """
    parts: list[Text | Table] = []
    for section in _sections(table):
        grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        names, numbers = [], 3 + section.num_labels
        for mark, _, method, *cells in section.rows:
            labels = (f"    {label}" for label in cells[: section.num_labels])
            names.append("\n".join([f"{mark or ' '} {method}", *labels]))
        architectures = [row[1] for row in section.rows]
        longest = max(len(line) for name in (*architectures, *names) for line in name.splitlines())
        grid.add_column("architecture\n  method", overflow="fold", min_width=min(longest, 20))
        for header in section.headers[numbers:]:
            grid.add_column(Text(header), justify="right", no_wrap=True)
        for above, row, name in zip([None, *architectures], section.rows, names, strict=False):
            if row[1] != above:  # a line of its own: names are long, and this groups what is ranked together
                grid.add_row(Text(row[1]))
            texts = [Text(cell) for cell in (name, *row[numbers:])]
            grid.add_row(*texts, style="bold" if row[0] else None)
        parts += [Text(section.headline, style="bold"), grid, *(Text(remark) for remark in section.remarks)]
    return Group(*parts, Text(_LEGEND if is_settled else NOTE, style="dim"))


def to_markdown(table: pd.DataFrame) -> str:
    """Returns the text of `render_table` as GitHub-flavoured Markdown."""
    parts = []
    for section in _sections(table):
        lines = [
            [escape_markdown(header.replace("-\n", "")) for header in section.headers],
            ["---:" if numeric else "---" for numeric in section.numeric],
            *([escape_markdown(cell) for cell in cells] for cells in section.rows),
        ]
        grid = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        parts += [escape_markdown(section.headline), grid, *map(escape_markdown, section.remarks)]
    return "\n\n".join([*parts, *map(escape_markdown, NOTE.splitlines())]) + "\n"


def to_latex(table: pd.DataFrame) -> str:
    """Returns the tables of `render_table` as LaTeX, for the package booktabs, with what to know as captions."""
    return "\n".join(
        latex_table(
            f"{section.headline}. {' '.join(section.remarks)} {NOTE}",
            [header.replace("-\n", "") for header in section.headers],
            section.numeric,
            section.rows,
        )
        for section in _sections(table)
    )


def to_csv(table: pd.DataFrame) -> str:
    """Returns a comparison as CSV: all columns, numbers in full, nothing where a value is missing."""
    return table.to_csv(index=False, lineterminator="\n")


def to_json(table: pd.DataFrame) -> str:
    """Returns a comparison as a JSON array of objects: all columns, numbers in full, null where missing."""
    return json.dumps(_records(table), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _row(trials: pd.DataFrame, params: Sequence[str]) -> dict[str, Any]:
    completed = trials[trials["status"] == "completed"]
    order = completed[completed["val_accuracy"].notna()].sort_values(
        ["val_accuracy", "val_loss", "trial_id"], ascending=[False, True, True], na_position="last"
    )
    winner = order.iloc[0].to_dict() if len(order) else {}
    shares = trials["status"].value_counts() / len(trials)
    return {
        "best_val_accuracy": winner.get("val_accuracy"),
        "best_val_loss": winner.get("val_loss"),
        "best_trial_id": winner.get("trial_id"),
        "max_epochs": winner.get("max_epochs"),
        **{name: winner.get(name) for name in params},
        "num_trials": len(trials),
        "num_completed": len(completed),
        **{
            f"{status}_fraction": float(shares.get(status, 0.0))
            for status in ("pruned", "diverged", "failed")
        },
        "median_val_accuracy": completed["val_accuracy"].median(),
        "std_val_accuracy": completed["val_accuracy"].std(),
        "epochs": trials["epochs_trained"].sum(),
        "gradient_evaluations": trials["gradient_evaluations"].sum(min_count=1),
    }


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Sets the column types, sorts by merit within dataset and architecture, and numbers that as `rank`."""
    endings = ("_accuracy", "_loss", "_fraction")
    numbers = [name for name in map(str, table) if name.startswith(PARAM_PREFIX) or name.endswith(endings)]
    table = table.astype({**dict.fromkeys(numbers, "float64"), **dict.fromkeys(_COUNTS, "Int64")})
    place, merit = ["dataset", "architecture"], ["best_val_accuracy", "best_val_loss"]
    for name in place:  # in the order of the jobs, not of the alphabet
        table[f"{name}_order"] = pd.factorize(table[name])[0]
    table = table.sort_values(
        ["dataset_order", "architecture_order", *merit],
        ascending=[True, True, False, True],
        ignore_index=True,
    ).drop(columns=["dataset_order", "architecture_order"])
    position = table.groupby(place).cumcount() + 1
    shared = position.groupby([table[name] for name in (*place, *merit)], dropna=False).transform("min")
    table["rank"] = shared.where(table["best_val_accuracy"].notna()).astype("Int64")
    return table


@dataclass(frozen=True)
class _Section:
    """What is shown of one dataset, as text that is not escaped yet."""

    headline: str
    headers: list[str]  # the mark of the best, architecture, method, labels, then numbers
    num_labels: int
    numeric: list[bool]
    rows: list[list[str]]
    remarks: list[str]


def _sections(table: pd.DataFrame) -> Iterator[_Section]:
    names = [name.removeprefix(PARAM_PREFIX) for name in map(str, table) if name.startswith(PARAM_PREFIX)]
    others = [name for name in names if name not in STANDARD_PARAMS]
    labels = ["job"] * (table["job"].nunique() > 1) + ["folder"] * bool(table.duplicated(_STUDY).any())
    columns: list[tuple[str, bool, Callable[[dict[str, Any]], str]]] = [  # header, numeric, text of a row
        ("", False, lambda row: "*" if row["rank"] == 1 else ""),
        *((name, False, itemgetter(name)) for name in ("architecture", "method", *labels)),
        ("best\nval acc", True, lambda row: _fixed(row["best_val_accuracy"])),
        ("sd", True, lambda row: _fixed(row["std_val_accuracy"])),
        *((name, True, partial(_parameter, name=name)) for name in STANDARD_PARAMS),
        ("com-\npleted", True, lambda row: f"{row['num_completed']}/{row['num_trials']}"),
        ("pruned", True, lambda row: f"{row['pruned_fraction']:.0%}"),
        ("epochs", True, lambda row: str(row["epochs"])),
        ("grad\nevals", True, lambda row: _human(row["gradient_evaluations"])),
    ]
    records = _records(table)
    for dataset in dict.fromkeys(row["dataset"] for row in records):
        rows = [row for row in records if row["dataset"] == dataset]
        yield _Section(
            _headline(dataset, rows, names),
            [header for header, _, _ in columns],
            len(labels),
            [numeric for _, numeric, _ in columns],
            [[text(row) for _, _, text in columns] for row in rows],
            _remarks(rows, others),
        )


def _headline(dataset: str, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    ranked = [row for row in rows if row["rank"] == 1]
    if not ranked:
        return f"No trial on {dataset} was completed, so there is no best."
    best = min(ranked, key=lambda row: (-row["best_val_accuracy"], row["best_val_loss"] or 0.0))
    return (
        f"Best on {dataset}: {best['architecture']} with {best['method']}, validation accuracy "
        f"{_fixed(best['best_val_accuracy'])} ({_parameters(best, names)})"
    )


def _remarks(rows: Sequence[dict[str, Any]], others: Sequence[str]) -> list[str]:
    ends = {
        status: round(sum(row[f"{status}_fraction"] * row["num_trials"] for row in rows))
        for status in ("diverged", "failed")
    }
    said = " and ".join(f"{count} {status}" for status, count in ends.items() if count)
    return [
        *([f"Of {sum(row['num_trials'] for row in rows)} trials {said}."] if said else []),
        *(  # a column each would not fit
            f"{row['architecture']} with {row['method']} in {row['job']} also has {_parameters(row, others)}."
            for row in rows
            if any(row[PARAM_PREFIX + name] is not None for name in others)
        ),
    ]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns rows of plain Python values, None where one is missing."""
    rows = table.astype(object).where(table.notna(), None).to_dict(orient="records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _parameters(row: dict[str, Any], names: Sequence[str]) -> str:
    """Says the parameters that the row has, like "q_p 0.87, rho 0.12"."""
    present = [name for name in names if row[PARAM_PREFIX + name] is not None]
    return ", ".join(f"{name} {_parameter(row, name)}" for name in present) or _NONE


def _parameter(row: dict[str, Any], name: str) -> str:
    value = row[PARAM_PREFIX + name]
    return _NONE if value is None else f"{value:.3g}"


def _fixed(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"


def _human(count: int | None) -> str:
    if count is None:
        return _NONE
    if count < 1000:
        return str(count)
    value = count / 1000
    for unit in "kMG":
        if value < 999.95:  # so that no rounding gives 1000.0
            return f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}T"
