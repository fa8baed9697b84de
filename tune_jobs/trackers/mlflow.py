"""MLflow: an experiment for each name of a job, a parent run for each search, and below it a run for each trial.

Runs are tagged with the ids of search and trial, and with the state up to which they are complete: MLflow itself knows
how far it is. Where a process was cut off between reports and state, the run's own history says which are there.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from tune_jobs.trackers.rows import (
    SearchRow,
    TrialRow,
    compared_measures,
    decision_text,
    epochs_in,
    is_notable,
    measures,
)

_SEARCH, _TRIAL, _STATE = "tune_jobs.search", "tune_jobs.trial", "tune_jobs.state"
_STATUS = {"completed": "FINISHED", "pruned": "FINISHED", "diverged": "FINISHED", "failed": "FAILED"}
_STATUS |= {"interrupted": "KILLED", "running": "RUNNING", "finished": "FINISHED", "stopped": "KILLED"}
_MOST_METRICS, _MOST_PARAMS, _LONGEST = 1000, 100, 5000  # of a request; of a value


class Mlflow:
    """Runs on an MLflow server, or in a store that MLflow's client opens by itself.

    Args:
        uri: MLflow's tracking URI.
    """

    def __init__(self, uri: str) -> None:
        # Its own retries would hold up whoever waits for minutes: the next pass is the retry.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment: str | None = None
        self._runs: dict[str, str] | None = None  # MLflow's id by ours, "" is the search
        self._states: dict[str, str] = {}
        self._unsure: set[str] = set()  # trials with more reports there than their state tells, perhaps

    def states(self, search: SearchRow) -> Mapping[str, str]:
        """Returns the states that runs are tagged with; asks the server once."""
        if self._runs is None:
            runs: dict[str, str] = {}
            states: dict[str, str] = {}
            unsure = set()
            for run in self._tagged(search):
                name = run.data.tags.get(_TRIAL, "")
                runs.setdefault(name, run.info.run_id)
                states.setdefault(name, run.data.tags.get(_STATE, ""))
                unsure.add(name)
            self._runs, self._states, self._unsure = runs, states, unsure
        return self._states

    def num_written(self, search: SearchRow, trial: TrialRow) -> int:
        """Returns the number of reports that the run's state tells of."""
        return epochs_in(self._states.get(trial.id))

    def write(
        self, search: SearchRow, trial: TrialRow, reports: Sequence[Mapping[str, Any]], state: str
    ) -> None:
        """Adds metrics, and what was decided at rungs and at the end as tags."""
        run = self._run(search, trial.id, trial.row["started_at"], trial.id)
        metrics = [metric for report in reports for metric in _metrics(report)]
        if trial.id in self._unsure:
            there = {(name, step) for name in {m.key for m in metrics} for step in self._steps(run, name)}
            metrics = [metric for metric in metrics if (metric.key, metric.step) not in there]
        self._unsure.add(trial.id)  # a request that fails may have had its effect
        self._log_params(run, trial.params)
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(run, metrics=metrics[start : start + _MOST_METRICS])
        decisions = {
            f"decision.epoch_{report['epoch']:04d}": decision_text(report)
            for report in reports
            if is_notable(report)
        }
        self._end(
            run,
            trial.id,
            trial.status,
            trial.row["finished_at"],
            {**decisions, **trial.ending, _STATE: state},
        )
        self._unsure.discard(trial.id)

    def write_search(self, search: SearchRow, state: str, page: Path | None) -> None:
        """Writes the settings of the search, its facts, and its report as an artifact."""
        run = self._run(search, "", search.started_at, search.name)
        # Parameters of MLflow never change, but a search can be extended: tags can.
        tags = {f"job.{path}": value for path, value in search.settings.items()}
        tags |= {**search.facts, **{f"trials.{status}": str(n) for status, n in search.counts.items()}}
        if page is not None:
            self._client.log_artifact(run, str(page))
        self._end(run, "", search.status, search.ended_at, {**tags, "status": search.status, _STATE: state})

    def close(self) -> None:
        """Forgets what the server said, so that the next call asks it again."""
        self._runs = self._experiment = None

    def _tagged(self, search: SearchRow) -> Iterator[Run]:
        """Yields the runs of the search, oldest first."""
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_of(search)],
                f"tags.`{_SEARCH}` = '{search.id}'",
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _experiment_of(self, search: SearchRow) -> str:
        if self._experiment is None:
            known = self._client.get_experiment_by_name(search.name)
            if known is None:
                try:
                    self._experiment = self._client.create_experiment(search.name)
                except MlflowException:  # another process was faster
                    known = self._client.get_experiment_by_name(search.name)
                    if known is None:
                        raise
            if known is not None:
                self._experiment = known.experiment_id
        assert self._experiment is not None
        return self._experiment

    def _run(self, search: SearchRow, name: str, started_at: datetime, shown: str) -> str:
        """Returns MLflow's id of a run of ours, which is made if there is none."""
        assert self._runs is not None, "states are read first"
        if name not in self._runs:
            tags = {_SEARCH: search.id}
            if name:
                tags |= {_TRIAL: name, "mlflow.parentRunId": self._runs[""]}
            experiment, start = self._experiment_of(search), _milliseconds(started_at)
            run = self._client.create_run(experiment, start_time=start, tags=tags, run_name=shown)
            self._runs[name] = run.info.run_id
        return self._runs[name]

    def _steps(self, run: str, metric: str) -> set[int]:
        return {point.step for point in self._client.get_metric_history(run, metric)}

    def _log_params(self, run: str, params: Mapping[str, Any]) -> None:
        items = [
            Param(_name(name), str(value)[:_LONGEST])
            for name, value in params.items()
            if name != "max_epochs"
        ]
        for start in range(0, len(items), _MOST_PARAMS):
            self._client.log_batch(run, params=items[start : start + _MOST_PARAMS])

    def _end(
        self, run: str, name: str, status: str, ended_at: datetime | None, tags: Mapping[str, str]
    ) -> None:
        """Sets the status of a run, then its tags, of which the state is the last."""
        if _STATUS[status] == "RUNNING":
            self._client.update_run(run, status="RUNNING")
        else:
            self._client.set_terminated(
                run, _STATUS[status], None if ended_at is None else _milliseconds(ended_at)
            )
        items = [RunTag(_name(key), value[:_LONGEST]) for key, value in tags.items()]
        for start in range(0, len(items), _MOST_PARAMS):
            self._client.log_batch(run, tags=items[start : start + _MOST_PARAMS])
        self._states[name] = tags[_STATE]


def _metrics(report: Mapping[str, Any]) -> Iterator[Metric]:
    moment = _milliseconds(report["reported_at"])
    for name, value in measures(report).items():
        yield Metric(_name(name), value, moment, report["epoch"])
    for name, value in compared_measures(report).items():
        yield Metric(_name(name), value, moment, int(report["gradient_evaluations"]))


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _name(name: str) -> str:
    """Returns a name with only what MLflow allows in names."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "_-./ ") else "_" for char in name)
