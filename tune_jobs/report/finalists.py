"""The report's table of finalists: what single trials promised, and what their settings reached with other seeds."""

from collections.abc import Iterator
from typing import Any

from tune_jobs.report.data import Report
from tune_jobs.report.page import Bullets, Part
from tune_jobs.results.compare import metric_of_row
from tune_jobs.results.statistics import summarize
from tune_jobs.results.stopping_account import curses_in_words
from tune_jobs.results.tables import (
    STUDENT_NOTE,
    Column,
    Table,
    count,
    difference,
    interval,
    measured,
    records,
)


def finalists_parts(report: Report) -> Iterator[Part]:
    """Yields the table of finalists, and the winner's curse of each study in words; nothing without finalists."""
    rows = _rows(report)
    if not rows:
        return
    columns = [
        Column("architecture", lambda row: row["workload"], False),
        Column("method", lambda row: row["label"], False),
        Column("trial", lambda row: row["trial_id"], False),
        Column("rank in search", lambda row: count(row["rank_in_study"])),
        Column("in search", lambda row: measured(row["search_value"], metric_of_row(row))),
        Column("mean", lambda row: measured(row["mean"], metric_of_row(row))),
        Column(
            "95 % interval",
            lambda row: interval(row["low"], row["high"], metric_of_row(row), row["interval"]),
        ),
        Column("seeds", lambda row: count(row["n"])),
        Column("wins", lambda row: "yes" if row["is_best"] else "", False),
        Column("search − mean", lambda row: difference(row["excess"], metric_of_row(row))),
    ]
    caption = (
        "Finalists: each study's best trials of the search, trained again with further seeds and, where the split is "
        "ours, on validation splits of their own. The best mean wins; the seed of the search takes no part."
    )
    notes = [STUDENT_NOTE] if any(row["interval"] == "t" for row in rows) else []
    yield Table("finalists", caption, columns, rows, notes=notes)
    yield Bullets(list(curses_in_words(report.results)))


def _rows(report: Report) -> list[dict[str, Any]]:
    names = ["folder", "study", "workload", "label", "metric", "mode"]
    studies = report.trials[names].drop_duplicates(["folder", "study"])
    finals = {
        (result.folder_name, study): own for result in report.results for study, own in result.finals.items()
    }
    return [
        {
            **study,
            "trial_id": final.trial_id,
            "rank_in_study": final.rank,
            "search_value": final.search_value,
            **vars(summarize(final.values)),
            "excess": final.search_value - final.mean,
            "is_best": rank == 0,
        }
        for study in records(studies)
        for rank, final in enumerate(finals.get((study["folder"], study["study"]), []))
    ]
