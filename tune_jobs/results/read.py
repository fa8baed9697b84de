"""Reads the Parquet files of search folders."""

import json
import math
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as field_of
from functools import cached_property
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from tune_jobs.errors import ResultsError
from tune_jobs.job.finalists import FINALISTS
from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.job.trunk import TRUNK
from tune_jobs.ledger.file import is_there
from tune_jobs.results.finalists import Final, ended, finals, settings_of
from tune_jobs.results.schema import (
    LATER_COLUMNS,
    SCHEMA_VERSION,
    confirmations_schema,
    epochs_schema,
    trials_schema,
)
from tune_jobs.results.tables import records

_MOST_BYTES = 1 << 32
_JSON_METADATA = ("job", "job_history", "package_versions", "hardware", "data")


class _Section(BaseModel):
    """What is read of a job's sections; any version may have written them."""

    seed: int = 0
    seeds: int = 1
    finalists: Annotated[int, Field(ge=0)] = 0
    finalist_seeds: Annotated[int, Field(ge=1)] = 1
    epochs: Annotated[int, Field(ge=1)] = 1
    grace_epochs: Annotated[int, Field(ge=1)] = 1
    reduction_factor: Annotated[float, Field(ge=2, allow_inf_nan=False)] = 3
    enabled: bool = True
    protect_top: int = 0
    immortal_fraction: float = 0


class _Job(BaseModel):
    asha: _Section | None = None
    search: _Section | None = None
    train: _Section | None = None
    space: dict[str, Any] | None = None
    metric: str = VAL_ACCURACY.name
    mode: Literal["max", "min"] = VAL_ACCURACY.mode


class _Hardware(BaseModel):
    memory_bytes: float | None = None
    gpus: list[Any] | None = None


class _Data(BaseModel):
    num_train: int | None = None


class _Metadata(BaseModel):
    """What must be true of the metadata, whoever wrote them."""

    job: _Job | None
    job_history: list[tuple[int, _Job]] | None
    package_versions: dict[str, Any] | None
    hardware: _Hardware | None
    data: _Data | None


@dataclass(frozen=True)
class Results:
    """The results of one search. Counts are nullable `Int64`, times are UTC, missing values are null.

    Attributes:
        folder: The search folder.
        trials: One row per trial, with the columns of `tune_jobs.results.schema.trials_schema`; without trunks.
        epochs: One row per report of these, with the columns of `epochs_schema`, in the order of the ledger.
        confirmations: One row per fresh seed of a winner, with the columns of `confirmations_schema`, without those in
            `incumbents`; empty if nothing was confirmed.
        metadata: `job`, `package_versions`, `hardware`, `data` (dicts), `python_version`, `git_commit`, `git_dirty`,
            `schema_version`, and `job_history`: each version of the job (as created, then as extended) with the
            `seq` of the last report before it applied. None where unknown.
        trunks: One row per trunk that trials started from, with the columns of `trials`; empty without.
        finalists: One row per trial of a finalist, likewise. Their `study` is that of the trial in `finalist_of`.
        incumbents: One row per fresh seed of each trial that was its study's best so far, the winner included, with the
            columns of `confirmations`; empty without `confirm --incumbents`.
    """

    folder: Path
    trials: pd.DataFrame
    epochs: pd.DataFrame
    confirmations: pd.DataFrame
    metadata: dict[str, Any]
    trunks: pd.DataFrame = field_of(default_factory=pd.DataFrame)
    finalists: pd.DataFrame = field_of(default_factory=pd.DataFrame)
    incumbents: pd.DataFrame = field_of(default_factory=pd.DataFrame)

    @property
    def folder_name(self) -> str:
        """The folder as text; bytes that are not UTF-8, which no table can hold, become escapes such as `\\xff`."""
        return os.fsencode(self.folder).decode(errors="backslashreplace")

    @property
    def metric(self) -> Metric:
        """What the search ranked its trials by."""
        return Metric.of_job(self.metadata["job"])

    @cached_property
    def finals(self) -> dict[str, list[Final]]:
        """The finalists of each study, the best mean first, once their trials have all ended; empty without."""
        if self.finalists.empty:
            return {}
        job = self.metadata["job"] or {}
        settings, epochs = settings_of(job), (job.get("train") or {}).get("epochs", 1)
        by_study = {}
        for study, again in self.finalists.groupby("study", sort=False):
            trials = self.trials[self.trials["study"] == study]
            own, theirs = (
                list(ended(records(frame), self.metric, epochs, of_finalists=is_theirs))
                for frame, is_theirs in ((trials, False), (again, True))
            )
            if ranked := finals(self.metric, settings, own, theirs):
                by_study[str(study)] = ranked
        return by_study

    def best_first(self, trials: pd.DataFrame) -> pd.DataFrame:
        """Returns completed trials that have the metric, the best first: finalists by their means, then others."""
        ranked = by_merit(trials, self.metric)
        means = [final for own in self.finals.values() for final in own]
        means.sort(key=lambda final: self.metric.merit(final.mean, final.val_loss), reverse=True)
        order = {final.trial_id: rank for rank, final in enumerate(means)}
        last = ranked["trial_id"].map(order).fillna(len(order))
        return ranked.loc[last.sort_values(kind="stable").index]


def read_results(folder: Path | str) -> Results:
    """Reads the Parquet files of a search folder. Columns that an older version did not write are null.

    Args:
        folder: A local search folder, with `parquet/trials.parquet`, `epochs.parquet` and `confirmations.parquet`.

    Raises:
        ResultsError: The folder has no such files, or they are foreign, damaged, or of a newer schema version.

    Example:
        >>> trials = read_results("results/digits").trials  # doctest: +SKIP
        >>> trials.groupby("method")["val_accuracy"].max()  # doctest: +SKIP
    """
    folder = Path(folder)
    parquet = folder / "parquet"
    trials = _read(parquet / "trials.parquet", trials_schema())
    epochs = _read(parquet / "epochs.parquet", epochs_schema())
    confirmations = _read(parquet / "confirmations.parquet", confirmations_schema())
    # All three files carry the same metadata; the trials' copy stands for all.
    try:
        metadata = parse_metadata(
            {key.decode(): value.decode() for key, value in trials.schema.metadata.items()}
        )
    except (ValueError, RecursionError) as problem:
        file, text = parquet / "trials.parquet", "; ".join(str(problem).splitlines()[:3])
        raise ResultsError(f"{file}: its metadata cannot be read: {text}") from problem
    every, reports = to_frame(trials), to_frame(epochs)
    unknown = reports.loc[~reports["trial_id"].isin(every["trial_id"]), "trial_id"]
    if len(unknown):
        # An export replaces one file after the other.
        raise ResultsError(
            f"{parquet / 'epochs.parquet'}: has reports of trial {unknown.iloc[0]}, which trials.parquet lacks; if an "
            "export is running, try again, else run `tune-jobs export` on the folder"
        )
    return results_of(folder, every, reports, to_frame(confirmations), metadata)


def results_of(
    folder: Path,
    every: pd.DataFrame,
    reports: pd.DataFrame,
    confirmations: pd.DataFrame,
    metadata: dict[str, Any],
) -> Results:
    """Returns the results of a search from its rows, with those of trunks apart from all that is compared."""
    is_trunk, is_finalist = every["method"] == TRUNK, every["finalist_of"].notna()
    trials = every[~is_trunk & ~is_finalist].reset_index(drop=True)
    of_trials = reports[reports["trial_id"].isin(trials["trial_id"])].reset_index(drop=True)
    finalists = every[is_finalist].reset_index(drop=True)
    finalists["study"] = finalists["study"].str.removesuffix(f"-{FINALISTS}")
    trunks = every[is_trunk].reset_index(drop=True)
    is_incumbent = confirmations["role"] == "incumbent"
    incumbents, winners = (
        confirmations[rows].reset_index(drop=True) for rows in (is_incumbent, ~is_incumbent)
    )
    return Results(folder, trials, of_trials, winners, metadata, trunks, finalists, incumbents)


def own_epochs(trials: pd.DataFrame) -> pd.Series:
    """Returns how many epochs each trial trained itself: all, or those after it left its trunk."""
    epochs = trials["epochs_trained"].astype("float64") - trials["fork_epoch"].astype("float64").fillna(0)
    return epochs.clip(lower=0)  # one whose trunk failed has none


def read_all(folders: Iterable[Path | str]) -> list[Results]:
    """Reads several search folders, each once even if it is named twice.

    Raises:
        ResultsError: A folder has no results that can be read.
    """
    return [read_results(folder) for folder in dict.fromkeys(map(Path, folders))]


def values_of(frame: pd.DataFrame, metric: Metric) -> pd.Series:
    """Returns the metric of each row of `trials` or `epochs`; null where it was not measured."""
    if metric.column in frame:
        return frame[metric.column].astype("float64")
    return pd.Series(float("nan"), index=frame.index)


def by_merit(trials: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Returns the trials that have the metric, the best first; of equals, as `Metric.merit` and the id say."""
    merits = [
        metric.merit(value, loss)
        for value, loss in zip(values_of(trials, metric), trials["val_loss"].fillna(math.inf), strict=True)
    ]
    keys = {"first": [-first for first, _ in merits], "second": [-second for _, second in merits]}
    order = pd.DataFrame({**keys, "id": trials["trial_id"]}, index=trials.index).sort_values([*keys, "id"])
    return trials.loc[order.index[order["first"].notna()]]


def _what_to_do(file: Path) -> str:
    """What to say of a folder without results: a search that runs, or was killed, has its ledger."""
    folder = file.parent.parent
    if (folder / "ledger.sqlite").exists():
        return (
            "the search has not ended, and writes its results then; for those so far: "
            f"tune-jobs export {shlex.quote(str(folder))}"
        )
    return "expected a search folder with exported results"


def _read(file: Path, expected: pa.Schema) -> pa.Table:
    if not is_there(file):
        raise ResultsError(f"{file}: no such file; {_what_to_do(file)}")
    try:
        with file.open("rb") as opened:  # pyarrow takes only paths in UTF-8
            _check_size(file, opened)
            table = pq.read_table(opened, page_checksum_verification=True)
        # Checksums cover pages, not what they decode to: check that text is UTF-8 and offsets are in range.
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as problem:  # ValueError: column names that are not text
        text = "".join(char for char in " ".join(str(problem).split()) if char.isprintable())
        raise ResultsError(f"{file}: expected a Parquet file, found: {text}") from problem
    version = (table.schema.metadata or {}).get(b"schema_version", b"none").decode(errors="replace")
    if not version.isdecimal() or len(version) > 9:
        raise ResultsError(f"{file}: not written by tune-jobs: expected a schema_version, found {version}")
    if int(version) > SCHEMA_VERSION:
        raise ResultsError(
            f"{file}: found schema_version {version}, expected at most {SCHEMA_VERSION}; update zsharp-tune"
        )
    for field in expected:
        if field.name in LATER_COLUMNS[file.stem] and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    types = {field.name: field.type for field in table.schema}
    if wrong := [field.name for field in expected if types.get(field.name) != field.type]:
        raise ResultsError(f"{file}: columns are missing or have another type: {wrong}")
    return table


def _check_size(file: Path, opened: IO[bytes]) -> None:
    """Raises ResultsError if the file would take more memory than results do: a small one can hold a text millions
    of times."""
    names = [field.name for field in pq.read_schema(opened) if pa.types.is_string(field.type)]
    opened.seek(0)
    parquet = pq.ParquetFile(opened, read_dictionary=names)
    num_bytes = 8 * parquet.metadata.num_rows * parquet.metadata.num_columns
    for group in range(parquet.num_row_groups):
        if num_bytes > _MOST_BYTES:
            break
        for column in parquet.read_row_group(group, columns=names).columns:
            for chunk in column.chunks:
                lengths = pc.binary_length(chunk.dictionary).take(chunk.indices)
                num_bytes += pc.sum(lengths).as_py() or 0
    opened.seek(0)
    if num_bytes > _MOST_BYTES:
        raise ResultsError(
            f"{file}: would take over {_MOST_BYTES >> 30} GiB of memory, which no results of ours do"
        )


def parse_metadata(raw: Mapping[str, str]) -> dict[str, Any]:
    """Returns the metadata of `Results` from the text that the files carry.

    Raises:
        ValueError: If they are not what this version writes.
    """
    metadata: dict[str, Any] = {name: json.loads(raw.get(name, "null")) for name in _JSON_METADATA}
    _Metadata.model_validate(metadata)
    metadata["schema_version"] = int(raw["schema_version"])
    metadata["python_version"] = raw.get("python_version")
    metadata["git_commit"] = raw.get("git_commit")
    metadata["git_dirty"] = {"true": True, "false": False}.get(raw.get("git_dirty", ""))
    return metadata


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Returns a table for pandas, with nullable counts."""
    # Without this, one null would turn a column of counts into floats.
    nullable_counts = {pa.int64(): pd.Int64Dtype()}
    frame: pd.DataFrame = table.to_pandas(types_mapper=nullable_counts.get)
    return frame
