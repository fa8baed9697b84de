"""The page of a trial: its curve, settings, decisions with their reasons, retries, node, and error in full."""

from typing import Any
from xml.etree.ElementTree import Element

import plotly.graph_objects as go

from tune_jobs.errors import LedgerError
from tune_jobs.report.figures import Picture, cut_axis, new_figure, number, text, whole_axis
from tune_jobs.report.page import Part, Section
from tune_jobs.serve.elements import link, moment, search_path, settings, tag
from tune_jobs.serve.search_page import table_of
from tune_jobs.serve.searches import Search
from tune_jobs.wording import counted, duration

_MOST_LINES = 200
_LOSSES = {"train_loss": "#7d8590", "val_loss": "#0b84c6"}


def trial_sections(search: Search, trial_id: str) -> list[Section] | None:
    """Returns the sections of a trial's page as its ledger is now; None if there is no such trial."""
    search.refresh()
    with search.held():
        try:
            return _sections(search, trial_id)
        except LedgerError as problem:
            return [Section("trial", "The trial", [f"The ledger cannot be read: {problem}"])]


def _sections(search: Search, trial_id: str) -> list[Section] | None:
    trial = search.live.trials.get(trial_id)
    if trial is None:
        return None
    reports = search.live.reports(trial_id)
    sections = [
        Section("trial", "The trial", [_facts(search, trial, reports)]),
        Section(
            "curve", "Learning curve", [_curves(search, trial, reports)] if reports else ["No report yet."]
        ),
        Section("decisions", "Decisions", [_decisions(search, reports)]),
    ]
    if events := _events(search, trial_id):
        sections.append(Section("retries", "Retries and moves", events))
    if trial["error"]:
        sections.append(Section("error", "Error", [tag("pre", trial["error"], tabindex="0")]))
    if lines := search.lines_of(trial_id, _MOST_LINES):
        told = f"What it printed, in UTC: the last {counted(len(lines), 'line')}."
        sections.append(Section("log", "Log", [told, tag("pre", "\n".join(lines), tabindex="0")]))
    return sections


def _facts(search: Search, trial: dict[str, Any], reports: list[dict[str, Any]]) -> Element:
    metric, summary = search.live.metric, search.live.summaries[trial["trial_id"]]
    value = metric.of(summary)
    node = ", ".join(
        part
        for part in (
            summary.get("node") or "",
            f"GPU {summary['gpu_ids']}" if summary.get("gpu_ids") else "",
            f"process {summary['worker_pid']}" if summary.get("worker_pid") else "",
        )
        if part
    )
    origins = [e["data"].get("origin") for e in search.live.events if e["kind"] == "origin"
               and e["trial_id"] == trial["trial_id"]]  # fmt: skip
    variant = f", {trial['variant']}" if trial["variant"] else ""
    facts: list[tuple[str, Element | str]] = [
        ("search", link(search_path(search.id), str(search.live.job["name"]))),
        ("study", trial["study"]),
        (
            "status",
            f"{trial['status'] or 'running'}{': ' + trial['stop_reason'] if trial['stop_reason'] else ''}",
        ),
        ("settings", settings(trial["params"])),
        ("method", f"{trial['method']}{variant} on {trial['architecture']}, {trial['dataset']}"),
        ("seed", str(trial["seed"])),
        ("epochs", f"{summary['epochs_trained']} of {trial['max_epochs']}"),
        (metric.label, "–" if value is None else metric.text(value)),
        ("started", moment(trial["started_at"])),
        ("last report", moment(reports[-1]["reported_at"] if reports else None)),
    ]
    if summary.get("train_s"):
        facts.append(("training", duration(summary["train_s"])))
    if summary.get("gradient_evaluations"):
        facts.append(("gradient evaluations", f"{summary['gradient_evaluations']:,}"))
    if node:
        facts.append(("node", node))
    if origins:
        facts.append(("proposed by", str(origins[-1])))
    facts.append(("retries", str(trial["retries"])))
    return tag(
        "dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts"
    )


def _curves(search: Search, trial: dict[str, Any], reports: list[dict[str, Any]]) -> list[Picture]:
    metric = search.live.metric
    values = [(report["epoch"], metric.of(report)) for report in reports]
    known = [(epoch, value) for epoch, value in values if value is not None]
    pictures = []
    if known:
        cutoffs = [report for report in reports if report["cutoff"] is not None]
        axis, note = cut_axis(
            metric, [v for _, v in known], [v for _, v in known[len(known) // 2 :]], room=0.6
        )
        pictures.append(
            Picture(
                "curve",
                f"{metric.label} after each epoch; crosses are the cutoffs of the rungs it met.{note}",
                new_figure(
                    [
                        _line(known, metric.label, "#d55e00", number(metric)),
                        go.Scatter(
                            x=[report["epoch"] for report in cutoffs],
                            y=[report["cutoff"] for report in cutoffs],
                            name="cutoff",
                            mode="markers",
                            marker={
                                "symbol": "x-thin-open",
                                "size": 9,
                                "color": "#7d8590",
                                "line": {"width": 2},
                            },
                            hovertemplate=f"cutoff %{{y:{number(metric)}}}<extra></extra>",
                        ),
                    ],
                    title=text(metric.label),
                    x=whole_axis("epoch", [epoch for epoch, _ in known]),
                    y=axis,
                ),
            )
        )
    losses = {
        name: [(report["epoch"], report[name]) for report in reports if report.get(name) is not None]
        for name in _LOSSES
        if name != metric.name
    }
    lines = [
        _line(points, name.replace("_", " "), _LOSSES[name], ".4g")
        for name, points in losses.items()
        if points
    ]
    if lines:
        epochs = [report["epoch"] for report in reports]
        pictures.append(
            Picture(
                "losses",
                "Losses after each epoch.",
                new_figure(lines, title="Losses", x=whole_axis("epoch", epochs), y={"title": "loss"}),
            )
        )
    return pictures


def _line(points: list[tuple[int, float]], name: str, colour: str, form: str) -> go.Scatter:
    return go.Scatter(
        x=[epoch for epoch, _ in points],
        y=[value for _, value in points],
        name=text(name),
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 5},
        hovertemplate=f"epoch %{{x}}<br>{text(name)} %{{y:{form}}}<extra></extra>",
    )


def _decisions(search: Search, reports: list[dict[str, Any]]) -> Element:
    metric = search.live.metric
    rows: list[list[Element | str]] = []
    for report in reversed(reports):
        value, cutoff = metric.of(report), report["cutoff"]
        rows.append([
            str(report["epoch"]),
            "–" if value is None else metric.text(value),
            report["decision"],
            "–" if report["rung"] is None else str(report["rung"]),
            "–" if cutoff is None else metric.text(cutoff),
            "–" if report["num_values"] is None else str(report["num_values"]),
            report["reason"] or "",
        ])  # fmt: skip
    headers = ("epoch", metric.short_label, "decision", "rung", "cutoff", "values before", "why")
    return table_of("decisions", f"{counted(len(rows), 'report')}, the last first.", headers, rows)


def _events(search: Search, trial_id: str) -> list[Part]:
    parts: list[Part] = []
    for event in search.live.events:
        about = event["trial_id"] or event["data"].get("trial_id")
        if about != trial_id or event["kind"] not in ("retry", "move", "checkpoint"):
            continue
        said = str(event["data"].get("error") or event["data"].get("problem") or "")
        parts.append(
            tag("details", tag("summary", f"{event['kind']}, ", moment(event["happened_at"])),
                tag("pre", said, tabindex="0"))
        )  # fmt: skip
    return parts
