"""Probes one GPU for a few seconds: how much of it a trial takes, and what sharing it gains."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import psutil
import ray

from tune_jobs.cluster.mps import share_gpu
from tune_jobs.cluster.ray import Totals, end_at_sigterm
from tune_jobs.cluster.slots import Slots, plan_slots
from tune_jobs.errors import ClusterError
from tune_jobs.job.spec import JobSpec
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.packing import (
    PACKINGS,
    SHARING,
    Measured,
    choose_packing,
    choose_sharing,
    explain,
    fewer,
    fits,
)
from tune_jobs.search.wind_down import say
from zsharp.optim.methods import find_method
from zsharp.training.spec import TrialSpec

_STEPS = 20  # of an epoch of the probe
_LOOK_EVERY_S = 0.5
_OVERLAP_S = 3.0  # within which all workers have started


def packed(
    job: JobSpec,
    ledger: Ledger,
    slots: Slots,
    totals: Totals,
    is_stopped: Callable[[], bool] = lambda: False,
    search: str = "probe",
) -> Slots:
    """Returns how trials fill the GPUs if the job leaves that open: as probed, in this session or an earlier one.

    Once `is_stopped` says yes, the probe is abandoned and nothing recorded.
    """
    if job.resources.gpus_per_trial != "auto" or slots.gpus_per_trial != 1 or slots.workers_per_trial > 1:
        return slots
    earlier = [event["data"] for event in ledger.events() if event["kind"] == "pack"]
    if earlier:
        return _share_out(job, totals, earlier[-1]["gpus_per_trial"], earlier[-1].get("sharing", "time"))
    together, sharing, lines = probe_packing(job, kinds_to_try(job, slots), search, is_stopped=is_stopped)
    if not lines:
        return slots
    ledger.record_event("pack", {"gpus_per_trial": 1 / together, "sharing": sharing, "probed": lines})
    how = f" {SHARING[sharing]}" if together > 1 else ""
    say("\n".join(["Probed the GPU:", *lines, f"{together} to a GPU{how}."]))
    return _share_out(job, totals, 1 / together, sharing)


def with_fewer(job: JobSpec, ledger: Ledger, slots: Slots, totals: Totals) -> Slots:
    """Returns slots with more room for each trial, after one ran out of a GPU's memory."""
    share = fewer(slots.gpus_per_trial)
    facts = {"gpus_per_trial": share, "sharing": slots.sharing, "reason": "a trial ran out of GPU memory"}
    ledger.record_event("pack", facts)
    return _share_out(job, totals, share, slots.sharing)


def _share_out(job: JobSpec, totals: Totals, share: float, sharing: str) -> Slots:
    resources = job.resources.model_copy(update={"gpus_per_trial": share})
    if resources.sharing == "auto" and sharing == "time":  # MPS was measured, and is not left to the machine
        resources = resources.model_copy(update={"sharing": sharing})
    return plan_slots(resources, totals.cpus, totals.gpus, totals.nodes)


def kinds_to_try(job: JobSpec, slots: Slots) -> tuple[str, ...]:
    """Returns how trials may share a GPU."""
    if job.resources.sharing == "auto" and slots.sharing != "time":
        return tuple(SHARING)
    return (slots.sharing,)


def probe_packing(
    job: JobSpec,
    kinds: Sequence[str] = ("time",),
    search: str = "probe",
    *,
    needs_cuda: bool = True,
    seconds: float = 5.0,
    is_stopped: Callable[[], bool] = lambda: False,
) -> tuple[int, str, list[str]]:
    """Measures the job's architectures, each with its costliest method, and returns how trials share a GPU.

    Args:
        kinds: How they may: `time`, `mps` or both.
        search: The search's address, for a daemon of MPS.
        needs_cuda: Without a CUDA device on the worker, answer 1 at once.
        seconds: Length of each measurement, after an epoch that warms up.

    Returns:
        how many share one, the kind, and what was measured in words: no lines if nothing was.
    """
    if job.own is not None:  # what it needs of a GPU besides the model is not ours to know
        return 1, "time", []
    series, lines = [], []
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
        cpus_per_trial = int(job.resources.cpus_per_trial)

        def measure(
            together: int, kind: str, spec: TrialSpec = spec, cpus_per_trial: int = cpus_per_trial
        ) -> tuple[Measured, int] | None:
            sharing = (kind, search) if together > 1 else ("time", search)
            return _measure(spec, together, cpus_per_trial, needs_cuda, seconds, is_stopped, sharing)

        alone = measure(1, "time")
        if alone is None:
            return 1, "time", []
        measured = {kind: [alone[0]] for kind in kinds}
        for kind, of_kind in measured.items():
            for together in PACKINGS[1:]:
                if not fits(alone[0], together, alone[1]) or together * cpus_per_trial > cpus:
                    break
                more = measure(together, kind)
                if is_stopped():
                    return 1, "time", []
                if more is None:  # MPS does not start, or a trial did not
                    break
                of_kind.append(more[0])
                if choose_packing(of_kind) < together:
                    break
        series.append(measured)
        lines.append(explain(architecture, measured))
    return *choose_sharing(series), lines


def _measure(
    spec: TrialSpec,
    together: int,
    cpus: int,
    needs_cuda: bool,
    seconds: float,
    is_stopped: Callable[[], bool],
    sharing: tuple[str, str],
) -> tuple[Measured, int] | None:
    """Returns what so many trials did at once, and the GPU's memory in bytes; None without a GPU or once stopped."""
    # Each in a process of its own, since one that has used a GPU cannot change how it shares that.
    train = ray.remote(max_calls=1)(_train).options(
        num_gpus=1 / together, num_cpus=max(1, cpus), max_retries=0
    )
    # Workers start up one after another, and are to overlap.
    begin = time.time() + (_OVERLAP_S if together > 1 else 0.0)
    tasks = [train.remote(spec, begin, needs_cuda, seconds, sharing) for _ in range(together)]
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


def _train(
    spec: TrialSpec, begin: float, needs_cuda: bool, seconds: float, sharing: tuple[str, str]
) -> tuple[float, int, int] | None:
    """Trains on a worker; returns images per second, peak memory of the process, and memory of its GPU or machine."""
    import torch

    from zsharp.training import Training

    end_at_sigterm()
    try:
        share_gpu(*sharing)
    except (ClusterError, OSError):
        return None
    if needs_cuda and not torch.cuda.is_available():
        return None
    training = Training(replace(spec, train=replace(spec.train, epochs=1_000_000, schedule="constant")))
    first = training.run_epoch()
    # Only the wall clock is shared with the driver's machine, and it may have been set.
    time.sleep(min(_OVERLAP_S, max(0.0, begin - time.time())))
    until, last = time.monotonic() + seconds, first
    while time.monotonic() < until:
        last = training.run_epoch()
    evaluations = last["gradient_evaluations"] - first["gradient_evaluations"]
    trained_s = last["train_s"] - first["train_s"]
    images = evaluations / training.method.gradient_evaluations_per_step * spec.train.batch_size
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = psutil.virtual_memory().total
    return images / trained_s, last["peak_memory_bytes"], memory
