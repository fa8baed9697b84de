"""What the report is made of: the tables of all searches, side by side, with names for what is compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from tune_jobs.job.metric import Metric
from tune_jobs.job.space import Choice, Distribution, Int, LogUniform, Uniform
from tune_jobs.results.compare import compare_results
from tune_jobs.results.conditions import conditions
from tune_jobs.results.read import Results, read_all, values_of
from tune_jobs.results.schema import PARAM_PREFIX, SHARPNESS_PREFIX, STANDARD_PARAMS
from tune_jobs.results.tables import records

STANDARD_ERROR = "_se"
_PRECISION = (STANDARD_ERROR, "_converged", "_residual")
"""Endings of columns that say how exact a measure of sharpness is, and are none themselves."""

_STUDY = ["folder", "job", "dataset", "architecture", "method"]
_SPACE: TypeAdapter[dict[str, Distribution]] = TypeAdapter(dict[str, Distribution])


@dataclass(frozen=True)
class Report:
    """All searches of a report.

    Every frame has the columns `folder`, `workload` (an architecture on a data set: methods are compared within it, by
    one metric, among searches that trained alike) and `label` (a method's name, with job and folder where the method
    alone would be ambiguous).
    """

    results: Sequence[Results]  # the results of each search, in the order given
    # One row per trial, with `uid`, its job's `metric` and `mode`, and its `value` of the metric; `status` is "running"
    # where it has not ended.
    trials: pd.DataFrame
    trunks: pd.DataFrame  # one row per trunk that trials started from, with `workload`
    finalists: pd.DataFrame  # one row per trial of a finalist, with `workload` and `label`
    epochs: pd.DataFrame  # one row per report, with `uid` and `value`, in the order of the ledger
    # One row per fresh seed; `dataset` and `rank_in_study` are filled in, `test_value` is what is compared, and
    # `measure` what to call it.
    confirmations: pd.DataFrame
    studies: pd.DataFrame  # the rows of `tune_jobs.results.compare.compare`
    addresses: Sequence[
        str
    ]  # what commands call the searches: folders, or the addresses that they were copied from

    @property
    def folders(self) -> list[Path]:
        """The search folders, in the order given."""
        return [result.folder for result in self.results]

    @property
    def completed(self) -> pd.DataFrame:
        """The trials that reached full fidelity."""
        return self.trials[(self.trials["status"] == "completed") & self.trials["value"].notna()]

    @property
    def workloads(self) -> list[str]:
        """All workloads, in the order of the jobs."""
        return list(dict.fromkeys(self.trials["workload"]))

    @property
    def labels(self) -> list[str]:
        """All methods, in the order of the jobs."""
        return list(dict.fromkeys(self.trials["label"]))

    @property
    def params(self) -> list[str]:
        """The parameters that at least one trial has."""
        return _present(self.trials, PARAM_PREFIX)

    @property
    def sharpness(self) -> list[str]:
        """The measures of sharpness that at least one confirmation has."""
        names = _present(self.confirmations, SHARPNESS_PREFIX)
        return [name for name in names if name != "loss" and not name.endswith(_PRECISION)]

    def of(self, frame: pd.DataFrame, workload: str, label: str | None = None) -> pd.DataFrame:
        """Returns the rows of a frame that belong to a workload, and to a label if you give one."""
        rows = frame["workload"] == workload
        return frame[rows if label is None else rows & (frame["label"] == label)]

    def metric(self, workload: str) -> Metric:
        """Returns what the trials of a workload are ranked by."""
        first = self.of(self.trials, workload).iloc[0]
        return Metric(first["metric"], first["mode"])

    @property
    def metrics(self) -> list[Metric]:
        """What the searches rank by, in the order of the jobs."""
        return list(dict.fromkeys(map(self.metric, self.workloads)))

    def labels_on(self, workload: str) -> list[str]:
        """Returns the methods that were searched on a workload, in the order of the jobs."""
        searched = set(self.of(self.trials, workload)["label"])
        return [label for label in self.labels if label in searched]

    def job(self, folder: str) -> Mapping[str, Any]:
        """Returns the job of a folder as its files have it; empty if they have none."""
        by_folder = {result.folder_name: result.metadata["job"] for result in self.results}
        return by_folder[folder] or {}

    def space(self, folder: str) -> dict[str, Distribution]:
        """Returns the search space of a folder's job; empty if this version cannot read it."""
        try:
            return _SPACE.validate_python(self.job(folder).get("space") or {})
        except ValidationError:
            return {}


def load(folders: Iterable[Path | str], addresses: Sequence[str] = ()) -> Report:
    """Reads the searches of a report.

    Args:
        folders: Local search folders.
        addresses: What commands call them, where that is not their path.

    Raises:
        ResultsError: A folder has no results that can be read.
    """
    return collect(read_all(folders), addresses)


def collect(results: Sequence[Results], addresses: Sequence[str] = ()) -> Report:
    """Returns the tables of all searches side by side; `results` has at least one."""
    names = [result.folder_name for result in results]
    trials = _together(names, [_with_values(result) for result in results])
    trials["status"] = trials["status"].fillna("running")
    trials["conditions"] = trials["folder"].map(dict(zip(names, conditions(results), strict=True)))
    study_names = _study_names(trials[[*_STUDY, "metric", "mode", "conditions"]].drop_duplicates())
    trials = trials.merge(study_names, on=_STUDY, how="left")
    of_trial = trials[["folder", "trial_id", "workload", "label", "uid"]]
    reports = [result.epochs.assign(value=values_of(result.epochs, result.metric)) for result in results]
    epochs = _together(names, reports).drop(columns="uid")
    trunks = _together(names, [result.trunks for result in results])
    finalists = _together(names, [result.finalists for result in results])
    of_study = trials[["folder", "study", "workload", "label"]].drop_duplicates(["folder", "study"])
    of_workload = trials[["folder", "dataset", "architecture", "workload"]].drop_duplicates()
    return Report(
        results=results,
        trials=trials,
        trunks=trunks.merge(of_workload, on=["folder", "dataset", "architecture"], how="inner"),
        finalists=finalists.merge(of_study, on=["folder", "study"], how="inner"),
        epochs=epochs.merge(of_trial, on=["folder", "trial_id"], how="inner"),
        confirmations=_confirmations(names, results, trials),
        studies=compare_results(results).merge(study_names, on=_STUDY, how="left"),
        addresses=addresses or [str(result.folder) for result in results],
    )


def limits(distribution: Distribution | None) -> tuple[float, float, bool] | None:
    """Returns the ends of a search range and whether it is logarithmic; None of a single value, and of names."""
    match distribution:
        case LogUniform(loguniform=(low, high)) | Int(int=(low, high), log=True):
            return low, high, True
        case Uniform(uniform=(low, high)) | Int(int=(low, high)):
            return low, high, False
        case Choice(choice=choices) if len(choices) > 1:
            numbers = [value for value in choices if not isinstance(value, bool | str)]
            return (min(numbers), max(numbers), False) if len(numbers) == len(choices) else None
    return None


def _together(names: Sequence[str], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenates the frames of all folders; adds `folder`, and `uid`, which no two trials share."""
    marked = [frame.assign(folder=name) for name, frame in zip(names, frames, strict=True)]
    columns = list(dict.fromkeys(column for frame in marked for column in frame.columns))
    filled = [frame for frame in marked if len(frame)]
    if not filled:
        return marked[0].reindex(columns=[*columns, "uid"])
    # pandas would infer the type of a column from the frames in which it is all null: leave those out.
    table = pd.concat([frame.dropna(axis=1, how="all") for frame in filled], ignore_index=True)
    types = {column: frame[column].dtype for frame in filled for column in frame}
    for column in set(columns) - set(table.columns):
        table[column] = pd.Series(None, index=table.index, dtype=types[column])
    table = table[columns]
    return table.assign(uid=table["folder"] + "\n" + table["trial_id"].astype(str))


def _with_values(result: Results) -> pd.DataFrame:
    metric = result.metric
    return result.trials.assign(value=values_of(result.trials, metric), metric=metric.name, mode=metric.mode)


def _with_test_values(result: Results) -> pd.DataFrame:
    measured = [result.metric.confirmed(row) for row in records(result.confirmations)]
    return result.confirmations.assign(
        test_value=pd.Series([value for value, _ in measured], dtype="float64"),
        measure=pd.Series([measure for _, measure in measured], dtype="object"),
    )


def _study_names(studies: pd.DataFrame) -> pd.DataFrame:
    """Returns the studies with `workload` and `label`, as short as they can be while no two are the same."""
    studies = studies.copy()
    is_own = studies["architecture"] == studies["dataset"]  # a task brings its data
    studies["workload"] = studies["architecture"]
    if studies["dataset"].nunique() > 1:
        studies["workload"] += (" on " + studies["dataset"]).where(~is_own, "")
    if len(studies[["metric", "mode"]].drop_duplicates()) > 1:
        studies["workload"] += " by " + studies["metric"]
        if studies.groupby("metric")["mode"].nunique().max() > 1:
            studies["workload"] += " (" + studies["mode"] + ")"
    studies["label"] = studies["method"]
    names = studies["folder"].map(lambda folder: Path(folder).name)
    distinct = studies["folder"].nunique() == names.nunique()
    folders = names if distinct else studies["folder"]
    # Searches that trained otherwise are another workload, since methods are compared within one.
    apart = studies.groupby("workload")["conditions"].transform("nunique") > 1
    if apart.any():
        kinds = [studies["workload"], studies["conditions"]]
        together = folders.groupby(kinds).transform(lambda own: ", ".join(dict.fromkeys(own)))
        studies["workload"] += (" (" + together + ")").where(apart, "")
    for more in (studies["job"], folders):
        twice = studies.duplicated(["workload", "label"], keep=False)
        studies.loc[twice, "label"] += " (" + more[twice] + ")"
    return studies.drop(columns=["metric", "mode", "conditions"])


def _confirmations(names: Sequence[str], results: Sequence[Results], trials: pd.DataFrame) -> pd.DataFrame:
    table = _together(names, [_with_test_values(result) for result in results])
    of_study = trials[["folder", "study", "workload", "label"]].drop_duplicates(["folder", "study"])
    table = table.rename(columns={"place": "rank_in_study"}).merge(of_study, on=["folder", "study"])
    # Files of older versions lack both columns: they confirmed the winner only, at equal epochs.
    table["rank_in_study"] = table["rank_in_study"].fillna(1).astype("int64")
    table["budget"] = table["budget"].fillna("epochs")
    return table


def _present(frame: pd.DataFrame, prefix: str) -> list[str]:
    names = [str(name).removeprefix(prefix) for name in frame if str(name).startswith(prefix)]
    present = [name for name in names if frame[prefix + name].notna().any()]
    return sorted(present, key=lambda name: STANDARD_PARAMS.index(name) if name in STANDARD_PARAMS else 9)
