"""Decides which trials continue: Ray's ASHAScheduler, with rungs per study and every decision recorded."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tune_jobs.cluster.watch import dead_process, has_lost_node
from tune_jobs.ledger.rows import OWN_METRICS
from tune_jobs.search.recorder import Recorder
from tune_jobs.search.room import Room
from tune_jobs.search.searcher import JobSearch, ray_name
from tune_jobs.search.worker import OWN_TRACEBACK

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

_LOOK_EVERY_S = 1.0
_LONG_TURN_S = 5.0  # of Ray's loop, whose turns take a tenth of a second


class JobASHA(ASHAScheduler):
    """ASHA over all studies of a job; each has its own rungs (the rule is in `tune_jobs.stopping.asha`).

    Only the scheduler ends trials, at full fidelity too, so every report passes through it exactly once.

    Args:
        search: Is told each epoch's metric, which Ray would leave out for the report that stops a trial.
    """

    def __init__(self, recorder: Recorder, search: JobSearch, room: Room | None = None) -> None:
        rule = next(iter(recorder.rungs.values())).rule
        super().__init__(
            time_attr="epoch",
            metric=ray_name(rule.metric.name),
            mode=rule.metric.mode,
            max_t=rule.max_epochs,
            grace_period=rule.grace_epochs,
            reduction_factor=rule.reduction_factor,
        )
        self._recorder, self._search, self._room = recorder, search, room
        self._heard_s: dict[str, float] = {}  # when each running trial was last heard of
        self._killed: dict[str, str] = {}
        self._looked_s = 0.0

    def on_trial_result(
        self, tune_controller: "TuneController", trial: "Trial", result: dict[str, Any]
    ) -> str:
        """Records the report and returns whether its trial continues."""
        self._heard_s[trial.trial_id] = time.monotonic()
        row = _nested(result)
        decision = self._recorder.report(trial.trial_id, row)
        if decision is not None:
            self._search.on_report(trial.trial_id, row)
        continues = (
            decision is None or decision.action == "continue"
        ) and not self._recorder.wind_down.has_begun
        return str(TrialScheduler.CONTINUE if continues else TrialScheduler.STOP)

    def on_trial_complete(
        self, tune_controller: "TuneController", trial: "Trial", result: dict[str, Any]
    ) -> None:
        """Does nothing: the last report was recorded by `on_trial_result`."""
        self._heard_s.pop(trial.trial_id, None)
        self._recorder.training.discard(trial.trial_id)

    def on_trial_error(self, tune_controller: "TuneController", trial: "Trial") -> None:
        """Records that a trial raised or its worker died; it may be tried again."""
        self._heard_s.pop(trial.trial_id, None)
        self._recorder.training.discard(trial.trial_id)
        if dead_process() is not None:  # Ray itself broke, which is no fault of the trial's
            return
        text = self._killed.pop(trial.trial_id, None) or _error_of(trial)
        if has_lost_node(text):
            self._recorder.move(trial.trial_id, _own_part(text))
        else:
            self._recorder.fail(trial.trial_id, _own_part(text))

    def choose_trial_to_run(self, tune_controller: "TuneController") -> "Trial | None":
        """Returns the trial to start next.

        Ray calls this at every turn of its loop, so it is also where hung workers are killed and room is looked for.
        """
        now = time.monotonic()
        if now - self._looked_s >= _LOOK_EVERY_S:
            if (away_s := now - self._looked_s) > _LONG_TURN_S:  # stopped with Ctrl-Z, or waiting for a disk
                # What trials reported meanwhile has not been heard yet.
                self._heard_s = {trial: heard_s + away_s for trial, heard_s in self._heard_s.items()}
            self._looked_s = now
            self._kill_hung(tune_controller, now)
            if self._recorder.wind_down.is_time_to_kill:
                self._kill_all(tune_controller)
            if self._room is not None:
                self._room.grow()
        chosen: Trial | None = super().choose_trial_to_run(tune_controller)
        return chosen

    def _kill_hung(self, tune_controller: "TuneController", now: float) -> None:
        limit_s = self._recorder.job.failures.report_timeout_s
        for trial in tune_controller.get_live_trials():  # type: ignore[no-untyped-call]
            actor = trial.temporary_state.ray_actor
            if trial.status != trial.RUNNING or actor is None or trial.trial_id in self._killed:
                continue
            silent_s = now - self._heard_s.setdefault(trial.trial_id, now)
            if silent_s > limit_s:
                text = f"no report for {silent_s:.0f} s (failures.report_timeout_s is {limit_s:g})"
                self._killed[trial.trial_id] = f"{text}; its worker was killed"
                ray.kill(actor)

    def _kill_all(self, tune_controller: "TuneController") -> None:
        """Kills workers whose epoch has not ended; Ray would wait for each to answer, and a hung one never does."""
        for trial in tune_controller.get_live_trials():  # type: ignore[no-untyped-call]
            actor = trial.temporary_state.ray_actor
            if actor is not None and trial.trial_id not in self._killed:
                self._killed[trial.trial_id] = "the search was stopped"
                ray.kill(actor)

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing: Ray pickles the scheduler into a snapshot that we never read."""
        return {}


def _nested(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an epoch's row as the worker reported it: Ray has joined the names of the nested values."""
    prefix = f"{OWN_METRICS}/"
    own = {name.removeprefix(prefix): value for name, value in result.items() if name.startswith(prefix)}
    return {**result, OWN_METRICS: own}


def _error_of(trial: "Trial") -> str:
    """Returns the text of a trial's error; Ray's own `get_error` looks in storage, where it is not yet."""
    file = trial.error_file
    if file is None or not Path(file).exists():
        return "the worker died"
    heading, _, text = Path(file).read_text(errors="replace").partition("\n")
    return text.strip() or heading


def _own_part(error: str) -> str:
    """Returns the traceback of the user's own files, without Ray's around it, if an error's text has one."""
    return error.rpartition(OWN_TRACEBACK)[2].strip() or error
