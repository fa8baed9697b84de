"""What the trials of a job try: Ray's OptunaSearch, one per study, behind one searcher for the job."""

import math
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tune_jobs.recorder import Recorder
from tune_jobs.sampling import make_sampler
from tune_jobs.space import to_optuna
from tune_jobs.spec import JobSpec, Study

METRIC = "val_accuracy"
_STATES = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


class StudySearch(OptunaSearch):
    """OptunaSearch for one study, which tells Optuna the truth about how trials ended.

    Ray's own tells stopped trials as complete with whatever value they had, leaves diverged ones running for ever,
    and reports no intermediate value for the epoch a trial was stopped at.

    Args:
        job: The job.
        study: The study to search.
        storage: Where Optuna keeps the study; in memory if not given.
    """

    def __init__(
        self, job: JobSpec, study: Study, storage: optuna.storages.BaseStorage | None = None
    ) -> None:
        self._job, self._study = job, study
        self._number = 0
        super().__init__(
            space={name: to_optuna(job.space[name]) for name in study.parameters},
            metric=METRIC,
            mode="max",
            points_to_evaluate=first_points(job, study),
            sampler=optuna.samplers.RandomSampler(seed=0),  # replaced before each suggestion
            study_name=f"{job.name}/{study.name}",
            storage=storage,
        )
        if (
            not study.parameters
        ):  # a job may fix everything; Ray's class takes an empty space for a missing one
            self._setup_study("max")

    @property
    def optuna_study(self) -> optuna.Study:
        """The study as Optuna sees it."""
        study: optuna.Study = self._ot_study  # type: ignore[assignment]  # Ray's class sets it later
        return study

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Returns the searched parameters of the study's next trial."""
        search, study = self._job.search, self._study
        self.optuna_study.sampler = make_sampler(
            search.sampler, search.seed, study.name, self._number, search.num_trials
        )
        self._number += 1
        if not study.parameters:
            self._ot_trials[trial_id] = self.optuna_study.ask()
            return {}
        params: dict[str, Any] | None = super().suggest(trial_id)
        return params

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Passes on one epoch's metric."""
        value = result[METRIC]
        if value is not None and math.isfinite(value):
            self._ot_trials[trial_id].report(value, step=result["epoch"])

    def end_trial(self, trial_id: str, status: str, value: float | None) -> None:
        """Tells Optuna how a trial ended: complete, pruned, or failed for every other status."""
        state = _STATES.get(status, TrialState.FAIL)
        told = value if state is TrialState.COMPLETE else None
        self.optuna_study.tell(self._ot_trials[trial_id], told, state=state)


class JobSearch(Searcher):
    """Hands out the trials of all studies of a job, the study with the fewest trials first.

    One searcher for the whole job keeps every slot busy to its end. Each suggestion is in the ledger before Ray
    sees it.

    Args:
        job: The job.
        recorder: Where trials are recorded.
    """

    def __init__(self, job: JobSpec, recorder: Recorder) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._job, self._recorder = job, recorder
        self._searches = {study.name: StudySearch(job, study) for study in job.studies()}
        self._studies = {study.name: study for study in job.studies()}
        self._started = dict.fromkeys(self._studies, 0)
        self._study_of: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        """Returns the configuration of the job's next trial, or that there is none."""
        name = min(self._started, key=lambda study: self._started[study])
        number = self._started[name]
        if number >= self._job.search.num_trials:
            return Searcher.FINISHED
        searched = self._searches[name].suggest(trial_id)
        assert searched is not None
        spec = self._job.trial_spec(self._studies[name], searched)
        self._started[name] += 1
        self._study_of[trial_id] = name
        own_id = self._recorder.start_trial(trial_id, self._studies[name], number, spec)
        return {"trial_id": own_id, "study": name, "params": dict(spec.params)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Does nothing: `on_report` was called by the scheduler, for the stopping report too."""

    def on_report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Passes one epoch's metric on to its study."""
        self._searches[self._study_of[trial_id]].on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the trial's study how it ended, as the ledger has it."""
        ended = self._recorder.ended(trial_id)
        if ended is not None:
            self._searches[self._study_of.pop(trial_id)].end_trial(trial_id, *ended)

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing: the ledger is the state."""

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles the searcher into a snapshot that nothing here reads."""
        return {}


def first_points(job: JobSpec, study: Study) -> list[dict[str, float]]:
    """Returns the job's first points as far as they concern a study, each once."""
    points: list[dict[str, float]] = []
    for point in job.search.first_points:
        own = {name: value for name, value in point.items() if name in study.parameters}
        if own and own not in points:
            points.append(own)
    return points
