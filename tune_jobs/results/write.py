"""Exports the ledger of a search as Parquet files."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tune_jobs.errors import ResultsError
from tune_jobs.job.finalists import finalist_of
from tune_jobs.job.metric import METRIC_PREFIX
from tune_jobs.job.space import in_full
from tune_jobs.ledger.file import FILE_NAME, is_there
from tune_jobs.ledger.rows import OWN_METRICS, WORKER_FACTS
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.schema import (
    PARAM_PREFIX,
    SCHEMA_VERSION,
    SHARPNESS_PREFIX,
    confirmations_schema,
    epochs_schema,
    trials_schema,
)
from tune_jobs.storage import room_problem
from zsharp.atomic import atomic_write
from zsharp.training.epoch_row import TOTALS

_BATCH = 20_000
"""Rows written at a time: the reports of a long search need not fit in memory as Python objects."""

_LAST_REPORT = ("val_accuracy", "val_loss", "train_loss", "train_accuracy", *TOTALS, *WORKER_FACTS)
"""Columns of a trial that come from its last report."""


def export(folder: Path | str) -> list[Path]:
    """Writes `parquet/{trials,epochs,confirmations}.parquet` in a local search folder from its ledger.

    You may export while the search runs: the three files show the ledger at one moment, and each file is replaced
    atomically. Columns are those of `tune_jobs.results.schema`.

    Returns:
        The files written: trials, epochs, confirmations.

    Raises:
        LedgerError: The folder has no readable ledger.
        ResultsError: The folder `parquet` cannot be made or written, or the disk is full.
    """
    parquet = Path(folder) / "parquet"
    if is_there(parquet.with_name(FILE_NAME)) and (problem := room_problem(parquet)) is not None:
        raise ResultsError(f"{parquet}: {problem}")
    with Ledger.open(Path(folder), read_only=True) as ledger, ledger.snapshot():
        job, trials = ledger.job, ledger.trials()
        metadata = file_metadata(job, ledger.provenance, ledger.jobs())
        metrics = ledger.metric_names()
        params = {name for trial in trials for name in trial["params"]}
        names = {
            name
            for trial in trials
            for name, value in trial["params"].items()
            if isinstance(value, bool | str)
        }
        events = ledger.events()
        origins = {
            event["trial_id"]: event["data"].get("origin") for event in events if event["kind"] == "origin"
        }
        forks = ledger.forks()
        # Every session has checked that the file is the same.
        for event in events:
            if checksum := event["data"].get("weights_checksum"):
                metadata["weights_checksum"] = checksum
        confirmations = [confirmation_row(row, names) for row in ledger.confirmations().values()]
        _make_folder(parquet)

        summaries = {trial["trial_id"]: {"epochs_trained": 0, "best_val_accuracy": None} for trial in trials}
        study_of = {trial["trial_id"]: trial["study"] for trial in trials}

        def epochs() -> Iterator[dict[str, Any]]:
            # One pass over the reports writes the epochs and sums up each trial for the table of trials.
            for report in ledger.iter_reports():
                summarise(summaries[report["trial_id"]], report)
                names = {"job": job["name"], "study": study_of[report["trial_id"]]}
                yield {**report, **own_metrics(report), **names}

        written = [_write(parquet / "epochs.parquet", epochs_schema(metrics), epochs(), metadata)]
    for trial in trials:
        trial["origin"] = origins.get(trial["trial_id"])  # ledgers of 0.1 do not say
        if (fork := forks.get(trial["trial_id"])) is not None:
            trial["trunk"], trial["fork_epoch"] = fork.trunk, fork.epoch
    rows = (trial_row(job["name"], trial, summaries[trial["trial_id"]], names) for trial in trials)
    schema = trials_schema(params, metrics, names=names)
    written.insert(0, _write(parquet / "trials.parquet", schema, rows, metadata))
    sharpness, measured = (named_after(confirmations, prefix) for prefix in (SHARPNESS_PREFIX, METRIC_PREFIX))
    schema = confirmations_schema(params, sharpness, measured, names=names)
    written.append(_write(parquet / "confirmations.parquet", schema, confirmations, metadata))
    return written


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as problem:
        raise ResultsError(f"{folder}: cannot make this folder: {problem.strerror}") from problem


def summarise(summary: dict[str, Any], report: Mapping[str, Any], *, is_last: bool = True) -> None:
    """Adds a report to what the table of trials says of its trial; if another follows, only what that will not have."""
    value, best = report.get("val_accuracy"), summary["best_val_accuracy"]
    if value is not None and (best is None or value > best):
        summary["best_val_accuracy"] = value
    if report[OWN_METRICS]:
        summary.update(own_metrics(report))
    if is_last:
        summary["epochs_trained"] = report["epoch"]
        summary.update({name: report.get(name) for name in _LAST_REPORT})


def own_metrics(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the columns of what a task of the user's own measured."""
    return {f"{METRIC_PREFIX}{name}": value for name, value in report[OWN_METRICS].items()}


def named_after(rows: Iterable[Mapping[str, Any]], prefix: str) -> list[str]:
    """Returns the columns with a prefix, without it, sorted."""
    return sorted({name.removeprefix(prefix) for row in rows for name in row if name.startswith(prefix)})


def trial_row(
    job: str, trial: Mapping[str, Any], summary: Mapping[str, Any], names: Collection[str]
) -> dict[str, Any]:
    """Returns a row of the table of trials; `names` are the parameters whose column has text."""
    lines = (trial["error"] or "").strip().splitlines()
    params = {f"{PARAM_PREFIX}{name}": value for name, value in trial["params"].items()}
    return {
        **trial,
        **summary,
        **_as_text(params, names),
        "job": job,
        "error": lines[-1].strip() if lines else None,
        "finalist_of": finalist_of(trial["study"], trial["number"]),
    }


def _as_text(row: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Returns a row with text where the column of a parameter has text."""
    texts = {f"{PARAM_PREFIX}{name}" for name in names}
    return {
        column: in_full(value) if column in texts and value is not None else value
        for column, value in row.items()
    }


def confirmation_row(row: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Returns a row of the table of confirmations; `names` are the parameters whose column has text."""
    times = {
        name: datetime.fromisoformat(row[name]) for name in ("started_at", "finished_at") if row.get(name)
    }
    return {**_as_text(row, names), **times}


def file_metadata(
    job: Mapping[str, Any], provenance: Mapping[str, Any], history: Sequence[tuple[int, Mapping[str, Any]]]
) -> dict[str, str]:
    """Returns the key-value metadata of the files; what is unknown has no key."""
    dirty = provenance.get("git_dirty")
    known = {
        "schema_version": str(SCHEMA_VERSION),
        "job": json.dumps(job),
        "job_history": json.dumps(history),
        "package_versions": json.dumps(provenance.get("package_versions")),
        "python_version": provenance.get("python_version"),
        "git_commit": provenance.get("git_commit"),
        "git_dirty": None if dirty is None else json.dumps(bool(dirty)),
        "hardware": json.dumps(provenance.get("hardware")),
        "data": json.dumps(provenance["data"]) if provenance.get("data") else None,
        "own_code": json.dumps(provenance["code"]) if provenance.get("code") else None,
    }
    return {name: value for name, value in known.items() if value is not None}


def _write(
    file: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]], metadata: Mapping[str, str]
) -> Path:
    schema = schema.with_metadata(metadata)
    remaining = iter(rows)
    with (
        atomic_write(file) as unfinished,
        unfinished.open("wb") as opened,  # pyarrow takes only paths in UTF-8
        pq.ParquetWriter(opened, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        while batch := list(islice(remaining, _BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
    return file
