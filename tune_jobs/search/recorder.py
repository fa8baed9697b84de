"""Between Ray's callbacks and the ledger: under whose id a report belongs, what was decided, how a trial ended."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from tune_jobs.job.spec import JobSpec, Study
from tune_jobs.ledger.writer import METRICS, Decision, Ledger
from tune_jobs.search.budget import Spent, hours_before
from tune_jobs.search.checkpoints import Checkpoints
from tune_jobs.search.trial import LiveTrial
from tune_jobs.stopping.asha import Rule, Rungs
from tune_jobs.stopping.replay import rungs_at_end
from tune_jobs.wording import last_line
from zsharp.optim.methods import find_method
from zsharp.training.spec import DataSpec, TrialSpec

StopKind = Literal["signal", "budget", "error", "repack"]

_STATUS = {"complete": "completed", "stop": "pruned", "diverge": "diverged"}
# What an error's text says when trying again would fail again, and when no trial is to blame.
_OUT_OF_MEMORY = ("torch.OutOfMemoryError", "CUDA out of memory")
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "database or disk is full")


class Recorder:
    """Writes trials, reports and decisions to the ledger as they arrive; Ray's ids stay outside of it.

    Whatever the ledger holds already is taken up: unfinished trials wait to be handed out again.

    Args:
        job: The job.
        ledger: Its ledger, open for writing.
        on_change: Called with a trial after it started, reported or ended.
        gpus_per_trial: For the budget.
        place: The search folder's path or address; where the ledger's file is if not given.

    Attributes:
        trials: All trials so far, by their own ids, in the order started.
        waiting: Ids of trials that were begun and run on no worker.
        rungs: The state of the stopping rule, by study.
        spent: What the search has used.
        active: Ray's ids of trials that have reported and train on; others are still starting.
        stopping: Why the search winds down; None while it goes on.
        stop_kind: Whether a signal, the budget, an error that concerns all trials, or a GPU with too many trials is
            the reason; after the last the search goes on by itself, with fewer.
        stopped_s: When that began, on the monotonic clock.
    """

    def __init__(
        self,
        job: JobSpec,
        ledger: Ledger,
        on_change: Callable[[LiveTrial], None] | None = None,
        gpus_per_trial: float = 0.0,
        place: str | None = None,
    ) -> None:
        self.job, self.ledger, self.checkpoints = job, ledger, Checkpoints(place or ledger.file.parent)
        self.place = place or str(ledger.file.parent)
        self._on_change, self._gpus_per_trial = on_change, gpus_per_trial
        self.trials: dict[str, LiveTrial] = {}
        self.waiting: deque[str] = deque()
        self.spent = Spent()
        self.stopping: str | None = None
        self.stop_kind: StopKind | None = None
        self.stopped_s = 0.0
        self.active: set[str] = set()
        self._own_ids: dict[str, str] = {}
        self._moved_at: dict[str, int] = {}  # how many epochs a trial had when its node was lost
        self._train_s: dict[str, float] = {}
        rule = Rule.of_job(job.model_dump())
        self.rungs = {study.name: Rungs(rule) for study in job.studies()}
        self._take_up(rule)
        self._started_s = time.monotonic()
        self._hours_before = self.spent.hours

    def _take_up(self, rule: Rule) -> None:
        rows, reports = self.ledger.trials(), self.ledger.reports()
        for row in rows:
            trial = LiveTrial(row["trial_id"], row["study"], row["params"], row["number"])
            trial.status, trial.error, trial.retries = row["status"], row["error"], row["retries"]
            self.trials[trial.trial_id] = trial
        for report in reports:
            self._count(self.trials[report["trial_id"]], report)
        self.rungs |= rungs_at_end(rule, rows, reports)
        self.spent.hours = hours_before(self.ledger.events(), reports)
        for trial in self.trials.values():
            if trial.status == "completed":
                self.spent.best_accuracy = max(self.spent.best_accuracy, trial.val_accuracy or 0.0)
            if trial.status in (None, "interrupted"):
                self.waiting.append(trial.trial_id)

    def start_trial(self, ray_id: str, study: Study, number: int, spec: TrialSpec) -> LiveTrial:
        """Records that a trial begins."""
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
        trial = self.trials[trial_id] = LiveTrial(trial_id, study.name, dict(spec.params), number)
        self._own_ids[ray_id] = trial_id
        self._tell(trial)
        return trial

    def continue_trial(self, ray_id: str) -> LiveTrial:
        """Takes the trial that waits longest, for another worker to continue from its checkpoint."""
        trial = self.trials[self.waiting.popleft()]
        if trial.status == "interrupted":
            self.ledger.reopen_trial(trial.trial_id)
            trial.status = None
        self._own_ids[ray_id] = trial.trial_id
        self._tell(trial)
        return trial

    def find(self, ray_id: str) -> LiveTrial:
        """Returns the trial that Ray calls `ray_id`."""
        return self.trials[self._own_ids[ray_id]]

    def report(self, ray_id: str, row: Mapping[str, Any]) -> Decision | None:
        """Judges one epoch's row, records both, and ends the trial if that is the decision.

        Returns:
            The decision; None for an epoch that was recorded before its worker had to start again.
        """
        trial = self.find(ray_id)
        self.active.add(ray_id)
        if row["epoch"] <= trial.epoch:
            return None
        value = None if row["diverged"] else row["val_accuracy"]
        decision = self.rungs[trial.study].judge(trial.trial_id, row["epoch"], value)
        metrics = {name: row.get(name) for name in METRICS}
        status = _STATUS.get(decision.action)
        self.ledger.report(trial.trial_id, row["epoch"], metrics, decision, status)
        self._count(trial, row)
        if status is None:
            self._tell(trial)
        else:
            self._ended(trial, status)
        self.check_budget()
        return decision

    def fail(self, ray_id: str, error: str) -> None:
        """Records that a trial raised, died or hung: it waits for another try, or has failed."""
        trial = self.find(ray_id)
        if trial.status is not None or self.stopping:
            return
        if self.stop_if_disk_full(error):
            return
        is_final = any(text in error for text in _OUT_OF_MEMORY)
        if is_final and self.job.resources.gpus_per_trial == "auto" and 0 < self._gpus_per_trial < 1:
            self.stop("out of GPU memory: fewer trials share a GPU from here on", "repack")
            return
        if is_final or trial.retries >= self.job.failures.max_retries:
            self.rungs[trial.study].record_worst(trial.trial_id)
            reason = "out of GPU memory" if is_final else f"failed {_times(trial.retries + 1)}"
            self.ledger.finish_trial(trial.trial_id, "failed", reason, error)
            trial.error = error
            self._ended(trial, "failed")
            return
        self.ledger.retry_trial(trial.trial_id, error)
        trial.retries += 1
        self.waiting.appendleft(trial.trial_id)

    def move(self, ray_id: str, error: str) -> None:
        """Records that a trial's node was lost: it goes on elsewhere, and this is not counted as a retry.

        It is counted if the trial lost a node before and trained no epoch since: it may be what kills them.
        """
        trial = self.find(ray_id)
        if self._moved_at.get(trial.trial_id) == trial.epoch:
            self.fail(ray_id, error)
        elif trial.status is None and not self.stopping:
            self._moved_at[trial.trial_id] = trial.epoch
            self.ledger.record_event("move", {"trial_id": trial.trial_id, "error": error})
            self.waiting.appendleft(trial.trial_id)

    def stop(self, reason: str, kind: StopKind) -> None:
        """Winds the search down: no trial is begun or continued any more."""
        if self.stopping is None or kind == "signal":
            self.stopping, self.stop_kind, self.stopped_s = reason, kind, time.monotonic()

    def stop_if_disk_full(self, error: str) -> bool:
        """Stops the search if an error says that nothing can be written, whichever trial met it first."""
        is_full = any(text in error for text in _DISK_FULL)
        if is_full:
            self.stop(f"the disk is full: {last_line(error) or 'unknown'}", "error")
        return is_full

    def begin_again(self, gpus_per_trial: float) -> None:
        """Goes on after a stop: all trials that have not ended wait to be continued.

        Args:
            gpus_per_trial: What each takes from here on.
        """
        self.stopping = self.stop_kind = None
        self.active.clear()
        self._gpus_per_trial = gpus_per_trial
        self.waiting = deque(
            trial.trial_id for trial in self.trials.values() if trial.status in (None, "interrupted")
        )

    def check_budget(self) -> None:
        """Stops the search if its budget is used up."""
        self.spent.hours = self._hours_before + (time.monotonic() - self._started_s) / 3600
        if reason := self.spent.exhausts(self.job.budget):
            self.stop(reason, "budget")

    def interrupt(self) -> None:
        """Records that the trials still running were interrupted."""
        for trial in self.trials.values():
            if trial.status is None:
                reason = self.stopping or "the search was interrupted"
                self.ledger.finish_trial(trial.trial_id, "interrupted", reason)
                trial.status = "interrupted"
                self._tell(trial)

    @property
    def was_cut_off(self) -> bool:
        """Whether the last session was killed: what it left beside the ledger may be behind it."""
        sessions = [event["kind"] for event in self.ledger.events() if event["kind"] in ("start", "stop")]
        return sessions[-1:] == ["start"]

    @property
    def is_over(self) -> bool:
        """Whether every trial of the job has ended."""
        ended = sum(trial.status not in (None, "interrupted") for trial in self.trials.values())
        return ended >= self.job.num_trials

    def clean_checkpoints(self) -> None:
        """Deletes checkpoints that are not needed, and damaged ones, whose trials train their epochs again."""
        self.checkpoints.keep_only(self.kept_checkpoints())
        for trial_id in self.waiting:
            if problem := self.checkpoints.drop_damaged(trial_id):
                self.ledger.record_event("checkpoint", {"trial_id": trial_id, "problem": problem})

    def kept_checkpoints(self) -> set[str]:
        """Returns the trials whose checkpoints stay: unfinished ones, and the best few of each study."""
        kept = {trial.trial_id for trial in self.trials.values() if trial.status in (None, "interrupted")}
        for study in self.rungs:
            ranked = sorted(self._completed(study), key=lambda trial: trial.merit, reverse=True)
            kept.update(trial.trial_id for trial in ranked[: self.job.search.keep_checkpoints])
        return kept

    def _completed(self, study: str) -> list[LiveTrial]:
        return [
            trial for trial in self.trials.values() if trial.study == study and trial.status == "completed"
        ]

    def _count(self, trial: LiveTrial, row: Mapping[str, Any]) -> None:
        """Takes in a report that is in the ledger."""
        trial.epoch, trial.val_accuracy, trial.val_loss = (
            row["epoch"],
            row["val_accuracy"],
            row.get("val_loss"),
        )
        value = row["val_accuracy"]
        trial.values.append(value if value is not None and math.isfinite(value) else None)
        self.spent.epochs += 1
        evaluations, epochs = row.get("gradient_evaluations"), row["epoch"]
        if evaluations is not None:  # a total of the trial, which grows by the same number every epoch
            self.spent.gradient_evaluations += evaluations // epochs
        train_s = row.get("train_s") or 0.0
        seconds = max(0.0, train_s - self._train_s.get(trial.trial_id, 0.0))
        self._train_s[trial.trial_id] = train_s
        self.spent.gpu_hours += seconds * self._gpus_per_trial / 3600

    def _ended(self, trial: LiveTrial, status: str) -> None:
        """A trial's end is in the ledger: its checkpoint goes, unless it is one of its study's best."""
        trial.status = status
        if status == "completed":
            self.spent.best_accuracy = max(self.spent.best_accuracy, trial.val_accuracy or 0.0)
            ranked = sorted(self._completed(trial.study), key=lambda one: one.merit, reverse=True)
            for other in ranked[self.job.search.keep_checkpoints :]:
                self.checkpoints.drop(other.trial_id)
        else:
            self.checkpoints.drop(trial.trial_id)
        self.ledger.store_copy()
        self._tell(trial)

    def _tell(self, trial: LiveTrial) -> None:
        if self._on_change is not None:
            self._on_change(trial)


def dataset_name(data: DataSpec) -> str:
    """What results call a data set; `parquet` says nothing, so a folder of images goes by its own name."""
    return Path(data.root).name if data.name == "parquet" and data.root is not None else data.name


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
