"""Between Ray's callbacks and the ledger: which trial a report belongs to, what was decided, how a trial ended."""

import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from tune_jobs.job.code import OwnCode
from tune_jobs.job.finalists import finalist_of, trial_and_turn
from tune_jobs.job.metric import Metric
from tune_jobs.job.space import Value
from tune_jobs.job.spec import JobSpec, Study
from tune_jobs.job.trunk import TRUNK
from tune_jobs.ledger.rows import METRICS, OWN_METRICS, Decision, Fork
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.finalists import Ended, due
from tune_jobs.search.budget import Meter
from tune_jobs.search.checkpoints import Checkpoints, Retention
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.trial import LiveTrial, id_of
from tune_jobs.search.wind_down import WindDown
from tune_jobs.stopping.asha import Rule, Rungs
from tune_jobs.stopping.replay import rungs_at_end
from tune_jobs.wording import last_line
from zsharp.optim.methods import find_method
from zsharp.training.spec import DataSpec

_STATUS = {"complete": "completed", "stop": "pruned", "diverge": "diverged"}
# What an error's text says when trying again would fail again, and when no trial is to blame.
_OUT_OF_MEMORY = ("torch.OutOfMemoryError", "CUDA out of memory")
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "database or disk is full")


class Recorder:
    """Writes trials, reports and decisions to the ledger as they arrive; Ray's ids stay outside of it.

    It picks up where earlier sessions stopped: unfinished trials wait to be handed out again.

    Args:
        on_change: Called with a trial after it started, reported or ended.
        code: What workers import of the user's own.
        task: The job's task or loop as an object, if it cannot be imported.

    Attributes:
        trials: All trials so far, by their own ids, in the order started.
        waiting: Ids of trials that have started, have not ended, and run on no worker.
        rungs: The state of the stopping rule, by study.
        training: Ray's ids of trials that have reported and train on; others are still starting.
    """

    def __init__(
        self,
        job: JobSpec,
        ledger: Ledger,
        folder: SearchFolder,
        on_change: Callable[[LiveTrial], None] | None = None,
        gpus_per_trial: float = 0.0,
        code: OwnCode | None = None,
        task: Callable[..., Any] | None = None,
    ) -> None:
        self.job, self.ledger, self.folder = job, ledger, folder
        self.code, self.task = code, task
        self._on_change = on_change
        self._metric = Metric(job.metric, job.mode)
        self.wind_down = WindDown()
        self.trials: dict[str, LiveTrial] = {}
        self.waiting: deque[str] = deque()
        self.training: set[str] = set()
        self._own_ids: dict[str, str] = {}
        self._moved_at: dict[str, int] = {}  # how many epochs a trial had when its node was lost

        rows, reports = ledger.trials(), ledger.reports()
        self._dataset = recorded_dataset(ledger)
        rule = Rule.of_job(job.model_dump())
        self.rungs = {study.name: Rungs(rule) for study in job.studies()}
        self.rungs |= {study.name: Rungs(rule.of_finalists) for study in job.finalist_studies()}
        self.rungs |= {study.name: Rungs(rule.of_trunks) for study in job.trunks()}
        self.rungs |= rungs_at_end(rule, rows, reports)
        forks = ledger.forks()
        at = {trial_id: fork.epoch for trial_id, fork in forks.items()}
        self.meter = Meter(gpus_per_trial, ledger.events(), reports, self._metric, at)
        for row in rows:
            trial = LiveTrial(
                row["trial_id"], row["study"], row["params"], row["number"], metric=self._metric
            )
            trial.is_trunk, trial.fork = row["method"] == TRUNK, forks.get(row["trial_id"])
            trial.finalist_of = finalist_of(row["study"], row["number"])
            trial.epoch = at.get(row["trial_id"], 0)
            trial.status, trial.error, trial.retries = row["status"], row["error"], row["retries"]
            self.trials[trial.trial_id] = trial
        for report in reports:
            _add_epoch(self.trials[report["trial_id"]], report)
        for trial in self.trials.values():
            if trial.status == "completed" and trial.is_searched:
                self.meter.add_completed(trial.value)
            if trial.is_unfinished:
                self.waiting.append(trial.trial_id)
        self._finalists = list(zip(job.studies(), job.finalist_studies(), strict=True))
        self._due: dict[
            str, list[int]
        ] = {}  # numbers of the trials of a study's finalists, once it has ended
        kept = job.search.keep_checkpoints
        # The winner is one of the finalists.
        self.retention = Retention(Checkpoints(folder), self.trials, kept and max(kept, job.search.finalists))

    def start_trial(
        self,
        ray_id: str,
        study: Study,
        number: int,
        searched: Mapping[str, Value],
        origin: str | None = None,
    ) -> LiveTrial:
        """Records that a trial starts, with the values of its searched parameters and of those the space fixes."""
        params = self.job.draw(study, lambda name, _: searched.get(name))
        spec = self.job.trial_spec(study, params, number)
        trial_id = id_of(study, number)
        trunk, is_trunk = self.job.trunk_of(study, number), study.method == TRUNK
        fork = None if trunk is None else Fork(id_of(*trunk), self.job.fork_epoch)
        self.ledger.start_trial(
            trial_id,
            study=study.name,
            number=number,
            dataset=self._dataset,
            architecture=spec.architecture,
            method=study.method,
            variant=find_method(spec.method).variant,
            seed=spec.train.seed,
            params=params,
            max_epochs=self.job.fork_epoch if is_trunk else spec.train.epochs,
            origin=origin,
            fork=fork,
        )
        trial = LiveTrial(trial_id, study.name, params, number, metric=self._metric, is_trunk=is_trunk)
        trial.finalist_of = finalist_of(study.name, number)
        if fork is not None:
            trial.fork, trial.epoch = fork, fork.epoch
            self.meter.fork(trial_id, fork.epoch)
        self.trials[trial_id] = trial
        self._own_ids[ray_id] = trial_id
        self._tell(trial)
        return trial

    def continue_trial(self, ray_id: str) -> LiveTrial:
        """Takes the trial that has waited longest, for another worker to continue from its checkpoint."""
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
        self.training.add(ray_id)
        if row["epoch"] <= trial.epoch:
            return None
        value = None if row["diverged"] else self._metric.of(row)
        decision = self.rungs[trial.study].judge(trial.trial_id, row["epoch"], value)
        metrics = {name: row.get(name) for name in (*METRICS, OWN_METRICS)}
        status = _STATUS.get(decision.action)
        # One transaction: a trial whose last report is recorded has ended, whatever is killed when.
        self.ledger.report(trial.trial_id, row["epoch"], metrics, decision, status)
        self.meter.add_report(trial.trial_id, row)
        _add_epoch(trial, row)
        if status is None:
            self._tell(trial)
        else:
            self._end(trial, status)
        self.check_budget()
        return decision

    def fail(self, ray_id: str, error: str) -> None:
        """Records that a trial raised, died or hung: it waits for another try, or has failed."""
        trial = self.find(ray_id)
        if trial.status is not None or self.wind_down.has_begun or self.stop_if_disk_full(error):
            return
        is_out_of_memory = any(text in error for text in _OUT_OF_MEMORY)
        shares_gpu = self.job.resources.gpus_per_trial == "auto" and 0 < self.meter.gpus_per_trial < 1
        if is_out_of_memory and shares_gpu:
            # It may be the others' memory, so this is no failure of the trial's.
            self.wind_down.begin("out of GPU memory: fewer trials share a GPU from here on", "repack")
            return
        if is_out_of_memory or trial.retries >= self.job.failures.max_retries:
            self.rungs[trial.study].record_worst(trial.trial_id)
            reason = "out of GPU memory" if is_out_of_memory else f"failed {_times(trial.retries + 1)}"
            self.ledger.finish_trial(trial.trial_id, "failed", reason, error)
            trial.error = error
            self._end(trial, "failed")
            return
        self.ledger.retry_trial(trial.trial_id, error)
        trial.retries += 1
        self.waiting.appendleft(trial.trial_id)

    def fail_without_trunk(self, ray_id: str) -> None:
        """Records that a trial, which no worker was told of, cannot start because its trunk did not get there."""
        trial = self.find(ray_id)
        assert trial.fork is not None, "a trial that starts from a trunk"
        trunk = self.trials[trial.fork.trunk]
        what = last_line(trunk.error) if trunk.error else f"it {trunk.status} at epoch {trunk.epoch}"
        trial.error = f"its trunk {trunk.trial_id} did not reach epoch {trial.fork.epoch}: {what}"
        self.rungs[trial.study].record_worst(trial.trial_id)
        self.ledger.finish_trial(trial.trial_id, "failed", "its trunk failed", trial.error)
        self._end(trial, "failed")

    def move(self, ray_id: str, error: str) -> None:
        """Records that a trial's node was lost: it continues elsewhere, and this does not count as a retry.

        It does count if the trial lost a node before and trained no epoch since: it may be what kills them.
        """
        trial = self.find(ray_id)
        if self._moved_at.get(trial.trial_id) == trial.epoch:
            self.fail(ray_id, error)
        elif trial.status is None and not self.wind_down.has_begun:
            self._moved_at[trial.trial_id] = trial.epoch
            self.ledger.record_event("move", {"trial_id": trial.trial_id, "error": error})
            self.waiting.appendleft(trial.trial_id)

    def stop_if_disk_full(self, error: str) -> bool:
        """Stops the search if an error says that nothing can be written, whichever trial met it first."""
        is_full = any(text in error for text in _DISK_FULL)
        if is_full:
            self.wind_down.begin(f"the disk is full: {last_line(error) or 'unknown'}", "error")
        return is_full

    def check_budget(self) -> None:
        """Stops the search if its budget is used up."""
        if reason := self.meter.exhausted(self.job.budget):
            self.wind_down.begin(reason, "budget")

    def repack(self, gpus_per_trial: float) -> None:
        """Prepares for workers with another share of a GPU: all unfinished trials wait to be continued."""
        self.wind_down.end_repack()
        self.training.clear()
        self.meter.gpus_per_trial = gpus_per_trial
        self.waiting = deque(trial.trial_id for trial in self.trials.values() if trial.is_unfinished)

    def interrupt(self) -> None:
        """Records that the trials still running were interrupted."""
        for trial in self.trials.values():
            if trial.status is None:
                reason = self.wind_down.reason or "the search was interrupted"
                self.ledger.finish_trial(trial.trial_id, "interrupted", reason)
                trial.status = "interrupted"
                self._tell(trial)

    def clean_checkpoints(self) -> None:
        """Deletes checkpoints that are not needed, and damaged ones, whose trials train their epochs again."""
        self.retention.clean()
        for trial_id in self.waiting:
            if problem := self.retention.checkpoints.drop_damaged(trial_id):
                self.ledger.record_event("checkpoint", {"trial_id": trial_id, "problem": problem})

    @property
    def is_over(self) -> bool:
        """Whether every trial of the job has ended, those of finalists included."""
        rest = [trial for trial in self.trials.values() if not trial.is_trunk]
        num_ended = sum(not trial.is_unfinished and trial.is_searched for trial in rest)
        return num_ended >= self.job.num_trials and not (
            self.finalists_to_start() or any(trial.is_unfinished for trial in rest)
        )

    def finalists_to_start(self) -> list[tuple[Study, int]]:
        """Returns the trials of finalists that have not started, by seed first, as far as they are certain.

        They follow from the job and the record alone, so a search that goes on has the same ones.
        """
        waiting = [
            (trial_and_turn(number)[1], finalists, number)
            for study, finalists in self._finalists
            for number in self._due_in(study)
            if id_of(finalists, number) not in self.trials
        ]
        return [(study, number) for _, study, number in sorted(waiting, key=itemgetter(0))]

    def _due_in(self, study: Study) -> list[int]:
        """Returns the numbers of the trials of a study's finalists; before it has ended, of those that it must have."""
        search = self.job.search
        if not search.finalists or study.name in self._due:
            return self._due.get(study.name, [])
        own = [trial for trial in self.trials.values() if trial.study == study.name]
        full = [
            Ended(trial.trial_id, trial.number, _key(trial.params), trial.value, trial.val_loss)
            for trial in own
            if trial.status == "completed" and trial.epoch >= self.job.train.epochs
        ]
        # Each trial that has not ended can outdo one finalist. If it repeats a configuration, it changes a mean.
        running = [_key(trial.params) for trial in own if trial.is_unfinished]
        num_open = search.num_trials - (len(own) - len(running))
        repeats = search.seeds > 1 or {trial.configuration for trial in full} & {*running}
        if num_open > 0 and (repeats or len(own) < search.num_trials):
            return []
        settings = (max(0, search.finalists - max(0, num_open)), search.finalist_seeds)
        numbers = due(self._metric, settings, full)
        if num_open <= 0:
            self._due[study.name] = numbers
        return numbers

    def _end(self, trial: LiveTrial, status: str) -> None:
        trial.status = status
        if status == "completed" and trial.is_searched:
            self.meter.add_completed(trial.value)
        self.retention.end_trial(trial)
        self.ledger.store_copy()
        self._tell(trial)

    def _tell(self, trial: LiveTrial) -> None:
        if self._on_change is not None:
            self._on_change(trial)


def recorded_dataset(ledger: Ledger) -> str:
    """Returns what results call the data of a search; a task brings its own, which go by its name."""
    job = ledger.jobs()[0][1]
    own: str | None = job["train"].get("loop") or job.get("task")
    return own or dataset_name(first_data(ledger))


def first_data(ledger: Ledger) -> DataSpec:
    """Returns the data that a search began with; their folder may have moved since, but they keep their name."""
    data = ledger.jobs()[0][1]["data"]
    return DataSpec(data["name"], data.get("root"))


def dataset_name(data: DataSpec) -> str:
    """Returns what results call a data set: folders of images, all named `parquet` in jobs, go by their own names."""
    return Path(data.root).absolute().name if data.name == "parquet" and data.root is not None else data.name


def _key(params: Mapping[str, Value]) -> str:
    return json.dumps(dict(params), sort_keys=True)


def _add_epoch(trial: LiveTrial, row: Mapping[str, Any]) -> None:
    value = trial.metric.of(row)
    trial.epoch, trial.value, trial.val_loss = row["epoch"], value, row.get("val_loss")
    trial.values.append(value if value is not None and math.isfinite(value) else None)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
