"""Trains trials on a worker: a Ray trainable around `zsharp.training.Training`, reused from trial to trial."""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from tune_jobs.cluster.mps import share_gpu
from tune_jobs.cluster.ray import end_at_sigterm, node_name
from tune_jobs.cluster.slots import Slots
from tune_jobs.job.code import OwnCode, uses_own_code
from tune_jobs.job.spec import JobSpec, Study
from tune_jobs.search.checkpoints import Checkpoints
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.trial import id_of
from tune_jobs.search.trial_log import TrialLog
from tune_jobs.search.trunk import Trunk, from_trunk
from zsharp.user_code import user_traceback

if TYPE_CHECKING:
    from tune_jobs.search.own_loop import LoopRun
    from tune_jobs.search.team import TeamRun
    from zsharp.data.training_data import TrainingData
    from zsharp.training import Training
    from zsharp.training.epoch_row import EpochRow
    from zsharp.training.spec import TrialSpec

OWN_TRACEBACK = "in code of the user's own:\n"
"""Precedes, in an error's text, the traceback of the user's files; what comes before is Ray's and ours."""

_logger = logging.getLogger(__name__)


class _OwnCodeError(Exception):
    """Code of the user's own raised; the text ends with its traceback."""


class TrialRunner(tune.Trainable):
    """One trial after another on one worker; `step` is an epoch.

    The configuration names the trial: `trial_id`, `study`, `number`, `params`, and `epoch`, how many of its epochs are
    recorded. Each epoch's checkpoint is written before its row is returned, and holds the row: if the worker or the
    driver dies in between, the next worker returns that row first.
    """

    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        job: dict[str, Any],
        folder: SearchFolder,
        code: OwnCode | None = None,
        task: Callable[..., Any] | None = None,
        slots: Slots | None = None,
    ) -> None:
        """Prepares the worker once. The first trial is built by the first step, since only steps have a time limit."""
        import torch

        end_at_sigterm()
        # It warns of slow set-ups and advises to reuse workers, which we do.
        logging.getLogger("ray.tune.trainable.trainable").setLevel(logging.ERROR)
        self._job, self._task = JobSpec.model_validate(job), task
        if code is not None:
            self._job = self._job.model_copy(update={"code": code.folders_here()})
        self._checkpoints, self._lines = Checkpoints(folder), TrialLog(folder)
        self._node = node_name()
        self._studies = {study.name: study for study in self._job.all_studies()}
        # More threads than cores is many times slower than one thread a trial.
        resources = self._job.resources
        torch.set_num_threads(max(1, int(resources.cpus_per_trial / resources.workers_per_trial)))
        self._code = code
        self._slots, self._search = slots, folder.address
        self._team = None
        if slots is not None and slots.workers_per_trial > 1:
            from tune_jobs.search.team import Team

            timeout_s = self._job.failures.report_timeout_s
            self._team = Team(
                slots.workers_per_trial, slots.cpus_per_worker, slots.gpus_per_worker, timeout_s
            )
        self._training: Training | LoopRun | TeamRun | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Switches to the next trial; all state of the last one is dropped."""
        self.cleanup()
        return True

    def cleanup(self) -> None:
        """Ends the trial; a loop of the user's own waits in its report."""
        if self._training is not None and hasattr(self._training, "close"):
            self._training.close()
        self._training = None
        self._lines.end()

    def step(self) -> dict[str, Any]:
        """Trains one epoch; the first step after a checkpoint was loaded returns the row of its last epoch instead.

        Raises:
            _OwnCodeError: With the traceback of the user's own files, if it is their code that raised.
        """
        try:
            return self._step()
        except Exception as error:
            if not uses_own_code(self._job):
                raise
            raise _OwnCodeError(OWN_TRACEBACK + user_traceback(error, self._job.code)) from None
        finally:
            self._lines.store()

    def _step(self) -> dict[str, Any]:
        if self._training is None:
            self._lines.begin(self.config["trial_id"])
            self._training = self._begin(self.config)
            if self._training.last_report is not None:
                return self._row(self._training.last_report)
        report = self._training.run_epoch()
        if not report["diverged"]:
            self._checkpoints.store(self.config["trial_id"], self._training.save)
        return self._row(report)

    def _row(self, report: "EpochRow") -> dict[str, Any]:
        return {**report, "node": self._node, "gpu_ids": self._gpu_ids, "worker_pid": os.getpid()}

    def _begin(self, config: dict[str, Any]) -> "Training | LoopRun | TeamRun":
        import torch

        gpu_ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        self._gpu_ids = ",".join(gpu_ids) or None
        if not gpu_ids:
            # Ray leaves all GPUs visible to trials that asked for none, which would all use the first.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        elif self._slots is not None and self._slots.gpus_per_worker < 1:
            share_gpu(self._slots.sharing, self._search)
        if gpu_ids and not torch.cuda.is_available():
            _logger.warning(
                "Ray reserved GPU %s, but torch sees no CUDA device: training on the CPU", self._gpu_ids
            )
        study = self._studies[config["study"]]
        spec = self._job.trial_spec(study, config["params"], config["number"])
        trunk = self._trunk_of(study, config["number"])
        file = self._checkpoints.fetch(config["trial_id"])
        if file is None and trunk is not None:
            return from_trunk(self._build, spec, trunk, self._checkpoints)
        training = self._build(spec)
        if file is not None:
            try:
                training.load(file)
            except ValueError as error:
                _logger.warning("%s starts again from its first epoch: %s", config["trial_id"], error)
                return self._again(training, trunk)
            if training.epoch > config["epoch"] + 1:  # of a record that was lost: its rows would have a gap
                return self._again(training, trunk)
        return training

    def _trunk_of(self, study: Study, number: int) -> Trunk | None:
        trunk = self._job.trunk_of(study, number)
        if trunk is None:
            return None
        spec = self._job.trial_spec(trunk[0], {}, trunk[1])
        return Trunk(id_of(*trunk), spec, self._job.fork_epoch)

    def _build(self, spec: "TrialSpec", data: "TrainingData | None" = None) -> "Training | LoopRun | TeamRun":
        from tune_jobs.search.own_loop import build_run

        if self._team is not None:
            return self._team.begin(spec, self._task, self._code)
        return build_run(spec, self._task, data=data)

    def _again(
        self, run: "Training | LoopRun | TeamRun", trunk: Trunk | None
    ) -> "Training | LoopRun | TeamRun":
        """Returns the same run from its first epoch."""
        from zsharp.training import Training

        if trunk is not None:
            return from_trunk(self._build, run.spec, trunk, self._checkpoints)
        return self._build(run.spec, run.data if isinstance(run, Training) and not self._job.own else None)
