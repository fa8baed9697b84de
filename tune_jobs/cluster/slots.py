"""Computes how many CPUs and GPUs each trial reserves, and how many trials run at once."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from tune_jobs.cluster import mps
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
    workers_per_trial: int = 1  # processes of each trial, which share its CPUs and GPUs evenly
    # How trials share a GPU: `mps`, `time`, or `auto`, which each node decides for itself.
    sharing: str = "time"
    sharing_line: str = ""  # the same in words; nothing where none is shared

    @property
    def cpus_per_worker(self) -> float:
        """CPUs of each process."""
        return self.cpus_per_trial / self.workers_per_trial

    @property
    def gpus_per_worker(self) -> float:
        """GPUs of each process."""
        return self.gpus_per_trial / self.workers_per_trial

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What Ray reserves for each process of a trial."""
        return [{"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}] * self.workers_per_trial


def plan_slots(
    resources: ResourcesModel, cpus: float, gpus: float, nodes: Sequence[tuple[float, float]] = ()
) -> Slots:
    """Returns what each trial reserves of so many CPUs and GPUs, and how many trials run at once.

    Args:
        nodes: The CPUs and GPUs of each node of a cluster, which no process can span.

    Raises:
        JobError: If not even one trial fits, or Ray cannot reserve such an amount.
    """
    explanation: list[str] = []
    gpus = int(gpus)  # Ray sums them as floats
    gpus_per_trial = _gpus_per_trial(resources, gpus, explanation)
    workers = resources.workers_per_trial
    if workers > 1:
        explanation.append(f"{workers} processes train each trial together")
    fits = _fits_on_cpus(resources.cpus_per_trial, cpus, explanation)
    if gpus_per_trial > 0:
        fits = min(fits, _fits_on_gpus(gpus_per_trial / workers, gpus, explanation, workers))
    sharing, sharing_line = _sharing(resources, gpus_per_trial / workers, len(nodes) > 1)
    if sharing_line:
        explanation.append(sharing_line)
    slots = Slots(fits, resources.cpus_per_trial, gpus_per_trial, explanation, workers, sharing, sharing_line)
    if len(nodes) > 1:
        fits = min(fits, _fits_on_nodes(slots, nodes, explanation))
    num_slots = fits
    if resources.max_concurrent != "auto":
        num_slots = min(fits, resources.max_concurrent)
        if resources.max_concurrent > fits:
            explanation.append(f"max_concurrent is {resources.max_concurrent}, but only {fits} fit")
        elif resources.max_concurrent < fits:
            explanation.append(f"max_concurrent limits them to {resources.max_concurrent}")
    explanation.append(f"{counted(num_slots, 'trial')} at once")
    return replace(slots, num_slots=num_slots)


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
        return float(resources.workers_per_trial)
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


def _sharing(resources: ResourcesModel, share: float, is_cluster: bool) -> tuple[str, str]:
    """Returns how processes with such a share of a GPU share it, and that in words; none for those that do not."""
    is_left_open = share == 1 and resources.gpus_per_trial == "auto"
    if resources.workers_per_trial > 1 or not (0 < share < 1 or is_left_open):
        return "time", ""
    problem = None if resources.sharing == "time" or is_cluster else mps.problem()
    if resources.sharing == "mps" and not is_cluster and not mps.is_installed():
        _refuse("resources.sharing", "mps", f"{problem}; valid: auto, time")
    who = "trials on one GPU" if share < 1 else "if trials share a GPU, they"
    if resources.sharing == "auto" and is_cluster:
        return "auto", f"{who} run side by side (CUDA MPS) on nodes that have it"
    if resources.sharing == "mps" or (resources.sharing == "auto" and problem is None):
        return "mps", f"{who} run side by side (CUDA MPS)"
    why = "resources.sharing is time" if problem is None else problem
    return "time", f"{who} take turns: {why}"


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


def _fits_on_gpus(share: float, gpus: int, explanation: list[str], workers: int) -> int:
    """Returns how many trials fit whose processes have such a share each; no process spans two GPUs."""
    assert share <= 1, share
    of_each = "" if workers == 1 else f" in {workers} processes"
    if share == 1:
        fits = gpus // workers
        if fits == 0:
            _refuse("resources.workers_per_trial", workers, f"more than the {counted(gpus, 'GPU')} here")
        explanation.append(f"{counted(gpus, 'GPU')}, {workers} for each trial{of_each}: room for {fits}")
        return fits
    units = _units("resources.gpus_per_trial", share)
    num_on_each = _UNITS // units
    fits = gpus * num_on_each // workers
    of_whom = (
        f"{share:g} for each trial: {num_on_each}"
        if workers == 1
        else f"{share:g} for each process: {num_on_each}"
    )
    explanation.append(f"{counted(gpus, 'GPU')}, {of_whom} on each GPU, room for {fits}")
    unused = _UNITS - num_on_each * units
    if unused >= num_on_each:  # less comes from rounding, as with three times 0.3333
        explanation.append(
            f"{unused / _UNITS:g} of each GPU stays unused; "
            f"{_share(num_on_each)} or {_share(num_on_each + 1)} would use it fully"
        )
    return fits


def _fits_on_nodes(slots: Slots, nodes: Sequence[tuple[float, float]], explanation: list[str]) -> int:
    """Returns how many trials fit whose processes lie on one node each, though the trials may span nodes."""
    cpus, gpus = slots.cpus_per_worker, slots.gpus_per_worker
    rooms = []
    for node_cpus, node_gpus in nodes:
        room = int(node_cpus / cpus + 1e-9)
        if gpus > 0:
            room = min(room, int(node_gpus) * int(1 / gpus + 1e-9))
        rooms.append(room)
    fits = sum(rooms) // slots.workers_per_trial
    what = "a trial" if slots.workers_per_trial == 1 else "a process of a trial"
    needs = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
    if too_small := [node for node, room in zip(nodes, rooms, strict=True) if room == 0]:
        have = "; ".join(f"{node_cpus:g} CPU, {node_gpus:g} GPU" for node_cpus, node_gpus in too_small[:3])
        explanation.append(
            f"{len(too_small)} of {len(nodes)} nodes cannot hold {what}, which needs {needs} on one node ({have})"
        )
    if fits == 0:
        _refuse(
            "resources.cpus_per_trial",
            slots.cpus_per_trial,
            f"{what} needs {needs} on one node, and the {len(nodes)} nodes have room for {sum(rooms)} of "
            f"{slots.workers_per_trial} of them; valid: less for each trial, or larger nodes",
        )
    if fits < slots.num_slots:
        explanation.append(f"{counted(len(nodes), 'node')} by themselves: room for {fits}")
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
