"""Probes one GPU for a few seconds: how much of it a trial takes, and what sharing it gains."""

import time
from collections.abc import Callable
from dataclasses import replace

import psutil
import ray

from tune_jobs.cluster.ray import Totals, end_at_sigterm
from tune_jobs.cluster.slots import Slots, plan_slots
from tune_jobs.job.spec import JobSpec
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.packing import PACKINGS, Measured, choose_packing, explain, fewer, fits
from tune_jobs.search.wind_down import say
from zsharp.optim.methods import find_method
from zsharp.training.spec import TrialSpec

_STEPS = 20  # of an epoch of the probe
_LOOK_EVERY_S = 0.5


def packed(
    job: JobSpec,
    ledger: Ledger,
    slots: Slots,
    totals: Totals,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Slots:
    """Returns how trials fill the GPUs if the job leaves that open: as probed, in this session or an earlier one.

    Once `is_stopped` says yes, the probe is abandoned and nothing recorded.
    """
    if job.resources.gpus_per_trial != "auto" or slots.gpus_per_trial != 1 or slots.workers_per_trial > 1:
        return slots
    earlier = [event["data"]["gpus_per_trial"] for event in ledger.events() if event["kind"] == "pack"]
    if earlier:
        return _share_out(job, totals, earlier[-1])
    together, lines = probe_packing(job, is_stopped=is_stopped)
    if not lines:
        return slots
    ledger.record_event("pack", {"gpus_per_trial": 1 / together, "probed": lines})
    say("\n".join(["Probed the GPU:", *lines, f"{together} to a GPU."]))
    return _share_out(job, totals, 1 / together)


def with_fewer(job: JobSpec, ledger: Ledger, slots: Slots, totals: Totals) -> Slots:
    """Returns slots with more room for each trial, after one ran out of a GPU's memory."""
    share = fewer(slots.gpus_per_trial)
    ledger.record_event("pack", {"gpus_per_trial": share, "reason": "a trial ran out of GPU memory"})
    return _share_out(job, totals, share)


def _share_out(job: JobSpec, totals: Totals, share: float) -> Slots:
    resources = job.resources.model_copy(update={"gpus_per_trial": share})
    return plan_slots(resources, totals.cpus, totals.gpus, totals.nodes)


def probe_packing(
    job: JobSpec,
    *,
    needs_cuda: bool = True,
    seconds: float = 5.0,
    is_stopped: Callable[[], bool] = lambda: False,
) -> tuple[int, list[str]]:
    """Measures the job's architectures, each with its costliest method, and returns how many trials share a GPU.

    The architecture that needs most room decides, since trials of all of them share the slots.

    Args:
        needs_cuda: Without a CUDA device on the worker, answer 1 at once.
        seconds: Length of each measurement, after an epoch that warms up.

    Returns:
        the number, and what was measured in words: no lines if nothing was.
    """
    if job.own is not None:  # what it needs of a GPU besides the model is not ours to know
        return 1, []
    chosen, lines = [], []
    cpus = ray.cluster_resources().get("CPU", 1)  # type: ignore[no-untyped-call]
    for architecture in job.architectures:
        method = max(job.methods, key=lambda name: find_method(name).gradient_evaluations_per_step)
        study = next(
            study for study in job.studies() if (study.architecture, study.method) == (architecture, method)
        )
        spec = job.trial_spec(study, job.largest(study))
        images = round(_STEPS * spec.train.batch_size / (1 - spec.data.val_fraction)) + 1
        if spec.data.max_images is None or images < spec.data.max_images:
            spec = replace(spec, data=replace(spec.data, max_images=images))
        measured: list[Measured] = []
        memory = 0
        for together in PACKINGS:
            if measured and not fits(measured[0], together, memory):
                break
            if together * job.resources.cpus_per_trial > cpus:
                break
            cpus_per_trial = int(job.resources.cpus_per_trial)
            answer = _measure(spec, together, cpus_per_trial, needs_cuda, seconds, is_stopped)
            if answer is None:
                return 1, []
            measurement, memory = answer
            measured.append(measurement)
            if choose_packing(measured) < together:
                break
        chosen.append(choose_packing(measured))
        lines.append(explain(architecture, measured))
    return min(chosen), lines


def _measure(
    spec: TrialSpec,
    together: int,
    cpus: int,
    needs_cuda: bool,
    seconds: float,
    is_stopped: Callable[[], bool],
) -> tuple[Measured, int] | None:
    """Returns what so many trials did at once, and the GPU's memory in bytes; None without a GPU or once stopped."""
    train = ray.remote(_train).options(num_gpus=1 / together, num_cpus=max(1, cpus), max_retries=0)
    # Workers start up one after another, and are to overlap.
    begin = time.time() + (3.0 if together > 1 else 0.0)
    tasks = [train.remote(spec, begin, needs_cuda, seconds) for _ in range(together)]
    waiting = tasks
    while waiting:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_LOOK_EVERY_S)
        if is_stopped():
            for task in waiting:
                ray.cancel(task, force=True)
            return None
    rates = [rate for rate in ray.get(tasks) if rate is not None]
    if len(rates) < together:
        return None
    speeds, peaks, memories = zip(*rates, strict=True)
    return Measured(together, sum(speeds), max(peaks)), min(memories)


def _train(spec: TrialSpec, begin: float, needs_cuda: bool, seconds: float) -> tuple[float, int, int] | None:
    """Trains on a worker; returns images per second, peak memory of the process, and memory of its GPU or machine."""
    import torch

    from zsharp.training import Training

    end_at_sigterm()
    if needs_cuda and not torch.cuda.is_available():
        return None
    training = Training(replace(spec, train=replace(spec.train, epochs=1_000_000, schedule="constant")))
    first = training.run_epoch()
    time.sleep(max(0.0, begin - time.time()))
    until, last = time.time() + seconds, first
    while time.time() < until:
        last = training.run_epoch()
    evaluations = last["gradient_evaluations"] - first["gradient_evaluations"]
    trained_s = last["train_s"] - first["train_s"]
    images = evaluations / training.method.gradient_evaluations_per_step * spec.train.batch_size
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = psutil.virtual_memory().total
    return images / trained_s, last["peak_memory_bytes"], memory
