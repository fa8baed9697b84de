"""Suggests configurations: an Optuna study for each study of the job, behind one searcher for Ray."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from tune_jobs.job.finalists import finalist_of
from tune_jobs.job.space import Distribution, Value, suggest, to_optuna
from tune_jobs.job.spec import JobSpec, Study
from tune_jobs.ledger.rows import OWN_METRICS
from tune_jobs.search.recorder import Recorder
from tune_jobs.search.samplers import sampler_of
from tune_jobs.search.trial import LiveTrial, id_of
from zsharp.training.epoch_row import MEASURES

SAMPLER, FIRST_POINT = "sampler", "first_point"
"""Where a trial's point is from, if not from an earlier search."""
_STATES = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


class StudySearch:
    """One study as Optuna sees it. Tells Optuna how each trial really ended, those of earlier sessions included.

    Ray's own OptunaSearch calls stopped trials complete, with whatever value they had, leaves diverged ones running for
    ever, and reports no value for the epoch at which a trial was stopped.
    """

    def __init__(
        self,
        job: JobSpec,
        study: Study,
        past: Sequence[LiveTrial] = (),
        storage: optuna.storages.BaseStorage | None = None,
        warm: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._job, self._study = job, study
        self._points = [(point["params"], point["origin"]) for point in warm]
        known = [point for point, _ in self._points]
        self._points += [(point, FIRST_POINT) for point in first_points(job, study) if point not in known]
        self._distributions = {name: to_optuna(job.space[name]) for name in study.parameters}
        self._open: dict[str, optuna.Trial] = {}
        self.num_suggested = len(past)
        self.optuna_study = optuna.create_study(
            study_name=f"{job.name}/{study.name}",
            storage=storage,
            direction="minimize" if job.mode == "min" else "maximize",
        )
        for trial in past:
            self._add_past(trial)

    def _add_past(self, past: LiveTrial) -> None:
        study = self.optuna_study
        params = {name: past.params[name] for name in self._study.parameters if name in past.params}
        first = 1 if past.fork is None else past.fork.epoch + 1
        values = {i: value for i, value in enumerate(past.values, first) if value is not None}
        if past.status in (None, "interrupted"):
            study.enqueue_trial(params)
            trial = self._open[past.trial_id] = self._ask()
            for step, value in values.items():
                trial.report(value, step)
            return
        state = _STATES.get(past.status, TrialState.FAIL)
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=None if state is TrialState.FAIL else past.value,
                params=params,
                distributions={name: self._distributions[name] for name in params},
                intermediate_values=values,
            )
        )

    def suggest_next(self) -> tuple[optuna.Trial, str]:
        """Returns the study's next trial and where its point is from; `begin` takes the trial once it has an id."""
        study, number = self.optuna_study, self.num_suggested
        study.sampler = sampler_of(self._job, self._study, number)
        self.num_suggested += 1
        if number >= len(self._points):
            return self._ask(), SAMPLER
        point, origin = self._points[number]
        study.enqueue_trial(point)
        return self._ask(), origin

    def _ask(self) -> optuna.Trial:
        """Returns a trial with a suggestion for each of its parameters; conditions decide which it has."""
        trial: optuna.Trial = self.optuna_study.ask()

        def value_of(name: str, distribution: Distribution) -> Value:
            return suggest(trial, name, distribution)

        self._job.draw(self._study, value_of)
        return trial

    def begin(self, trial_id: str, suggested: optuna.Trial) -> None:
        """Gives a suggested trial its own id."""
        self._open[trial_id] = suggested

    def report(self, trial_id: str, epoch: int, value: float | None) -> None:
        """Passes on one epoch's metric."""
        if value is not None and math.isfinite(value):
            self._open[trial_id].report(value, epoch)

    def end_trial(self, trial_id: str, status: str, value: float | None) -> None:
        """Tells Optuna how a trial ended: complete, pruned, or failed for every other status."""
        state = _STATES.get(status, TrialState.FAIL)
        told = value if state is TrialState.COMPLETE else None
        self.optuna_study.tell(self._open.pop(trial_id), told, state=state)


class JobSearch(Searcher):
    """Hands out the trials of all studies of a job: unfinished ones first, then those of the study with the fewest.

    A trunk is handed out when the first trial needs it, and trials are held back until it is complete. Trials
    of finalists are handed out as soon as it is certain that they are, once all others have been.

    Optuna keeps its studies in `storage`, which must be empty; in memory if it is not given.

    One searcher for the whole job keeps every slot busy to the end. Each suggestion is in the ledger before Ray
    sees it.
    """

    def __init__(
        self, job: JobSpec, recorder: Recorder, storage: optuna.storages.BaseStorage | None = None
    ) -> None:
        super().__init__(metric=ray_name(job.metric), mode=job.mode)
        self._job, self._recorder = job, recorder
        self._studies = {study.name: study for study in job.studies()}
        past = list(recorder.trials.values())
        warm = recorder.ledger.provenance.get("warm_start", {})
        self._searches = {
            name: StudySearch(
                job, study, [trial for trial in past if trial.study == name], storage, warm.get(name, ())
            )
            for name, study in self._studies.items()
        }

    def suggest(self, trial_id: str) -> Any:
        """Returns the configuration of the job's next trial, None if Ray should ask again later, or `FINISHED`."""
        recorder = self._recorder
        if recorder.wind_down.has_begun:
            return Searcher.FINISHED
        if recorder.waiting:
            return _config(recorder.continue_trial(trial_id))
        self._fail_without_trunk(trial_id)
        for name in self._by_need():
            trunk = self._trunk_of_next(name)
            state = None if trunk is None else recorder.trials.get(id_of(*trunk))
            if trunk is None or (state is not None and state.status == "completed"):
                return _config(self._start(trial_id, name))
            if state is None:
                return _config(recorder.start_trial(trial_id, *trunk, {}))
        if self._by_need():
            # Trunks train that all of these wait for: those of later seeds will be needed too.
            coming = next(self._later_trunks(), None)
            return None if coming is None else _config(recorder.start_trial(trial_id, *coming, {}))
        for study, number in recorder.finalists_to_start():
            trunk = self._job.trunk_of(study, number)
            state = None if trunk is None else recorder.trials.get(id_of(*trunk))
            if trunk is None or (state is not None and state.status == "completed"):
                return _config(self._start_finalist(trial_id, study, number))
            if state is None:
                return _config(recorder.start_trial(trial_id, *trunk, {}))
        # Trials that run may still fail and be tried again, so there may be more to hand out.
        is_over = all(trial.status is not None for trial in recorder.trials.values())
        return Searcher.FINISHED if is_over else None

    def _by_need(self) -> list[str]:
        """Returns the studies that lack trials, those with the fewest first; of equals, in the job's order."""
        most = self._job.search.num_trials
        lacking = [name for name, search in self._searches.items() if search.num_suggested < most]
        return sorted(lacking, key=lambda name: self._searches[name].num_suggested)

    def _start(self, trial_id: str, name: str) -> LiveTrial:
        search = self._searches[name]
        number = search.num_suggested
        suggested, origin = search.suggest_next()
        trial = self._recorder.start_trial(trial_id, self._studies[name], number, suggested.params, origin)
        search.begin(trial.trial_id, suggested)
        return trial

    def _start_finalist(self, trial_id: str, study: Study, number: int) -> LiveTrial:
        first = self._recorder.trials[str(finalist_of(study.name, number))]
        searched = {name: first.params[name] for name in study.parameters if name in first.params}
        return self._recorder.start_trial(trial_id, study, number, searched)

    def _trunk_of_next(self, name: str) -> tuple[Study, int] | None:
        return self._job.trunk_of(self._studies[name], self._searches[name].num_suggested)

    def _fail_without_trunk(self, trial_id: str) -> None:
        """Records trials as failed whose trunk is; Ray, which asks for a trial of that id, is not told of them."""

        def is_lost(trunk: tuple[Study, int] | None) -> bool:
            state = None if trunk is None else self._recorder.trials.get(id_of(*trunk))
            return state is not None and state.status in ("failed", "diverged")

        def next_lost() -> str | None:
            return next((name for name in self._by_need() if is_lost(self._trunk_of_next(name))), None)

        while (name := next_lost()) is not None:
            self._start(trial_id, name)
            self._recorder.fail_without_trunk(trial_id)
            self.on_trial_complete(trial_id, error=True)
        if self._job.init.trunk is not None:
            for study, number in self._recorder.finalists_to_start():
                if is_lost(self._job.trunk_of(study, number)):
                    self._start_finalist(trial_id, study, number)
                    self._recorder.fail_without_trunk(trial_id)

    def _later_trunks(self) -> Iterator[tuple[Study, int]]:
        for seed in range(self._job.search.seeds):
            for trunk in self._job.trunks():
                if id_of(trunk, seed) not in self._recorder.trials:
                    yield trunk, seed

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Does nothing: the scheduler has called `on_report`, also for the report that stopped the trial."""

    def on_report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Passes one epoch's metric on to its study."""
        trial = self._recorder.find(trial_id)
        if trial.is_searched:
            self._searches[trial.study].report(trial.trial_id, result["epoch"], trial.metric.of(result))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the trial's study how it ended, according to the ledger; one that continues later has not ended."""
        trial = self._recorder.find(trial_id)
        if trial.status not in (None, "interrupted") and trial.is_searched:
            self._searches[trial.study].end_trial(trial.trial_id, trial.status, trial.value)

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing: the ledger is the state."""

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing: Ray pickles the searcher into a snapshot that we never read."""
        return {}


def ray_name(metric: str) -> str:
    """Returns what Ray, which joins the names of nested values, calls a metric of an epoch's row."""
    return metric if metric in MEASURES else f"{OWN_METRICS}/{metric}"


def first_points(job: JobSpec, study: Study) -> list[dict[str, Value]]:
    """Returns the job's first points, reduced to the parameters of a study, without repeats."""
    points: list[dict[str, Value]] = []
    for point in job.search.first_points:
        own = {name: value for name, value in point.items() if name in study.parameters}
        if own and own not in points:
            points.append(own)
    return points


def _config(trial: LiveTrial) -> dict[str, Any]:
    """Returns what a worker is told: which trial to train, and how many of its epochs are in the ledger."""
    return {
        "trial_id": trial.trial_id,
        "study": trial.study,
        "number": trial.number,
        "params": dict(trial.params),
        "epoch": trial.epoch,
    }
