"""Writes a search's ledger as Parquet files, and reads them back."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tune_jobs.errors import ResultsError
from tune_jobs.ledger.rows import WORKER_FACTS
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.schema import (
    LATER_COLUMNS,
    SCHEMA_VERSION,
    SHARPNESS_PREFIX,
    confirmations_schema,
    epochs_schema,
    trials_schema,
)
from zsharp.training.epoch_row import TOTALS

_BATCH = 20_000  # rows; the reports of a long search need not fit in memory as Python objects
# Columns of a trial that its last report has.
_LAST_REPORT = ("val_accuracy", "val_loss", "train_loss", *TOTALS, *WORKER_FACTS)
_JSON_METADATA = ("job", "job_history", "package_versions", "hardware")


@dataclass(frozen=True)
class Results:
    """A search's results as `read_results` finds them."""

    trials: pd.DataFrame  # columns as in `trials_schema`; counts are nullable Int64
    epochs: pd.DataFrame  # columns as in `epochs_schema`, in ledger order
    confirmations: pd.DataFrame  # columns as in `confirmations_schema`; no rows where nothing was confirmed
    metadata: dict[
        str, Any
    ]  # job, package_versions, hardware (dicts), git_commit, git_dirty, schema_version,
    # and job_history: the job as created and as extended, each with the `seq` of the last report before it held


def export(folder: Path) -> list[Path]:
    """Writes `parquet/{trials,epochs,confirmations}.parquet` in a search folder from its ledger.

    May run while the search does: it takes the ledger of one moment, and each file is replaced as a whole.

    Returns:
        the files written.

    Raises:
        LedgerError: there is no ledger that can be read.
        ResultsError: no folder can be made for them.
        ResultsError: `parquet` is not a folder.
    """
    parquet = Path(folder) / "parquet"
    with Ledger.open(folder, read_only=True) as ledger, ledger.snapshot():
        job, trials = ledger.job, ledger.trials()
        metadata = _metadata(job, ledger.provenance, ledger.jobs())
        params = {name for trial in trials for name in trial["params"]}
        confirmations = [_with_times(row) for row in ledger.confirmations().values()]
        _make_folder(parquet)

        summaries = {trial["trial_id"]: {"epochs_trained": 0, "best_val_accuracy": None} for trial in trials}
        study_of = {trial["trial_id"]: trial["study"] for trial in trials}

        def epochs() -> Iterator[dict[str, Any]]:
            for report in ledger.iter_reports():
                _summarise(summaries[report["trial_id"]], report)
                yield {**report, "job": job["name"], "study": study_of[report["trial_id"]]}

        written = [_write(parquet / "epochs.parquet", epochs_schema(), epochs(), metadata)]
    rows = (_trial_row(job["name"], trial, summaries[trial["trial_id"]]) for trial in trials)
    written.insert(0, _write(parquet / "trials.parquet", trials_schema(params), rows, metadata))
    measures = {name for row in confirmations for name in row if name.startswith(SHARPNESS_PREFIX)}
    schema = confirmations_schema(params, sorted(name.removeprefix(SHARPNESS_PREFIX) for name in measures))
    written.append(_write(parquet / "confirmations.parquet", schema, confirmations, metadata))
    return written


def read_results(folder: Path) -> Results:
    """Reads the Parquet files of a search folder; columns that an older version did not write are null.

    Raises:
        ResultsError: the folder has none, or they are foreign, damaged, or of a newer schema version.
    """
    parquet = Path(folder) / "parquet"
    trials = _read(parquet / "trials.parquet", trials_schema())
    epochs = _read(parquet / "epochs.parquet", epochs_schema())
    confirmations = _read(parquet / "confirmations.parquet", confirmations_schema())
    try:
        raw = {key.decode(): value.decode() for key, value in trials.schema.metadata.items()}
        metadata: dict[str, Any] = {name: json.loads(raw.get(name, "null")) for name in _JSON_METADATA}
    except ValueError as problem:
        file = parquet / "trials.parquet"
        raise ResultsError(f"{file}: expected metadata that can be read, found: {problem}") from problem
    metadata["schema_version"] = int(raw["schema_version"])
    metadata["python_version"] = raw.get("python_version")
    metadata["git_commit"] = raw.get("git_commit")
    metadata["git_dirty"] = {"true": True, "false": False}.get(raw.get("git_dirty", ""))
    return Results(_to_pandas(trials), _to_pandas(epochs), _to_pandas(confirmations), metadata)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as problem:
        raise ResultsError(f"{folder}: no folder can be made there: {problem.strerror}") from problem


def _summarise(summary: dict[str, Any], report: Mapping[str, Any]) -> None:
    accuracies = [summary["best_val_accuracy"], report.get("val_accuracy")]
    summary["best_val_accuracy"] = max((a for a in accuracies if a is not None), default=None)
    summary["epochs_trained"] = report["epoch"]
    summary.update({name: report.get(name) for name in _LAST_REPORT})


def _trial_row(job: str, trial: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    lines = (trial["error"] or "").strip().splitlines()
    params = {f"param.{name}": value for name, value in trial["params"].items()}
    return {**trial, **summary, **params, "job": job, "error": lines[-1].strip() if lines else None}


def _with_times(row: Mapping[str, Any]) -> dict[str, Any]:
    times = {
        name: datetime.fromisoformat(row[name]) for name in ("started_at", "finished_at") if row.get(name)
    }
    return {**row, **times}


def _metadata(
    job: Mapping[str, Any], provenance: Mapping[str, Any], history: Sequence[tuple[int, Mapping[str, Any]]]
) -> dict[str, str]:
    """Key-value metadata of a file; what is not known has no key."""
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
    }
    return {name: value for name, value in known.items() if value is not None}


def _write(
    file: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]], metadata: Mapping[str, str]
) -> Path:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    schema = schema.with_metadata(metadata)
    remaining = iter(rows)
    try:
        with pq.ParquetWriter(unfinished, schema, compression="zstd", write_page_checksum=True) as writer:
            while batch := list(islice(remaining, _BATCH)):
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
        with unfinished.open("rb+") as done:
            os.fsync(done.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return file


def _read(file: Path, expected: pa.Schema) -> pa.Table:
    try:
        is_there = file.is_file()
    except OSError:  # its name is too long
        is_there = False
    if not is_there:
        raise ResultsError(
            f"{file}: no such file; expected a search folder that `tune-jobs export` went over"
        )
    try:
        table = pq.read_table(file, page_checksum_verification=True)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as problem:  # the last, of names that are not text
        text = "".join(char for char in " ".join(str(problem).split()) if char.isprintable())
        raise ResultsError(f"{file}: expected a Parquet file, found: {text}") from problem
    version = (table.schema.metadata or {}).get(b"schema_version", b"none").decode(errors="replace")
    if not version.isdecimal():
        raise ResultsError(f"{file}: not written by tune-jobs: expected a schema_version, found {version}")
    if int(version) > SCHEMA_VERSION:
        raise ResultsError(
            f"{file}: found schema_version {version}, expected at most {SCHEMA_VERSION}; update zsharp-tune"
        )
    present = {field.name for field in table.schema}
    for field in expected:
        if field.name in LATER_COLUMNS[file.stem] and field.name not in present:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    fields = {field.name: field.type for field in table.schema}
    if wrong := [field.name for field in expected if fields.get(field.name) != field.type]:
        raise ResultsError(
            f"{file}: expected the columns of schema_version {version}, found none or others of: {wrong}"
        )
    return table


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    nullable: Callable[[pa.DataType], Any] = {pa.int64(): pd.Int64Dtype()}.get
    frame: pd.DataFrame = table.to_pandas(types_mapper=nullable)
    return frame
