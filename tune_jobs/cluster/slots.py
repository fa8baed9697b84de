"""Computes how many CPUs and GPUs each trial reserves, and how many trials run at once."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from tune_jobs.errors import JobError, Problem
from tune_jobs.job.spec import ResourcesModel
from tune_jobs.wording import counted

# Ray counts resources in ten-thousandths and drops the rest.
_UNITS = 10_000
_MORE_THAN_ANY = 2**40  # the product of a larger amount could be infinite


@dataclass(frozen=True)
class Slots:
    """How trials fill a machine or cluster."""

    num_slots: int  # trials that run at once
    cpus_per_trial: float  # CPUs that Ray reserves for each
    gpus_per_trial: float  # GPUs that Ray reserves for each; below 1, several share one
    explanation: list[str]  # lines that say why, for `plan` and the start of a run


def plan_slots(resources: ResourcesModel, cpus: float, gpus: float) -> Slots:
    """Returns what each trial reserves of so many CPUs and GPUs, and how many trials run at once.

    Raises:
        JobError: If not even one trial fits, or Ray cannot reserve such an amount.
    """
    explanation: list[str] = []
    gpus = int(gpus)  # Ray sums them as floats
    gpus_per_trial = _gpus_per_trial(resources, gpus, explanation)
    fits = _fits_on_cpus(resources.cpus_per_trial, cpus, explanation)
    if gpus_per_trial > 0:
        fits = min(fits, _fits_on_gpus(gpus_per_trial, gpus, explanation))
    num_slots = fits
    if resources.max_concurrent != "auto":
        num_slots = min(fits, resources.max_concurrent)
        if resources.max_concurrent > fits:
            explanation.append(f"max_concurrent is {resources.max_concurrent}, but only {fits} fit")
        elif resources.max_concurrent < fits:
            explanation.append(f"max_concurrent limits them to {resources.max_concurrent}")
    explanation.append(f"{counted(num_slots, 'trial')} at once")
    return Slots(num_slots, resources.cpus_per_trial, gpus_per_trial, explanation)


def makespan(durations: Iterable[float], num_slots: int) -> float:
    """Returns how long runs take in all, if each starts, in this order, as soon as a slot is free."""
    ends = [0.0] * max(1, num_slots)
    for seconds in durations:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def _gpus_per_trial(resources: ResourcesModel, gpus: int, explanation: list[str]) -> float:
    requested, device = resources.gpus_per_trial, resources.device
    if device == "cuda" and gpus == 0:
        _refuse("resources.device", device, "there is no GPU here; valid: auto, cpu")
    if requested == "auto":
        if gpus == 0 or device == "cpu":
            explanation.append("no GPU here" if gpus == 0 else "device is cpu, so trials take no GPU")
            return 0.0
        return 1.0
    if requested == 0:
        if device == "cuda":
            _refuse(
                "resources.gpus_per_trial",
                requested,
                "device is cuda, which needs a share of a GPU; valid: auto, above 0",
            )
        if gpus > 0:
            explanation.append(f"gpus_per_trial is 0, which leaves {counted(gpus, 'GPU')} idle")
        return 0.0
    if gpus == 0:
        _refuse("resources.gpus_per_trial", requested, "there is no GPU here; valid: auto, 0")
    if device == "cpu":
        _refuse(
            "resources.gpus_per_trial", requested, "device is cpu, which would leave it idle; valid: auto, 0"
        )
    return requested


def _fits_on_cpus(cpus_per_trial: float, cpus: float, explanation: list[str]) -> int:
    fits = _units("resources.cpus_per_trial", cpus) // _units("resources.cpus_per_trial", cpus_per_trial)
    if fits == 0:
        _refuse(
            "resources.cpus_per_trial",
            cpus_per_trial,
            f"more than the {counted(cpus, 'CPU')} here; valid: at most {cpus:g}",
        )
    explanation.append(f"{counted(cpus, 'CPU')}, {cpus_per_trial:g} for each trial: room for {fits}")
    return fits


def _fits_on_gpus(share: float, gpus: int, explanation: list[str]) -> int:
    """Returns how many trials fit; no trial spans two GPUs, and none has more than one (`tune_jobs.job.checks`)."""
    assert share <= 1, share
    if share == 1:
        explanation.append(f"{counted(gpus, 'GPU')}, 1 for each trial: room for {gpus}")
        return gpus
    units = _units("resources.gpus_per_trial", share)
    num_on_each = _UNITS // units
    fits = gpus * num_on_each
    explanation.append(
        f"{counted(gpus, 'GPU')}, {share:g} for each trial: {num_on_each} on each GPU, room for {fits}"
    )
    unused = _UNITS - num_on_each * units
    if unused >= num_on_each:  # less comes from rounding, as with three times 0.3333
        explanation.append(
            f"{unused / _UNITS:g} of each GPU stays unused; "
            f"{_share(num_on_each)} or {_share(num_on_each + 1)} would use it fully"
        )
    return fits


def _share(trials: int) -> str:
    return f"{_UNITS // trials / _UNITS:g}"


def _units(path: str, amount: float) -> int:
    units = int(min(amount, _MORE_THAN_ANY) * _UNITS)
    if amount > 0 and units == 0:
        _refuse(path, amount, f"Ray cannot reserve so little; valid: at least {1 / _UNITS:g}")
    return units


def _refuse(path: str, value: object, message: str) -> NoReturn:
    raise JobError([Problem(path, value, message)])
