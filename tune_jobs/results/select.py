"""Keeps and sorts rows of a table, as a condition and names of columns say."""

import pandas as pd

from tune_jobs.errors import JobError, Problem, unknown
from tune_jobs.wording import last_line


def select(table: pd.DataFrame, where: str | None, sort: str | None) -> pd.DataFrame:
    """Returns the rows of a table for which a condition holds, sorted.

    Args:
        where: A condition as `pandas.DataFrame.query` takes it, such as `method != "base"`; names with a dot stand in
            backticks.
        sort: Columns, separated by commas; those with a minus before them from the largest down.

    Raises:
        JobError: If the condition cannot be computed, or a column does not exist.
    """
    if where is not None:
        try:
            kept = table.query(where, engine="python")
        except Exception as error:  # pandas raises what Python does, and its own
            text = f"{last_line(str(error))}; expected a condition on columns of --format csv"
            raise JobError([Problem("--where", where, text)]) from error
        if not isinstance(kept, pd.DataFrame):
            raise JobError(
                [Problem("--where", where, "expected a condition, which is true or false for each row")]
            )
        if kept.empty and not table.empty:
            raise JobError([Problem("--where", where, f"holds for none of {len(table)} rows")])
        table = kept
    if sort is None:
        return table
    names = [name.strip() for name in sort.split(",")]
    columns = [name.removeprefix("-") for name in names]
    for column in columns:
        if column not in table:
            raise JobError([Problem("--sort", column, unknown("column", column, list(map(str, table))))])
    rising = [not name.startswith("-") for name in names]
    return table.sort_values(columns, ascending=rising, kind="stable", ignore_index=True)
