"""What the searches cost: time, epochs saved, failures; and the sharpness of the winners' minima."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_jobs.job.finalists import FINALISTS
from tune_jobs.job.trunk import TRUNK
from tune_jobs.report.data import STANDARD_ERROR, Report
from tune_jobs.report.figures import Picture, colours, new_figure, number, slug, text
from tune_jobs.report.page import Part, Section
from tune_jobs.results.read import own_epochs
from tune_jobs.results.schema import SHARPNESS_PREFIX
from tune_jobs.results.statistics import rank_correlation
from tune_jobs.results.tables import NONE, Column, Table, count, duration, fixed, records, share, short
from tune_jobs.results.trained import busy_s
from tune_jobs.wording import counted

_MAX_ERRORS = 30
"""Rows on the page; the Parquet files have them all."""


def sharpness_section(report: Report) -> Section:
    """Returns measures of sharpness against what confirmed runs reached."""
    measures = report.sharpness
    reached = set(report.confirmations["measure"].dropna())
    title = f"Sharpness against {reached.pop() if len(reached) == 1 else 'the result'}"
    confirmed = report.confirmations
    workloads = [workload for workload in report.workloads if (confirmed["workload"] == workload).any()]
    pictures = [_sharpness(report, workload, measure) for measure in measures for workload in workloads]
    return Section("sharpness", title, [pictures])


def cost_section(report: Report) -> Section:
    """Returns what each study cost, and what early stopping saved."""
    rows = [
        _cost_row(report, report.of(report.trials, workload, label), workload, label)
        for workload in report.workloads
        for label in report.labels_on(workload)
    ]
    saved = list(_saved(rows))
    for workload in report.workloads:
        trunks = report.of(report.trunks, workload)
        if len(trunks):
            rows.append(_cost_row(report, trunks, workload, TRUNK))
        for label in report.labels_on(workload):
            finalists = report.of(report.finalists, workload, label)
            if len(finalists):
                rows.append(_cost_row(report, finalists, workload, f"{label}, {FINALISTS}"))
    is_confirmed = len(report.confirmations) > 0
    columns = [
        Column("architecture", lambda row: row["workload"], False),
        Column("method", lambda row: row["label"], False),
        Column("trials", lambda row: count(row["num_trials"])),
        Column("epochs", lambda row: count(row["epochs"])),
        Column("saved fraction", lambda row: share(row["saved_fraction"])),
        Column("gradient evaluations", lambda row: count(row["gradient_evaluations"])),
        Column("trial time", lambda row: duration(row["trial_s"])),
        Column("saved time", lambda row: duration(row["saved_s"])),
    ]
    if is_confirmed:
        columns += [
            Column("confirmation gradient evaluations", lambda row: count(row["confirmation_evaluations"])),
            Column("confirmation time", lambda row: duration(row["confirmation_s"])),
        ]
    columns += [
        Column("device hours", lambda row: short(row["device_hours"])),
        Column("peak memory", lambda row: _megabytes(row["peak_memory_bytes"])),
        Column("device", lambda row: row["device"] or NONE, False, wraps=True),
    ]
    caption = (
        "Cost by study. Saved: epochs that stopped trials did not train, of all epochs; saved time at the study's "
        "median time an epoch. Device hours: hours of "
        f"{'trials and confirmations' if is_confirmed else 'trials'} times the CPUs, or the share of a GPU, that each "
        "had; not known where the job leaves that to the machine (auto)."
    )
    parts: list[Part] = [_spent(report, rows), *saved, Table("cost", caption, columns, rows)]
    return Section("cost", "Cost", parts)


def failures_section(report: Report) -> Section:
    """Returns how trials ended, with the reasons of those that failed or diverged."""
    trials = report.trials
    counts = trials["status"].value_counts()
    ended = ", ".join(f"{number} {status}" for status, number in counts.items())
    parts: list[Part] = [f"Of {counted(len(trials), 'trial')}: {ended}."]
    wrong = trials[trials["status"].isin(["failed", "diverged"]) | trials["error"].notna()]
    if len(wrong):
        names = ["workload", "label", "trial_id", "status", "epochs_trained"]
        reasons = wrong["error"].fillna(wrong["stop_reason"])
        rows = records(wrong[names].assign(reason=reasons).head(_MAX_ERRORS))
        columns = [
            Column("architecture", lambda row: row["workload"], False),
            Column("method", lambda row: row["label"], False),
            Column("trial", lambda row: row["trial_id"], False),
            Column("status", lambda row: row["status"], False),
            Column("epochs", lambda row: count(row["epochs_trained"])),
            Column("reason", lambda row: (row["reason"] or NONE)[:300], False, wraps=True),
        ]
        more = "" if len(wrong) <= _MAX_ERRORS else f" The first {_MAX_ERRORS} of {len(wrong)}."
        parts.append(Table("failures", f"Trials that failed or diverged.{more}", columns, rows))
    return Section("endings", "How trials ended", parts)


def _cost_row(report: Report, trials: pd.DataFrame, workload: str, label: str) -> dict[str, Any]:
    reached, most = trials["epochs_trained"].astype("float64"), trials["max_epochs"].astype("float64")
    epochs = own_epochs(trials)
    stopped = (trials["status"] == "pruned") & (epochs > 0)
    saved = (most - reached)[stopped]
    trial_s = trials["wall_s"].astype("float64")
    confirmed = report.of(report.confirmations, workload, label)
    confirmation_s = _sum(confirmed["train_s"])
    resources = report.job(str(trials["folder"].iloc[0])).get("resources") or {}
    device, memory = trials["device"].dropna(), trials["peak_memory_bytes"].dropna()
    on_gpu = len(device) > 0 and str(device.iloc[0]).startswith("cuda")
    per_trial = resources.get("gpus_per_trial" if on_gpu else "cpus_per_trial")
    # "auto" is resolved on the machine and not recorded.
    num_devices = float(per_trial) if isinstance(per_trial, int | float) else None
    device_s = float(trial_s.sum()) + (confirmation_s or 0.0)
    return {
        "workload": workload,
        "label": label,
        "num_trials": len(trials),
        "epochs": float(epochs.sum()),
        "saved_epochs": float(saved.sum()),
        "saved_fraction": float(saved.sum() / (saved.sum() + epochs.sum())) if epochs.sum() else None,
        "gradient_evaluations": float(trials["gradient_evaluations"].astype("float64").sum()),
        "trial_s": float(trial_s.sum()),
        # The median: a trial that a busy machine slowed down says little about the others.
        "saved_s": float(saved.sum() * (trial_s / epochs)[epochs > 0].median()) if len(saved) else 0.0,
        "confirmation_evaluations": _sum(confirmed["gradient_evaluations"]),
        "confirmation_s": confirmation_s,
        "device_hours": device_s / 3600 * num_devices if num_devices is not None else None,
        "peak_memory_bytes": int(memory.max()) if len(memory) else None,
        "device": str(device.iloc[0]) if len(device) else None,
    }


def _sum(values: pd.Series) -> float | None:
    known = values.dropna().astype("float64")
    return float(known.sum()) if len(known) else None


def _spent(report: Report, rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns what search and confirmation took, each and together."""
    trials, confirmed = report.trials, report.confirmations
    trials = pd.concat([trials, *(more for more in (report.trunks, report.finalists) if len(more))])
    if not len(trials["finished_at"].dropna()):
        return "No trial has ended."
    wall = sum(busy_s(own) for _, own in trials.groupby("folder", sort=False))
    stages: dict[str, tuple[float | None, ...]] = {
        "Search": (wall, _total(rows, "trial_s"), _total(rows, "gradient_evaluations"))
    }
    if len(confirmed):
        wall = sum(busy_s(own, "train_s") for _, own in confirmed.groupby("folder", sort=False))
        spent = _total(rows, "confirmation_s"), _total(rows, "confirmation_evaluations")
        stages["Confirmation"] = (wall, *spent)
        stages["Together"] = tuple(
            None if a is None or b is None else a + b for a, b in zip(*stages.values(), strict=True)
        )
    said = [
        f"{name}: {duration(wall)} in which at least one run trained, {duration(own)} over all runs, "
        f"{count(evaluations)} gradient evaluations."
        for name, (wall, own, evaluations) in stages.items()
    ]
    return " ".join(said)


def _saved(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields what early stopping saved, if anything: the same share of the epochs that the terminal says."""
    saved, epochs = _total(rows, "saved_epochs") or 0.0, _total(rows, "epochs") or 0.0
    if saved:
        yield (
            f"Early stopping saved {share(saved / (saved + epochs))} of the epochs ({count(saved)} of "
            f"{count(saved + epochs)}), about {duration(_total(rows, 'saved_s'))} of trial time."
        )


def _total(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) if known else None


def _megabytes(value: int | None) -> str:
    return NONE if value is None else f"{value / 1e6:,.0f} MB"


def _sharpness(report: Report, workload: str, measure: str) -> Picture:
    colour, column = colours(report.labels), SHARPNESS_PREFIX + measure
    errors = column + STANDARD_ERROR
    rows = report.of(report.confirmations, workload).dropna(subset=[column, "test_value"])
    metric = report.metric(workload)
    reached = str(rows["measure"].iloc[0]) if len(rows) else metric.label
    traces = [
        go.Scatter(
            x=own[column].tolist(),
            y=own["test_value"].tolist(),
            name=text(str(label)),
            mode="markers",
            marker={"size": 8, "color": colour[str(label)]},
            customdata=own["seed"].tolist(),
            error_x={"type": "data", "array": own[errors].fillna(0.0).tolist(), "width": 0, "thickness": 1}
            if errors in own
            else None,
            hovertemplate=f"seed %{{customdata}}<br>%{{x:.3g}}, {text(reached)} %{{y:{number(metric)}}}",
        )
        for label, own in rows.groupby("label", sort=False)
    ]
    tau, p_value, n = rank_correlation(rows[column].tolist(), rows["test_value"].tolist())
    correlation = (
        "no rank correlation defined"
        if tau is None
        else f"Kendall's tau {fixed(tau, 2)}, p = {short(p_value)}"
    )
    sign = "negative" if metric.mode == "max" else "positive"
    better = "more accurate" if metric.is_accuracy else "better"
    bars = ", bars are standard errors" if errors in rows else ""
    is_positive = len(rows) > 0 and rows[column].min() > 0
    wide = is_positive and rows[column].max() > 20 * rows[column].min()
    return Picture(
        slug("sharpness", measure, workload),
        f"{workload}: one point per confirmed seed{bars}, n = {n}; {correlation}. A {sign} tau means "
        f"that flatter is {better}; over several methods it mixes differences between and within them.",
        new_figure(
            traces,
            title=f"{workload}: {measure}",
            x={"title": text(measure), "type": "log" if wide else "linear"},
            y={"title": text(reached)},
        ),
    )
