"""Times a few steps of a job's trials in a process of its own, which trains as a worker does; `timing` starts it."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tune_jobs.job.rehearsal import example_params
from tune_jobs.job.spec import JobSpec, Study

if TYPE_CHECKING:
    from zsharp.training import Training
    from zsharp.training.spec import TrialSpec

_LONG_EPOCH_S = 5.0
_FEW_IMAGES, _BEARABLE_STEP_S = 16, 2.0
_LEAST_VALIDATED = 256  # images; few would be slower each


def main(request_file: Path, answer_file: Path) -> None:
    """Reads what to time, and writes one JSON object a line as soon as it is measured."""
    request = json.loads(request_file.read_text(encoding="utf-8"))
    if not request["gpu"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # as in `tune_jobs.search.worker`
    import torch

    torch.set_num_threads(request["threads"])
    job = JobSpec.model_validate(request["job"])
    studies = [study for study in job.studies() if study.name in request["studies"]]
    with answer_file.open("w", encoding="utf-8", buffering=1) as answers:
        for answer in _measure(job, studies, request["started_at"], request["limit_s"]):
            print(json.dumps(answer), file=answers)


def _measure(
    job: JobSpec, studies: Sequence[Study], started_at: float, limit_s: float
) -> Iterator[dict[str, Any]]:
    """Yields what trials of each study take; the last answer of a study counts, as validating may take too long.

    Each architecture comes with one method first, from which the others can be estimated if the time is over.
    """
    batch_sizes: dict[str, int] = {}  # by architecture
    validate_s: dict[str, float] = {}  # likewise: all methods validate alike
    for study in sorted(studies, key=lambda study: job.methods.index(study.method)):
        spec = job.trial_spec(study, example_params(job, study))
        try:
            if spec.train.loop is not None:
                yield {"study": study.name, "begin_s": 0.0, "epoch_s": _loop_epoch_s(spec)}
                continue
            if study.architecture not in batch_sizes:
                is_first = not batch_sizes
                batch_sizes[study.architecture] = _bearable_batch_size(spec)
                if is_first:  # what every worker does once
                    yield {"study": "", "startup_s": time.monotonic() - started_at}
            training, answer = _steps(_with_batch_size(spec, batch_sizes[study.architecture]), limit_s)
            answer["study"] = study.name
            if study.architecture not in validate_s:
                yield {**answer, "validates": False}
                validate_s[study.architecture] = _validation_s(training, spec.train.batch_size)
            yield {**answer, "epoch_s": answer["epoch_s"] + validate_s[study.architecture]}
        except Exception as error:  # whatever code of the user's own raises
            reason = str(error).strip().partition("\n")[0]
            yield {"study": study.name, "error": f"{type(error).__name__}: {reason}"}


def _loop_epoch_s(spec: "TrialSpec") -> float:
    """Returns the seconds of a loop's second epoch, since the first imports and loads; of the first if that is long."""
    from tune_jobs.search.own_loop import LoopRun

    run = LoopRun(spec)
    for _ in range(2):
        started = time.perf_counter()
        run.run_epoch()
        seconds = time.perf_counter() - started
        if run.is_finished or seconds > _LONG_EPOCH_S:
            break
    run.close()
    return seconds


def _bearable_batch_size(spec: "TrialSpec") -> int:
    """Returns the batch size to time: a smaller one where a step would take seconds, as an epoch has the same images.

    A task of the user's own, and what trains on a GPU, keep theirs.
    """
    size, few = spec.train.batch_size, _FEW_IMAGES
    training, _ = _build(_with_batch_size(spec, min(size, few)) if spec.task is None else spec)
    training.time_steps(0.0)
    if spec.task is not None or training.device.type == "cuda" or size <= few:
        return size
    worked = time.process_time()
    training.time_steps(0.0)
    step_s = (time.process_time() - worked) / 2
    while few < size and 2 * few / _FEW_IMAGES * step_s < _BEARABLE_STEP_S:
        few *= 2
    return min(few, size)


def _with_batch_size(spec: "TrialSpec", size: int) -> "TrialSpec":
    return replace(spec, train=replace(spec.train, batch_size=size))


def _build(spec: "TrialSpec") -> tuple["Training", float]:
    from zsharp.training import Training

    started = time.perf_counter()
    # A compilation would take longer than all that is timed.
    training = Training(replace(spec, train=replace(spec.train, compile="false")))
    return training, time.perf_counter() - started


def _steps(spec: "TrialSpec", limit_s: float) -> tuple["Training", dict[str, Any]]:
    """Returns a run, and what it takes to begin and for an epoch with its checkpoint."""
    training, built_s = _build(spec)
    started, worked = time.perf_counter(), time.process_time()
    step_s = training.time_steps(limit_s)
    # What is less than all of the time, others have had of this core: other programs, not other trials.
    worked_share = (time.process_time() - worked) / (time.perf_counter() - started)
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        training.save(Path(folder) / "checkpoint")
        save_s = time.perf_counter() - started
    return training, {
        "begin_s": built_s,
        "epoch_s": training.task.steps_per_epoch * step_s + save_s,
        # A task of the user's own may wait for its data, and a GPU is waited for.
        "worked_share": 1.0 if spec.task or training.device.type == "cuda" else min(1.0, worked_share),
    }


def _validation_s(training: "Training", batch_size: int) -> float:
    """Returns the seconds of a validation: of our own task from a part of it, a small one where steps are slow."""
    share, started = 1.0, time.perf_counter()
    if training.spec.task is not None:
        training.validate()
    else:
        data, train = training.data, training.spec.train
        num_images = max(batch_size, _LEAST_VALIDATED) if train.batch_size == batch_size else train.batch_size
        rows = data.val_indices[: min(num_images, train.eval_batch_size)]
        if not len(rows):
            return 0.0
        share = len(rows) / len(data.val_indices)
        training.evaluate(data.images[rows.to(data.images.device)], data.labels[rows.to(data.labels.device)])
    return (time.perf_counter() - started) / share


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
