"""Searches from Python: runs with a live table in notebooks, and results with their tables, models and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, cast

from tune_jobs.cli.results import write_page
from tune_jobs.errors import ResultsError, unknown
from tune_jobs.job.spec import JobSpec
from tune_jobs.search import run as searches
from tune_jobs.search.extend import extended
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.run import SearchResult

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from torch import nn

    from tune_jobs.report.data import Report
    from tune_jobs.results.read import Results

_P = ParamSpec("_P")
_WATCHING = ("on_change", "on_start", "on_data")
Kind = Literal["curves", "rungs", "params", "pareto"]


@dataclass(frozen=True)
class Result(SearchResult):
    """How a search ended, with what it found."""

    @cached_property
    def _results(self) -> "Results":
        from tune_jobs.results.read import read_results

        return read_results(self.folder)

    @cached_property
    def _report(self) -> "Report":
        from tune_jobs.report.data import load

        return load([self.folder], [self.search.address])

    @property
    def trials(self) -> "pd.DataFrame":
        """One row per trial, with the columns of `trials.parquet`."""
        return self._results.trials

    @property
    def epochs(self) -> "pd.DataFrame":
        """One row per report, with the columns of `epochs.parquet`."""
        return self._results.epochs

    def best(self, architecture: str | None = None, method: str | None = None) -> "pd.Series[Any]":
        """Returns the row of the best completed trial, of all or of an architecture and method.

        With `search.finalists` it is the trial whose finalist has the best mean over its further seeds.

        Raises:
            ResultsError: If no such trial was completed.
        """
        trials = self.trials[self.trials["status"] == "completed"]
        for column, name in (("architecture", architecture), ("method", method)):
            if name is not None:
                names = dict.fromkeys(self.trials[column])
                if name not in names:
                    raise ResultsError(unknown(column, name, names))
                trials = trials[trials[column] == name]
        ranked = self._results.best_first(trials)
        if ranked.empty:
            raise ResultsError(f"{self.search.address}: no such trial was completed")
        return ranked.iloc[0]

    def load_model(self, trial_id: str, *, task: Callable[..., Any] | None = None) -> "nn.Module":
        """Returns the model of a trial with the weights that it was validated with, in eval mode.

        Only unfinished trials and the best of each study keep a checkpoint (`search.keep_checkpoints`).

        Args:
            trial_id: The trial's id, as in `trials`.
            task: The class or function that `run` was passed as `task`, if it cannot be imported.

        Raises:
            ResultsError: If the trial has no checkpoint, or none that can be read.
        """
        from tune_jobs.search.checkpoints import Checkpoints
        from tune_jobs.search.own_code import with_code
        from zsharp.training.training import Training

        with self.search.open(read_only=True) as ledger:
            _, job = extended(ledger, [])
            rows = {row["trial_id"]: row for row in ledger.trials()}
        if trial_id not in rows:
            raise ResultsError(f"trial_id: {unknown('trial', trial_id, rows)}")
        row = rows[trial_id]
        if job.train.loop is not None:
            raise ResultsError(f"{trial_id}: a training loop of your own keeps its checkpoints itself")
        job, _ = with_code(job, self.search, task)
        file = Checkpoints(self.search).fetch(trial_id)
        if file is None:
            text = "it has no checkpoint; expected one of the best of its study (search.keep_checkpoints)"
            raise ResultsError(f"{trial_id}: {text}")
        study = next(study for study in job.all_studies() if study.name == row["study"])
        training = Training(job.trial_spec(study, row["params"], row["number"]), task=task)
        try:
            training.load(file)
        except ValueError as error:
            raise ResultsError(str(error)) from error
        return training.validated_model()

    def figure(self, kind: Kind, architecture: str | None = None, param: str | None = None) -> "go.Figure":
        """Returns a figure of the report: learning curves, rungs, a searched setting, or the metric against its cost.

        Args:
            kind: Which one.
            architecture: Of which architecture; by default the first of the job.
            param: For `params`, which setting; by default the importance of all, or the first where it is not known.

        Raises:
            ResultsError: If there is no such figure, for example no rungs without early stopping.
        """
        from tune_jobs.report.curves import curves_section
        from tune_jobs.report.figures import slug
        from tune_jobs.report.history import search_section
        from tune_jobs.report.params import params_section
        from tune_jobs.report.pareto import pareto_picture

        if self.trials.empty:
            raise ResultsError(f"{self.search.address}: no trial has started")
        workload = self._workload(architecture)
        match kind:
            case "curves":
                pictures, name = curves_section(self._report).pictures, slug("curves", workload)
            case "rungs":
                pictures, name = search_section(self._report).pictures, slug("rungs", workload)
            case "params":
                pictures = params_section(self._report).pictures
                name = slug("importance", workload) if param is None else slug("slice", workload, param)
            case "pareto":
                pictures = [pareto_picture(self._report, workload)]
                name = pictures[0].name
            case _:
                raise ResultsError(unknown("figure", kind, ("curves", "rungs", "params", "pareto")))
        names = [picture.name for picture in pictures]
        if kind == "params" and param is None and name not in names:
            name = next((other for other in names if other.startswith(f"{slug('slice', workload)}-")), name)
        for picture in pictures:
            if picture.name == name:
                return picture.figure
        valid = ", ".join(names) or "none"
        raise ResultsError(f"{self.search.address}: the report has no figure {name}; it has: {valid}")

    def _workload(self, architecture: str | None) -> str:
        trials = self._report.trials
        if architecture is None:
            return str(trials["workload"].iloc[0])
        own = trials.loc[trials["architecture"] == architecture, "workload"]
        if own.empty:
            raise ResultsError(unknown("architecture", architecture, dict.fromkeys(trials["architecture"])))
        return str(own.iloc[0])


def _in_notebooks(search: Callable[_P, SearchResult], job_of: Callable[_P, JobSpec]) -> Callable[_P, Result]:
    """Returns the search with a live table in notebooks, unless the caller watches it, and with its results' tables."""

    @wraps(search)
    def shown(*args: _P.args, **options: _P.kwargs) -> Result:
        from rich.console import Console

        console, given = Console(), cast("dict[str, Any]", {"write_page": write_page, **options})
        is_watched = any(given.get(name) is not None for name in _WATCHING)
        search_with = cast("Callable[..., SearchResult]", search)
        if not console.is_jupyter or is_watched:
            return _with_tables(search_with(*args, **given))
        from tune_jobs.cli.progress import Progress

        with Progress(job_of(*args, **options), console) as progress:
            given |= {name: getattr(progress, name) for name in _WATCHING}
            return _with_tables(search_with(*args, **given))

    return shown


def _with_tables(result: SearchResult) -> Result:
    return Result(**{field.name: getattr(result, field.name) for field in fields(result)})


def _job_to_run(
    job: JobSpec | str | Mapping[str, Any],
    *args: Any,
    task: Callable[..., Any] | None = None,
    train: Callable[..., Any] | None = None,
    **options: Any,
) -> JobSpec:
    return searches.resolved(job, task, train)[0]


def _job_to_resume(folder: str | Path | SearchFolder, sets: Sequence[str] = (), **options: Any) -> JobSpec:
    search = folder if isinstance(folder, SearchFolder) else SearchFolder(folder)
    with search.open(read_only=True) as ledger:
        return extended(ledger, sets)[1]


run = _in_notebooks(searches.run, _job_to_run)
resume = _in_notebooks(searches.resume, _job_to_resume)
