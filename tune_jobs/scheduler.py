"""Which trials go on: Ray's ASHAScheduler, with rungs per study and every decision recorded when it is taken."""

from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tune_jobs.recorder import Recorder
from tune_jobs.searcher import METRIC, JobSearch

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial


class JobASHA(ASHAScheduler):
    """ASHA over all studies of a job; each has rungs of its own (`tune_jobs.asha`, the same rule).

    It alone ends trials, at full fidelity too, so that every report passes through it once.

    Args:
        recorder: Judges and records reports.
        search: Is told each epoch's metric, which Ray would leave out for the report that stops a trial.
    """

    def __init__(self, recorder: Recorder, search: JobSearch) -> None:
        rule = next(iter(recorder.rungs.values())).rule
        super().__init__(
            time_attr="epoch",
            metric=METRIC,
            mode="max",
            max_t=rule.max_epochs,
            grace_period=rule.grace_epochs,
            reduction_factor=rule.reduction_factor,
        )
        self._recorder, self._search = recorder, search

    def on_trial_result(
        self, tune_controller: "TuneController", trial: "Trial", result: dict[str, Any]
    ) -> str:
        """Records the report and returns whether its trial goes on."""
        decision = self._recorder.report(trial.trial_id, result)
        self._search.on_report(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if decision.action == "continue" else TrialScheduler.STOP)

    def on_trial_complete(
        self, tune_controller: "TuneController", trial: "Trial", result: dict[str, Any]
    ) -> None:
        """Does nothing: the last report was recorded by `on_trial_result`."""

    def on_trial_error(self, tune_controller: "TuneController", trial: "Trial") -> None:
        """Records a trial whose function raised or whose worker died."""
        self._recorder.fail(trial.trial_id, str(trial.get_error() or "the worker died"))

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles the scheduler into a snapshot that nothing here reads."""
        return {}
