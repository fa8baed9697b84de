"""Compares the studies of searches: one row for each architecture and method, rendered in several forms."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype
from rich.console import Group
from rich.text import Text

from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.results import tables
from tune_jobs.results.conditions import conditions
from tune_jobs.results.finalists import Final
from tune_jobs.results.read import Results, own_epochs, read_all, values_of
from tune_jobs.results.schema import PARAM_PREFIX, STANDARD_PARAMS
from tune_jobs.results.statistics import summarize
from tune_jobs.results.tables import NONE, STUDENT_NOTE, Column, Table, count, interval, measured, setting
from tune_jobs.wording import counted
from zsharp.user_code import is_reference

_LEGEND = "* best of its architecture; sd: over completed trials, which differ in configuration or seed."
_CONFIRMED_LEGEND = "* best of its architecture on fresh seeds."
_FINALISTS_LEGEND = (
    "* best of its architecture; mean: over further seeds of the finalist that won, on validation data, which "
    "`tune-jobs confirm` settles."
)
_CAUTION = (
    "Winners are single trials: differences within seed noise are not established; "
    "`tune-jobs confirm` settles them."
)
_STUDY = ["job", "dataset", "architecture", "method"]
_COUNTS = (
    *("rank", "max_epochs", "num_trials", "num_completed"),
    *("epochs", "gradient_evaluations", "conditions", "num_seeds", "finalist_seeds"),
)
_MEASURES = ("test_mean", "test_std", "test_low", "test_high", "finalist_mean", "finalist_std")


def compare(folders: Iterable[Path | str]) -> pd.DataFrame:
    """Returns one row for each study of the searches, the best of an architecture first.

    Winners are chosen on validation data among completed trials only, configurations tried with several seeds by their
    means: the best by the job's metric, of equal accuracies the one with the lower `val_loss`, then by `trial_id`. With
    `search.finalists` it is the finalist with the best mean over its further seeds.

    Columns (nulls where no trial completed):
    - `folder job dataset architecture method`
    - `conditions`: a number that searches share which trained on the same data with the same settings
    - `rank` among all rows of that dataset, architecture, conditions and metric, 1 is best; equal rows share a
      rank. Once confirmed, rows rank by `test_mean`, before those that are not; until then by `finalist_mean`, before
      those without finalists; else by `best_value`
    - `val_accuracy val_loss best_trial_id max_epochs` and `param.*` of the winner (of its last epoch)
    - `num_trials num_completed pruned_fraction diverged_fraction failed_fraction` (of `num_trials`)
    - `median_val_accuracy std_val_accuracy` over completed trials (sample standard deviation, null below two)
    - `epochs gradient_evaluations` that all trials of the study and of its finalists spent, and once each trunk that
      they started from
    - `metric mode` of the job, the winner's `best_value`, and `median_value std_value` over completed trials
    - `measure budget test_mean test_std test_low test_high test_interval num_seeds` of the winner on fresh seeds, null
      if it was not confirmed: what was measured, what was equal among methods (`epochs`, or `gradients` if only that
      was confirmed), mean, sample standard deviation, 95 % interval of the mean, and which kind it is
    - `finalist_mean finalist_std finalist_seeds`: the metric of the winner over its further seeds and splits, on
      validation data; null without finalists, and until all of them have ended

    Accuracies and fractions are in [0, 1]; counts are nullable `Int64`.

    Args:
        folders: Local search folders with exported results; a folder named twice counts once.

    Raises:
        ResultsError: A folder has no results that can be read.

    Example:
        >>> table = compare(["results/digits"])  # doctest: +SKIP
        >>> table[table["rank"] == 1][["architecture", "method", "val_accuracy"]]  # doctest: +SKIP
    """
    return compare_results(read_all(folders))


comparison = compare
"""The name of `compare` in version 0.1."""


def compare_results(results: Iterable[Results]) -> pd.DataFrame:
    """Returns the table of `compare` for results that are loaded already."""
    rows, results = [], list(results)
    for result, kind in zip(results, conditions(results), strict=True):
        trials = result.trials
        params = [name for name in trials.columns if name.startswith(PARAM_PREFIX)]
        for study, members in trials.groupby(_STUDY, sort=False):
            name = members["study"].iloc[0]
            rows.append(
                {
                    "folder": result.folder_name,
                    **dict(zip(_STUDY, study, strict=True)),
                    "conditions": kind,
                    **_row(result, members, params, _spent_on(result, members)),
                    **_confirmed(result, name),
                    **_final(result.finals.get(name)),
                }
            )
    standard = [f"{PARAM_PREFIX}{name}" for name in STANDARD_PARAMS]
    others = sorted({name for row in rows for name in row if name.startswith(PARAM_PREFIX)} - {*standard})
    columns = ["folder", *_STUDY, "rank", "val_accuracy", "val_loss", "best_trial_id", "max_epochs"]
    columns += [*standard, *others, "num_trials", "num_completed"]
    columns += ["pruned_fraction", "diverged_fraction", "failed_fraction"]
    columns += ["median_val_accuracy", "std_val_accuracy", "epochs", "gradient_evaluations"]
    columns += ["metric", "mode", "best_value", "median_value", "std_value", "conditions"]
    columns += [
        "measure",
        "budget",
        "test_mean",
        "test_std",
        "test_low",
        "test_high",
        "test_interval",
        "num_seeds",
    ]
    columns += ["finalist_mean", "finalist_std", "finalist_seeds"]
    return _ranked(pd.DataFrame(rows, columns=columns))


def trials_of(results: Iterable[Results]) -> pd.DataFrame:
    """Returns one row for each trial of the searches: `folder`, then the columns of `trials.parquet`."""
    frames = [result.trials.assign(folder=str(result.folder)).pipe(_first, "folder") for result in results]
    return pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]


def _first(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[[name, *(column for column in table.columns if column != name)]]


def render_table(table: pd.DataFrame, *, is_settled: bool = False) -> Group:
    """Returns a comparison for a terminal of 100 columns: by dataset, the winner in words and a table.

    Args:
        is_settled: Whether something else says which differences are established, so that no caution is needed.
    """
    shown = [tables.to_rich(_for_terminal(section)) for section in _tables(table)]
    return Group(*shown, Text("\n".join(_notes(table, is_settled=is_settled)), style="dim"))


def to_markdown(table: pd.DataFrame, *, is_settled: bool = False) -> str:
    """Returns the text of `render_table` as GitHub-flavoured Markdown."""
    notes = [tables.markdown_with_code(line) + "\n" for line in _notes(table, is_settled=is_settled)]
    return "\n".join([*map(tables.to_markdown, _tables(table)), *notes])


def to_latex(table: pd.DataFrame) -> str:
    """Returns the tables of `render_table` as LaTeX, for the package booktabs; the notes are in the captions."""
    sections = (replace(section, notes=[*section.notes, *_notes(table)]) for section in _tables(table))
    return "\n".join(map(tables.to_latex, sections))


def to_csv(table: pd.DataFrame) -> str:
    """Returns a comparison as CSV: all columns, numbers in full, empty where a value is missing."""
    shown = table.copy()
    for name, column in table.items():
        if not is_numeric_dtype(column):
            shown[name] = column.map(tables.csv_field, na_action="ignore")
    return shown.rename(columns=tables.csv_field).to_csv(index=False, lineterminator="\n")


def to_json(table: pd.DataFrame) -> str:
    """Returns a comparison as a JSON array of objects: all columns, numbers in full, null where missing."""
    return tables.to_json(Table("comparison", "", [], tables.records(table)))


def param_column(name: str) -> Column:
    """Returns the column of a searched parameter."""
    return Column(name, lambda row: setting(row[PARAM_PREFIX + name]))


def metric_of_row(row: Mapping[str, Any]) -> Metric:
    """Returns what the search of a row of `compare` ranked by."""
    return Metric(row["metric"], row["mode"])


def _spent_on(result: Results, trials: pd.DataFrame) -> pd.DataFrame:
    """Returns a study's trials, those of its finalists, and the trunks that they started from."""
    for frame in (result.finalists, result.trunks):
        if len(frame):
            is_finalist = frame["finalist_of"].isin(trials["trial_id"])
            used = frame[is_finalist | frame["trial_id"].isin(trials["trunk"].dropna())]
            trials = pd.concat([trials, used]) if len(used) else trials
    return trials


def _row(
    result: Results, trials: pd.DataFrame, params: Sequence[str], spent_on: pd.DataFrame
) -> dict[str, Any]:
    metric = result.metric
    completed = trials[trials["status"] == "completed"]
    winner = _winner(result, completed, params)
    shares = trials["status"].value_counts() / len(trials)
    return {
        "val_accuracy": winner.get("val_accuracy"),
        "val_loss": winner.get("val_loss"),
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
        "epochs": own_epochs(spent_on).sum(),
        "gradient_evaluations": spent_on["gradient_evaluations"].sum(min_count=1),
        "metric": metric.name,
        "mode": metric.mode,
        "best_value": metric.of(winner),
        "median_value": values_of(completed, metric).median(),
        "std_value": values_of(completed, metric).std(),
    }


def _winner(result: Results, completed: pd.DataFrame, params: Sequence[str]) -> dict[str, Any]:
    """Returns the best trial; of configurations tried with several seeds, the best by the mean, as `confirm` does."""
    if completed["seed"].nunique() > 1:
        measured_columns = {"val_accuracy", "val_loss", result.metric.column} & {*completed}
        groups = completed.groupby(list(params), dropna=False, sort=False)
        means = groups[sorted(measured_columns)].mean()
        completed = groups.head(1).assign(**{str(name): means[name].to_numpy() for name in means})
    return next(iter(tables.records(result.best_first(completed).head(1))), {})


def _final(finalists: Sequence[Final] | None) -> dict[str, Any]:
    """Returns what a study's winner reached on its further seeds; it is the first of the finalists."""
    if not finalists:
        return {}
    summary = summarize(finalists[0].values)
    return {"finalist_mean": summary.mean, "finalist_std": summary.std, "finalist_seeds": summary.n}


def _confirmed(result: Results, study: str) -> dict[str, Any]:
    """Returns what a study's winner reached on fresh seeds, at equal epochs if it was trained so."""
    rows = result.confirmations
    # Files of older versions lack both columns: they confirmed the winner only, at equal epochs.
    rows = rows[(rows["study"] == study) & (rows["place"].fillna(1) == 1)]
    by_budget: dict[tuple[str, str], list[float]] = {}
    for row in tables.records(rows):
        value, measure = result.metric.confirmed(row)
        if value is not None:
            by_budget.setdefault((row["budget"] or "epochs", measure), []).append(value)
    if not by_budget:
        return {}
    (budget, measure), values = min(by_budget.items(), key=lambda item: item[0][0] != "epochs")
    summary = summarize(values)
    return {
        "measure": measure,
        "budget": budget,
        "test_mean": summary.mean,
        "test_std": summary.std,
        "test_low": summary.low,
        "test_high": summary.high,
        "test_interval": summary.interval,
        "num_seeds": summary.n,
    }


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Sets the column types, sorts by merit within dataset and architecture, and numbers that as `rank`."""
    endings = ("_accuracy", "_loss", "_fraction", "_value")
    params = [name for name in map(str, table) if name.startswith(PARAM_PREFIX)]
    numbers = [name for name in map(str, table) if name not in params and name.endswith(endings)]
    numbers += [name for name in params if not table[name].map(lambda value: isinstance(value, str)).any()]
    numbers += _MEASURES
    table = table.astype({**dict.fromkeys(numbers, "float64"), **dict.fromkeys(_COUNTS, "Int64")})
    group = ["dataset", "architecture", "metric", "mode", "conditions"]
    # In the order of the jobs, not of the alphabet; then the best first, as `Metric.merit` has it.
    keys = {f"{name}_order": pd.Series(pd.factorize(table[name])[0], table.index) for name in group}
    signs = table["mode"].map({"min": -1}).fillna(1)
    keys["test_order"] = -table["test_mean"] * signs
    keys["finalist_order"] = -table["finalist_mean"] * signs
    keys["value_order"] = -table["best_value"] * signs
    keys["loss_order"] = table["val_loss"].where(table["metric"] == VAL_ACCURACY.name)
    table = table.assign(**keys).sort_values(list(keys), ignore_index=True)
    position = table.groupby(group).cumcount() + 1
    shared = position.groupby([table[name] for name in keys], dropna=False).transform("min")
    table["rank"] = shared.where(table["best_value"].notna()).astype("Int64")
    return table.drop(columns=list(keys))


def _notes(table: pd.DataFrame, *, is_settled: bool = False) -> list[str]:
    """Returns what the marks of the tables mean, and a caution where nothing was confirmed."""
    if table["test_mean"].notna().any():
        return [_CONFIRMED_LEGEND, *([STUDENT_NOTE] if (table["test_interval"] == "t").any() else [])]
    if table["finalist_mean"].notna().any():
        return [_FINALISTS_LEGEND]
    return [_LEGEND] if is_settled else [_LEGEND, _CAUTION]


def _tables(table: pd.DataFrame) -> Iterator[Table]:
    """Yields what is shown of each dataset."""
    names = [name.removeprefix(PARAM_PREFIX) for name in map(str, table) if name.startswith(PARAM_PREFIX)]
    others = [name for name in names if name not in STANDARD_PARAMS]
    names_of_rows = [
        Column("", lambda row: "*" if row["rank"] == 1 else "", is_number=False),
        Column("architecture", itemgetter("architecture"), is_number=False),
        Column("method", itemgetter("method"), is_number=False),
    ]
    # What tells rows apart whose architecture and method are the same.
    if table["job"].nunique() > 1:
        names_of_rows.append(Column("job", itemgetter("job"), is_number=False))
    if table.duplicated(_STUDY).any():
        names_of_rows.append(Column("folder", itemgetter("folder"), is_number=False))
    numbers = [
        *map(param_column, STANDARD_PARAMS),
        Column("com-\npleted", lambda row: f"{row['num_completed']}/{row['num_trials']}"),
        Column("pruned", lambda row: f"{row['pruned_fraction']:.0%}"),
        Column("epochs", lambda row: str(row["epochs"])),
        Column("grad\nevals", lambda row: _human(row["gradient_evaluations"])),
    ]
    records = tables.records(table)

    def kind(row: Mapping[str, Any]) -> tuple[str, Metric, int]:
        return row["dataset"], metric_of_row(row), row["conditions"]

    # What fresh seeds gave needs the width that the account of the search has otherwise.
    if table["test_mean"].notna().any():
        numbers = numbers[:-3]
    for kept in dict.fromkeys(map(kind, records)):
        dataset, metric, _ = kept
        rows = [row for row in records if kind(row) == kept]
        confirmed = _confirmed_columns(rows)
        values = [*confirmed, *_value_columns(metric, rows)[: 1 if confirmed else None]]
        where = dataset
        if table.loc[table["dataset"] == dataset, "conditions"].nunique() > 1:
            where += f" in {' and '.join(dict.fromkeys(row['folder'] for row in rows))}"
        yield Table(
            dataset,
            _headline(where, rows, names, metric),
            [*names_of_rows, *values, *numbers],
            rows,
            marked=lambda row: bool(row["rank"] == 1),
            notes=_remarks(rows, others),
            group=itemgetter("architecture"),
        )


def _for_terminal(table: Table) -> Table:
    """Returns the table with all names in one column, so that the numbers fit into 100 characters.

    The architecture is a line of its own above its methods; job and folder go below the method.
    """
    mark, _, method, *labels = [column for column in table.columns if not column.is_number]

    def name(row: Mapping[str, Any]) -> str:
        lines = [f"{mark.text(row) or ' '} {method.text(row)}"]
        lines += [f"    {label.text(row)}" for label in labels]
        return "\n".join(lines)

    names = Column("architecture\n  method", name, is_number=False)
    return replace(table, columns=[names, *(column for column in table.columns if column.is_number)])


def _value_columns(metric: Metric, rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    best = Column(f"best\n{metric.short_label}", lambda row: measured(row["best_value"], metric))
    if any(row["finalist_mean"] is not None for row in rows):
        return [best, Column("mean", lambda row: measured(row["finalist_mean"], metric))]
    return [best, Column("sd", lambda row: measured(row["std_value"], metric))]


def _confirmed_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Returns what fresh seeds gave, if there were any."""
    if all(row["test_mean"] is None for row in rows):
        return []
    (measure, *others) = dict.fromkeys(row["measure"] for row in rows if row["measure"] is not None)
    header = "mean" if others else measure.replace("accuracy", "acc").replace("validation", "val")

    def ends(row: Mapping[str, Any]) -> str:
        return interval(row["test_low"], row["test_high"], metric_of_row(row), row["test_interval"])

    return [
        Column(header.replace(" ", "\n"), lambda row: measured(row["test_mean"], metric_of_row(row))),
        Column("95 %\ninterval", ends),
        Column("n", lambda row: count(row["num_seeds"])),
    ]


def _headline(where: str, rows: Sequence[dict[str, Any]], names: Sequence[str], metric: Metric) -> str:
    ranked = [row for row in rows if row["rank"] is not None]  # the best may have been left out with --where
    if not ranked:
        return f"No trial on {where} was completed, so there is no best."
    best = max(ranked, key=lambda row: _merit(row, metric))
    is_task = is_reference(best["dataset"])
    study = best["method"] if is_task else f"{best['architecture']} with {best['method']}"
    which = "Best" if best["rank"] == 1 else "Best of these"
    reached = f"{metric.label} {metric.text(best['best_value'])}{metric.note}"
    if best["finalist_mean"] is not None:
        seeds = counted(best["finalist_seeds"], "further seed")
        reached = f"{metric.label} {metric.text(best['finalist_mean'])}{metric.note}, mean of {seeds}"
    if best["test_mean"] is not None:
        seeds = counted(best["num_seeds"], "fresh seed")
        reached = f"{best['measure']} {metric.text(best['test_mean'])}{metric.note}, mean of {seeds}"
    return f"{which} on {where}: {study}, {reached} ({_parameters(best, names)})"


def _merit(row: Mapping[str, Any], metric: Metric) -> tuple[Any, ...]:
    means = [
        (row[name] is not None, metric.sign * row[name] if row[name] is not None else 0.0)
        for name in ("test_mean", "finalist_mean")
    ]
    return *means, metric.merit(row["best_value"], row["val_loss"] or 0.0)


def _remarks(rows: Sequence[dict[str, Any]], others: Sequence[str]) -> list[str]:
    remarks = []
    ends = []
    for status in ("diverged", "failed"):
        count = round(sum(row[f"{status}_fraction"] * row["num_trials"] for row in rows))
        if count:
            ends.append(f"{count} {status}")
    if ends:
        remarks.append(
            f"Of {counted(sum(row['num_trials'] for row in rows), 'trial')}, {' and '.join(ends)}."
        )
    # Parameters beyond the standard three: a column for each would not fit.
    for row in rows:
        if any(row[PARAM_PREFIX + name] is not None for name in others):
            name = f"{row['architecture']} with {row['method']} in {row['job']}"
            remarks.append(f"{name} also has {_parameters(row, others)}.")
    return remarks


def _parameters(row: dict[str, Any], names: Sequence[str]) -> str:
    present = [name for name in names if row[PARAM_PREFIX + name] is not None]
    return ", ".join(f"{name} {setting(row[PARAM_PREFIX + name])}" for name in present) or NONE


def _human(count: int | None) -> str:
    if count is None:
        return NONE
    if count < 1000:
        return str(count)
    value = count / 1000
    for unit in "kMG":
        if value < 999.95:  # so that no rounding gives 1000.0
            return f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}T"
