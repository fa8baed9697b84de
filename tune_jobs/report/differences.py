"""The table of differences: every two methods, or repeated settings, on the seeds that both have."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from tune_jobs.report.contests import Contest, contests, repeats
from tune_jobs.report.data import Report
from tune_jobs.results.compare import metric_of_row
from tune_jobs.results.tables import STUDENT_NOTE, Column, Table, count, difference, interval, records, short
from tune_jobs.results.verdicts import asked_pairs


def all_differences(report: Report) -> Table | None:
    """Returns one table of all pairs: of confirmed methods, then of repeated settings; None if there are none."""
    return differences_table("differences", [*contests(report), *repeats(report)])


def differences_table(name: str, compared: Sequence[Contest]) -> Table | None:
    """Returns the table of the pairs of some contests, the named pairs of each first; None if there are none."""
    compared = [contest for contest in compared if contest.comparisons]
    if not compared:
        return None
    pairs: list[dict[str, Any]] = []
    for contest in compared:
        said = [frozenset(labels) for labels in asked_pairs(contest.methods, contest.comparisons)]
        rows = [
            {
                "architecture": contest.workload,
                "budget": contest.budget,
                "measure": contest.measure,
                **vars(pair),
                "is_said": frozenset((pair.a, pair.b)) in said,
                "metric": contest.metric.name,
                "mode": contest.metric.mode,
            }
            for pair in contest.comparisons
        ]
        # In the order of the sentence above the table.
        order = {labels: number for number, labels in enumerate(said)}
        pairs += sorted(rows, key=lambda row: order.get(frozenset((row["a"], row["b"])), len(order)))
    measures = list(dict.fromkeys(contest.metric.sided(contest.measure) for contest in compared))
    columns = [Column("architecture", lambda row: row["architecture"], is_number=False)]
    if len({contest.budget for contest in compared}) > 1:
        columns.append(Column("equal", lambda row: row["budget"], is_number=False))
    if len(measures) > 1:
        columns.append(Column("value of", lambda row: row["measure"], is_number=False))
    columns += [
        Column("a", lambda row: row["a"], is_number=False),
        Column("b", lambda row: row["b"], is_number=False),
        Column("verdict", _named_verdict, is_number=False),
        Column("a − b", lambda row: difference(row["difference"], metric_of_row(row))),
        Column(
            "95 % interval",
            lambda row: interval(row["low"], row["high"], metric_of_row(row), row["interval"]),
        ),
        Column("effect size", lambda row: short(row["effect_size"])),
        Column("n", lambda row: count(row["n"])),
        Column("p", lambda row: short(row["p_value"])),
        Column("p adjusted", lambda row: short(row["p_adjusted"])),
    ]
    caption = (
        f"Differences of {' and '.join(measures)} between methods on the seeds that both have (n); p is adjusted for "
        "the number of pairs of the architecture."
    )
    return Table(name, caption, columns, records(pd.DataFrame(pairs)), notes=interval_note(pairs))


def interval_note(rows: Iterable[Mapping[str, Any]], prefix: str = "") -> list[str]:
    """Returns what the mark of Student's intervals means, if there are any."""
    return [STUDENT_NOTE] if any(row[f"{prefix}interval"] == "t" for row in rows) else []


def _named_verdict(row: Mapping[str, Any]) -> str:
    winner = {"a better": row["a"], "b better": row["b"]}.get(row["verdict"])
    return row["verdict"] if winner is None else f"{winner} better"
