"""Between Ray's callbacks and the ledger: under whose id a report belongs, what was decided, how a trial ended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune_jobs.asha import Rule, Rungs
from tune_jobs.ledger import METRICS, Decision, Ledger
from tune_jobs.spec import JobSpec, Study
from zsharp.optim.methods import find_method
from zsharp.training.spec import DataSpec, TrialSpec

_STATUS = {"complete": "completed", "stop": "pruned", "diverge": "diverged"}


@dataclass
class LiveTrial:
    """A trial as the driver sees it.

    Attributes:
        trial_id: Its own stable id, `<study>-<number>`.
        study: Its study's name.
        params: Its configuration.
        epoch: Epochs reported.
        val_accuracy: The last one reported.
        status: How it ended; None while it runs.
    """

    trial_id: str
    study: str
    params: Mapping[str, float]
    epoch: int = 0
    val_accuracy: float | None = None
    status: str | None = None
    error: str | None = None


@dataclass
class Recorder:
    """Writes trials, reports and decisions to the ledger as they arrive; Ray's ids stay outside of it.

    Attributes:
        job: The job.
        ledger: Its ledger, open for writing.
        on_change: Called with a trial after it started, reported or ended.
        trials: All trials so far, by Ray's id, in the order started.
        rungs: The state of the stopping rule, by study.
    """

    job: JobSpec
    ledger: Ledger
    on_change: Callable[[LiveTrial], None] | None = None
    trials: dict[str, LiveTrial] = field(default_factory=dict)
    rungs: dict[str, Rungs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        asha = self.job.asha
        rule = Rule(self.job.train.epochs, self.job.grace_epochs, asha.reduction_factor, asha.enabled)
        self.rungs = {study.name: Rungs(rule) for study in self.job.studies()}

    def start_trial(self, ray_id: str, study: Study, number: int, spec: TrialSpec) -> str:
        """Records that a trial begins and returns its own id."""
        trial_id = f"{study.name}-{number:04d}"
        self.ledger.start_trial(
            trial_id,
            study=study.name,
            number=number,
            dataset=dataset_name(spec.data),
            architecture=spec.architecture,
            method=spec.method,
            variant=find_method(spec.method).variant,
            seed=spec.train.seed,
            params=spec.params,
            max_epochs=spec.train.epochs,
        )
        self.trials[ray_id] = LiveTrial(trial_id, study.name, dict(spec.params))
        self._tell(self.trials[ray_id])
        return trial_id

    def report(self, ray_id: str, row: Mapping[str, Any]) -> Decision:
        """Judges one epoch's row, records both, and ends the trial if that is the decision."""
        trial = self.trials[ray_id]
        value = None if row["diverged"] else row["val_accuracy"]
        decision = self.rungs[trial.study].judge(trial.trial_id, row["epoch"], value)
        metrics = {name: row.get(name) for name in METRICS}
        self.ledger.report(trial.trial_id, row["epoch"], metrics, decision)
        trial.epoch, trial.val_accuracy = row["epoch"], row["val_accuracy"]
        if decision.action in _STATUS:
            self._end(trial, _STATUS[decision.action], decision.reason)
        else:
            self._tell(trial)
        return decision

    def fail(self, ray_id: str, error: str) -> None:
        """Records that a trial raised or its worker died."""
        trial = self.trials[ray_id]
        if trial.status is None:
            self.rungs[trial.study].record_worst(trial.trial_id)
            self._end(trial, "failed", "raised", error)

    def interrupt(self) -> None:
        """Records that the trials still running were interrupted."""
        for trial in self.trials.values():
            if trial.status is None:
                self._end(trial, "interrupted", "the search was interrupted")

    def ended(self, ray_id: str) -> tuple[str, float | None] | None:
        """Returns status and last value of a trial that has ended, None for one that has not."""
        trial = self.trials[ray_id]
        return None if trial.status is None else (trial.status, trial.val_accuracy)

    def _end(self, trial: LiveTrial, status: str, reason: str, error: str | None = None) -> None:
        self.ledger.finish_trial(trial.trial_id, status, reason, error)
        trial.status, trial.error = status, error
        self._tell(trial)

    def _tell(self, trial: LiveTrial) -> None:
        if self.on_change is not None:
            self.on_change(trial)


def dataset_name(data: DataSpec) -> str:
    """What results call a data set; `parquet` says nothing, so a folder of images goes by its own name."""
    return Path(data.root).name if data.name == "parquet" and data.root is not None else data.name
