"""Computes what each trial takes of a machine or cluster, and how many trials run at once."""

from dataclasses import dataclass
from typing import NoReturn

from tune_jobs.errors import JobError, Problem
from tune_jobs.job.spec import ResourcesModel
from tune_jobs.wording import counted

# Ray counts resources in ten-thousandths and cuts off the rest (so three times 0.3334 fit, by rounding).
_UNITS = 10_000


@dataclass(frozen=True)
class Slots:
    """How a search fills what there is.

    Attributes:
        num_slots: Trials that run at once.
        cpus_per_trial: CPUs that Ray reserves for each.
        gpus_per_trial: GPUs that Ray reserves for each; below 1, several share one.
        explanation: Lines that say why, for `plan` and the start of a run.
    """

    num_slots: int
    cpus_per_trial: float
    gpus_per_trial: float
    explanation: list[str]


def plan_slots(
    resources: ResourcesModel, cpus: float, gpus: float, gpus_per_node: int | None = None
) -> Slots:
    """Returns what each trial takes and how many run at once.

    Args:
        resources: That section of the job.
        cpus: CPUs of the whole cluster.
        gpus: GPUs of the whole cluster.
        gpus_per_node: GPUs of each of its machines; None means that one machine has them all.

    Raises:
        JobError: If not even one trial fits, or the demand is one that Ray cannot serve.
    """
    assert gpus_per_node is None or gpus_per_node >= 1, gpus_per_node
    explanation: list[str] = []
    gpus = int(gpus)  # Ray sums them as floats
    gpus_per_trial = _gpus_per_trial(resources, gpus, explanation)
    fits = _fits_on_cpus(resources.cpus_per_trial, cpus, explanation)
    if gpus_per_trial > 0:
        fits = min(fits, _fits_on_gpus(gpus_per_trial, gpus, gpus_per_node, explanation))
    num_slots = fits
    if resources.max_concurrent != "auto":
        num_slots = min(fits, resources.max_concurrent)
        if resources.max_concurrent > fits:
            explanation.append(f"max_concurrent is {resources.max_concurrent}, but only {fits} fit")
        elif resources.max_concurrent < fits:
            explanation.append(f"max_concurrent limits them to {resources.max_concurrent}")
    explanation.append(f"{counted(num_slots, 'trial')} at once")
    return Slots(num_slots, resources.cpus_per_trial, gpus_per_trial, explanation)


def _gpus_per_trial(resources: ResourcesModel, gpus: int, explanation: list[str]) -> float:
    """Returns the GPUs of one trial, `auto` resolved."""
    asked, device = resources.gpus_per_trial, resources.device
    if device == "cuda" and gpus == 0:
        _refuse("resources.device", device, "there is no GPU here; valid: auto, cpu")
    if asked == "auto":
        if gpus == 0 or device == "cpu":
            explanation.append("no GPU here" if gpus == 0 else "device is cpu, so trials take no GPU")
            return 0.0
        return 1.0
    if asked == 0:
        if device == "cuda":
            _refuse(
                "resources.gpus_per_trial",
                asked,
                "device is cuda, which needs a share of a GPU; valid: auto, above 0",
            )
        if gpus > 0:
            explanation.append(f"gpus_per_trial is 0, which leaves {counted(gpus, 'GPU')} idle")
        return 0.0
    if gpus == 0:
        _refuse("resources.gpus_per_trial", asked, "there is no GPU here; valid: auto, 0")
    if device == "cpu":
        _refuse("resources.gpus_per_trial", asked, "device is cpu, which leaves it idle; valid: auto, 0")
    if asked > 1 and asked != int(asked):
        _refuse(
            "resources.gpus_per_trial",
            asked,
            f"a trial takes a part of one GPU or whole ones; valid: at most 1, or {int(asked)}, {int(asked) + 1}, ...",
        )
    return asked


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


def _fits_on_gpus(gpus_per_trial: float, gpus: int, gpus_per_node: int | None, explanation: list[str]) -> int:
    if gpus_per_trial < 1:
        return _fits_on_shared_gpus(gpus_per_trial, gpus, explanation)
    whole = int(gpus_per_trial)
    on_a_node = gpus if gpus_per_node is None else gpus_per_node
    if whole > min(on_a_node, gpus):
        _refuse(
            "resources.gpus_per_trial",
            gpus_per_trial,
            f"a trial runs on one machine, and each has {counted(min(on_a_node, gpus), 'GPU')}; "
            f"valid: at most {min(on_a_node, gpus):g}",
        )
    fits = gpus // on_a_node * (on_a_node // whole) + gpus % on_a_node // whole
    explanation.append(f"{counted(gpus, 'GPU')}, {whole} for each trial: room for {fits}")
    idle = gpus - fits * whole
    if idle:
        explanation.append(f"{counted(idle, 'GPU')} left idle")
    return fits


def _fits_on_shared_gpus(share: float, gpus: int, explanation: list[str]) -> int:
    """Returns how many trials fit where several share a GPU; one trial never spans two."""
    units = _units("resources.gpus_per_trial", share)
    on_each = _UNITS // units
    fits = gpus * on_each
    explanation.append(
        f"{counted(gpus, 'GPU')}, {share:g} for each trial: {on_each} on each GPU, room for {fits}"
    )
    unused = _UNITS - on_each * units
    if unused >= on_each:  # less is rounding: 3 times 0.3333
        explanation.append(
            f"{unused / _UNITS:g} of each GPU stays unused; "
            f"{_share(on_each)} or {_share(on_each + 1)} would use it fully"
        )
    return fits


def _share(trials: int) -> str:
    return f"{_UNITS // trials / _UNITS:g}"


def _units(path: str, amount: float) -> int:
    units = int(amount * _UNITS)
    if amount > 0 and units == 0:
        _refuse(path, amount, f"Ray cannot reserve so little; valid: at least {1 / _UNITS:g}")
    return units


def _refuse(path: str, value: object, message: str) -> NoReturn:
    raise JobError([Problem(path, value, message)])
