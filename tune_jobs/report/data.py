"""What the report is made from: the Parquet tables of all searches, side by side, with names to call them by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from tune_jobs.job.space import Choice, Distribution, LogUniform, Uniform
from tune_jobs.results.compare import comparison
from tune_jobs.results.schema import PARAM_PREFIX, SHARPNESS_PREFIX, STANDARD_PARAMS
from tune_jobs.results.write import Results, read_results

STANDARD_ERROR = "_se"
_STUDY = ["folder", "job", "dataset", "architecture", "method"]
_OF_A_MEASURE = (STANDARD_ERROR, "_converged", "_residual")  # endings of columns that say how exact one is
_SPACE: TypeAdapter[dict[str, Distribution]] = TypeAdapter(dict[str, Distribution])


@dataclass(frozen=True)
class Report:
    """All searches of a report.

    Every frame has the columns `folder`, `place` (what is compared: an architecture on a data set) and `label`
    (with what: a method; with job and folder where the method alone would be ambiguous).

    Attributes:
        folders: The search folders, in the order given.
        metadata: What each folder's files say of themselves.
        trials: One row a trial, with `uid`; `status` is "running" where it has not ended.
        epochs: One row a report, with `uid`, in ledger order.
        confirmations: One row a fresh seed, `dataset` and `place_in_study` filled in.
        studies: The rows of `tune_jobs.results.compare.comparison`.
    """

    folders: Sequence[Path]
    metadata: Sequence[Mapping[str, Any]]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    confirmations: pd.DataFrame
    studies: pd.DataFrame

    @property
    def places(self) -> list[str]:
        """What is compared, in the order of the jobs."""
        return list(dict.fromkeys(self.trials["place"]))

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
        """The measures of sharpness that at least one confirmation has; how exact they are is no measure."""
        names = _present(self.confirmations, SHARPNESS_PREFIX)
        return [name for name in names if name != "loss" and not name.endswith(_OF_A_MEASURE)]

    def of(self, frame: pd.DataFrame, place: str, label: str | None = None) -> pd.DataFrame:
        """Returns the rows of a frame that belong to a place, and to a label if one is given."""
        rows = frame["place"] == place
        return frame[rows if label is None else rows & (frame["label"] == label)]

    def labels_at(self, place: str) -> list[str]:
        """Returns the methods that were searched at a place, in the order of the jobs."""
        found = set(self.of(self.trials, place)["label"])
        return [label for label in self.labels if label in found]

    def space(self, folder: str) -> dict[str, Distribution]:
        """Returns the search space of a folder's job; nothing where this version cannot read it."""
        job = self.metadata[[str(one) for one in self.folders].index(folder)]["job"] or {}
        try:
            return _SPACE.validate_python(job.get("space") or {})
        except ValidationError:
            return {}


def load(folders: Sequence[Path]) -> Report:
    """Reads all searches.

    Raises:
        ResultsError: a folder has no results that can be read.
    """
    found = list(dict.fromkeys(Path(folder) for folder in folders))
    results = [read_results(folder) for folder in found]
    names = [str(folder) for folder in found]
    trials = _together(names, [one.trials for one in results])
    trials["status"] = trials["status"].fillna("running")
    called = _names(trials[_STUDY].drop_duplicates())
    trials = trials.merge(called, on=_STUDY, how="left")
    of_trial = trials[["folder", "trial_id", "place", "label", "uid"]]
    epochs = _together(names, [one.epochs for one in results]).drop(columns="uid")
    return Report(
        folders=found,
        metadata=[one.metadata for one in results],
        trials=trials,
        epochs=epochs.merge(of_trial, on=["folder", "trial_id"], how="inner"),
        confirmations=_confirmations(names, results, trials),
        studies=comparison(found).merge(called, on=_STUDY, how="left"),
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the rows of a frame as dicts."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict(orient="records")]


def limits(distribution: Distribution | None) -> tuple[float, float, bool] | None:
    """Returns the lower and the upper end of a search range and whether it is logarithmic; None without range."""
    match distribution:
        case Uniform(uniform=(low, high)):
            return low, high, False
        case LogUniform(loguniform=(low, high)):
            return low, high, True
        case Choice(choice=choices) if len(choices) > 1:
            return min(choices), max(choices), False
    return None


def _together(names: Sequence[str], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Returns frames below each other with their `folder`, and `uid`, which no two trials share."""
    marked = [frame.assign(folder=name) for name, frame in zip(names, frames, strict=True)]
    columns = list(dict.fromkeys(column for frame in marked for column in frame.columns))
    filled = [frame for frame in marked if len(frame)]
    if not filled:
        return marked[0].reindex(columns=[*columns, "uid"])
    # What a frame lacks or has no value of says nothing about the column's type.
    table = pd.concat([frame.dropna(axis=1, how="all") for frame in filled], ignore_index=True)
    types = {column: frame[column].dtype for frame in filled for column in frame}
    for column in set(columns) - set(table.columns):
        table[column] = pd.Series(None, index=table.index, dtype=types[column])
    table = table[columns]
    return table.assign(uid=table["folder"] + "\n" + table["trial_id"].astype(str))


def _names(studies: pd.DataFrame) -> pd.DataFrame:
    """Returns the studies with `place` and `label`, as short as they can be without two being the same."""
    studies = studies.copy()
    many = studies["dataset"].nunique() > 1
    studies["place"] = studies["architecture"] + ((" on " + studies["dataset"]) if many else "")
    studies["label"] = studies["method"]
    names = studies["folder"].map(lambda folder: Path(folder).name)
    distinct = studies["folder"].nunique() == names.nunique()
    for more in (studies["job"], names if distinct else studies["folder"]):
        twice = studies.duplicated(["place", "label"], keep=False)
        studies.loc[twice, "label"] += " (" + more[twice] + ")"
    return studies


def _confirmations(names: Sequence[str], results: Sequence[Results], trials: pd.DataFrame) -> pd.DataFrame:
    table = _together(names, [one.confirmations for one in results])
    of_study = trials[["folder", "study", "place", "label"]].drop_duplicates(["folder", "study"])
    table = table.rename(columns={"place": "place_in_study"}).merge(of_study, on=["folder", "study"])
    table["place_in_study"] = table["place_in_study"].fillna(1).astype("int64")
    table["budget"] = table["budget"].fillna("epochs")
    return table


def _present(frame: pd.DataFrame, prefix: str) -> list[str]:
    names = [str(name).removeprefix(prefix) for name in frame if str(name).startswith(prefix)]
    present = [name for name in names if frame[prefix + name].notna().any()]
    return sorted(present, key=lambda name: STANDARD_PARAMS.index(name) if name in STANDARD_PARAMS else 9)
