"""What runs on a worker: a Ray trainable around `zsharp.training.Training`, reused from trial to trial."""

import logging
import os
from typing import Any

import ray
from ray import tune

from tune_jobs.spec import JobSpec

_logger = logging.getLogger(__name__)


class TrialRunner(tune.Trainable):
    """One trial after another on one worker; `step` is an epoch.

    The configuration names the trial: `trial_id`, `study`, `params`.
    """

    def setup(self, config: dict[str, Any], job: dict[str, Any]) -> None:  # type: ignore[override]
        """Prepares the worker once, then its first trial."""
        import torch

        # Its advice on slow set-ups is to reuse workers, which is done.
        logging.getLogger("ray.tune.trainable.trainable").setLevel(logging.ERROR)
        self._job = JobSpec.model_validate(job)
        self._node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._studies = {study.name: study for study in self._job.studies()}
        # More threads than cores is many times slower than one thread a trial.
        torch.set_num_threads(max(1, int(self._job.resources.cpus_per_trial)))
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes on the next trial; all state of the last one is dropped."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Trains one epoch."""
        return {
            **self._training.run_epoch(),
            "node": self._node,
            "gpu_ids": self._gpu_ids,
            "worker_pid": os.getpid(),
        }

    def _begin(self, config: dict[str, Any]) -> None:
        import torch

        from zsharp.training import Training

        gpu_ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        self._gpu_ids = ",".join(gpu_ids) or None
        if not gpu_ids:
            # Ray leaves all GPUs visible to trials that asked for none, which would all use the first.
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        elif not torch.cuda.is_available():
            _logger.warning(
                "Ray reserved GPU %s, but torch sees no CUDA device: training on the CPU", self._gpu_ids
            )
        study = self._studies[config["study"]]
        searched = {name: value for name, value in config["params"].items() if name in study.parameters}
        self._training = Training(self._job.trial_spec(study, searched))
