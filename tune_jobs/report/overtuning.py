"""The report's section on overtuning: what was the best so far in each search, measured again on test data."""

from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go

from tune_jobs.job.metric import Metric
from tune_jobs.report.data import Report
from tune_jobs.report.figures import Picture, colours, new_figure, number, slug, symbol, text
from tune_jobs.report.page import Bullets, Section
from tune_jobs.results.compare import metric_of_row
from tune_jobs.results.overtuning import describe, overtuning
from tune_jobs.results.tables import STUDENT_NOTE, Column, Table, count, interval, measured, records


def overtuning_sections(report: Report) -> Iterator[Section]:
    """Yields the incumbents of each study with what they reach on test data; nothing if none was measured."""
    rows = _rows(report)
    if not rows:
        return
    workloads = dict.fromkeys(row["workload"] for row in rows)
    pictures = [_picture(report, str(workload), rows) for workload in workloads]
    yield Section("overtuning", "Overtuning", [Bullets(describe(report.results)), pictures, _table(rows)])


def _rows(report: Report) -> list[dict[str, Any]]:
    names = ["folder", "study", "workload", "label", "metric", "mode"]
    studies = {
        (row["folder"], row["study"]): row
        for row in records(report.trials[names].drop_duplicates(["folder", "study"]))
    }
    return [
        {
            **studies[result.folder_name, study.name],
            "budget": study.budget,
            "incumbent": number_in_study,
            "trial_id": incumbent.trial_id,
            "search_value": incumbent.search_value,
            "measure": study.measure,
            **vars(incumbent.summary),
            "is_best": incumbent is study.winner,
        }
        for result in report.results
        for study in overtuning(result)
        for number_in_study, incumbent in enumerate(study.incumbents, 1)
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = [
        Column("architecture", lambda row: row["workload"], False),
        Column("method", lambda row: row["label"], False),
        Column("equal", lambda row: row["budget"], False),
        Column("incumbent", lambda row: count(row["incumbent"])),
        Column("trial", lambda row: row["trial_id"], False),
        Column("in search", lambda row: measured(row["search_value"], metric_of_row(row))),
        Column(
            rows[0]["measure"] if len({row["measure"] for row in rows}) == 1 else "value",
            lambda row: measured(row["mean"], metric_of_row(row)),
        ),
        Column(
            "95 % interval",
            lambda row: interval(row["low"], row["high"], metric_of_row(row), row["interval"]),
        ),
        Column("seeds", lambda row: count(row["n"])),
    ]
    caption = (
        "What was each study's best so far, in the order in which these trials were completed; the last one is the "
        "final choice. The best of several on test data is partly lucky too: a difference within the intervals shows "
        "nothing."
    )
    notes = [STUDENT_NOTE] if any(row["interval"] == "t" for row in rows) else []
    return Table("overtuning", caption, columns, rows, notes=notes)


def _picture(report: Report, workload: str, rows: list[dict[str, Any]]) -> Picture:
    metric: Metric = report.metric(workload)
    shown = [row for row in rows if row["workload"] == workload]
    colour, traces = colours(report.labels), []
    kinds = list(dict.fromkeys((row["label"], row["budget"]) for row in shown))
    for number_of_kind, (label, budget) in enumerate(kinds):
        shift = 0.3 * ((number_of_kind + 0.5) / len(kinds) - 0.5)  # so that intervals lie side by side
        own = [row for row in shown if (row["label"], row["budget"]) == (label, budget)]
        ends = [(row["high"], row["low"], row["mean"]) for row in own]
        traces.append(
            go.Scatter(
                x=[row["incumbent"] + shift for row in own],
                y=[row["mean"] for row in own],
                mode="lines+markers",
                name=text(label if budget == "epochs" else f"{label}, equal {budget}"),
                line={"color": colour[label], "width": 1.5},
                marker={"color": colour[label], "size": 9, "symbol": symbol(label)},
                error_y={
                    "type": "data",
                    "array": [0.0 if high is None else high - mean for high, _, mean in ends],
                    "arrayminus": [0.0 if low is None else mean - low for _, low, mean in ends],
                    "thickness": 1,
                },
                customdata=[text(row["trial_id"]) for row in own],
                hovertemplate=f"%{{customdata}}<br>%{{y:{number(metric)}}}<extra></extra>",
            )
        )
    measure, most = str(shown[0]["measure"]), max(row["incumbent"] for row in shown)
    return Picture(
        slug("overtuning", workload),
        f"{workload}: {measure} of each method's incumbents, mean and 95 % interval over the fresh seeds. Where a line "
        f"gets worse, the search went on to settings that are better on its validation data only.",
        new_figure(
            traces,
            title=f"{workload}: incumbents on test data",
            x={"title": "incumbent, in the order in which they came", "range": [0.5, most + 0.5], "dtick": 1},
            y={"title": text(metric.sided(measure))},
        ),
    )
