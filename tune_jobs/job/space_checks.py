"""Finds what is wrong with a search space: names, values, conditions, and points that it does not have."""

from collections.abc import Iterator, Mapping
from math import inf
from typing import TypeGuard

from tune_jobs.errors import NOTHING, Problem, show, show_path, unknown
from tune_jobs.job.searched import (
    MODEL,
    is_known,
    model_argument,
    named_settings,
    unknown_parameter,
)
from tune_jobs.job.space import (
    PARAMETERS,
    Choice,
    Distribution,
    Int,
    LogUniform,
    Uniform,
    Value,
    bounds,
    choices_of,
    condition,
    contains,
    describe,
    in_order,
    is_among,
    show_value,
)
from tune_jobs.job.spec import JobSpec
from zsharp.names import did_you_mean
from zsharp.settings import Setting

_BASE_OPTIMIZER = "train.base_optimizer"

# What every task is passed, by the setting it is from.
_PASSED: Mapping[str, str] = {
    "batch_size": "train.batch_size",
    "device": "resources.device",
    "epochs": "train.epochs",
    "seed": "train.seed",
}


def check_space(job: JobSpec) -> Iterator[Problem]:
    """Yields problems of names and values, each against the declaration of its setting."""
    for name, distribution in job.space.items():
        path = show_path(("space", name))
        if not is_known(name, any_name=job.takes_any_name):
            yield Problem(path, NOTHING, unknown_parameter(name, any_name=job.takes_any_name))
            continue
        if job.task is not None and (setting_of := _PASSED.get(name.removeprefix(MODEL))):
            yield Problem(path, NOTHING, _passed(setting_of))
        if (twin := _twin(name, job)) in job.space:
            yield Problem(path, NOTHING, f"{twin} is the same setting; remove one")
        if (setting := named_settings().get(name)) is not None:
            yield from _check_values(name, setting, distribution)
        if name == "train.warmup_epochs":
            yield from _check_warmup(job, distribution)
    for argument in job.model:
        if job.task is not None and argument in _PASSED:
            yield Problem(show_path(("model", argument)), NOTHING, _passed(_PASSED[argument]))


def _passed(setting: str) -> str:
    return f"every task is passed {setting} under this name; write {setting}"


def _twin(name: str, job: JobSpec) -> str | None:
    """Returns the other name that a space can give the same setting."""
    if model_argument(name, any_name=job.takes_any_name):
        return name.removeprefix(MODEL) if name.startswith(MODEL) else None
    own = name.removeprefix("train.")
    return own if own != name and own in PARAMETERS else None


def _check_values(name: str, setting: Setting, distribution: Distribution) -> Iterator[Problem]:
    is_name = setting.kind not in (int, float)
    is_range = isinstance(distribution, Uniform | LogUniform)
    if is_name and (is_range or isinstance(distribution, Int)):
        text = f"it is {setting.valid}; expected {{choice: [value, ...]}} or one of them, which fixes it"
        yield Problem(show_path(("space", name)), NOTHING, text)
    elif setting.kind is int and is_range:
        text = "it is a whole number; expected {int: [low, high]}, {choice: [number, ...]} or one number"
        yield Problem(show_path(("space", name)), NOTHING, text)
    else:
        for keys, value in bounds(distribution):
            if not setting.is_valid(value):
                text = f"{name} ({setting.summary}) must be {setting.valid}"
                yield Problem(show_path(("space", name, *keys)), value, _not_text(setting, value) + text)


def _not_text(setting: Setting, value: Value) -> str:
    is_number = setting.kind in (int, float)
    return "expected a number; " if is_number and isinstance(value, bool | str) else ""


def _check_warmup(job: JobSpec, distribution: Distribution) -> Iterator[Problem]:
    for keys, value in bounds(distribution):
        if not isinstance(value, str) and value > job.train.epochs:
            text = f"must be at most train.epochs, which is {job.train.epochs}"
            yield Problem(show_path(("space", "train.warmup_epochs", *keys)), value, text)


def check_conditions(job: JobSpec, space: Mapping[object, object]) -> Iterator[Problem]:
    """Yields problems of conditions.

    Args:
        job: Without the parameters that could not be read.
        space: The space as the job file has it, with those.
    """
    for name, distribution in job.space.items():
        for other, values in condition(distribution).items():
            path = show_path(("space", name, "when", other))
            if other not in job.space:
                if other not in space and job.setting(other) is None:
                    valid = f"valid: {', '.join(job.space)}, and any number or name of train"
                    hint = did_you_mean(other, [*job.space, *named_settings()])
                    text = f"unknown parameter {show(other)}; {hint}{valid}"
                    yield Problem(path, NOTHING, text)
                continue
            if not (choices := choices_of(job.space[other])):
                text = f"{other} is {describe(job.space[other])}; only a {{choice: [...]}} can be a condition"
                yield Problem(path, NOTHING, text)
            elif isinstance(job.space[other], Choice):
                for value in values:
                    if not is_among(value, choices):
                        yield Problem(path, value, f"the space has {other} {describe(job.space[other])}")
    if circle := circular(job):
        text = f"conditions go round in a circle: {', '.join(circle)}"
        yield Problem(show_path(("space", circle[0], "when")), NOTHING, text)


def circular(job: JobSpec) -> list[str]:
    """Returns parameters that wait for one another; empty if every one can be drawn."""
    try:
        in_order(job.space, job.space)
    except ValueError as error:
        return list(error.args[0])
    return []


def check_momentum(job: JobSpec) -> Iterator[Problem]:
    """Yields a problem if trials of the space have a momentum and a base optimizer without one."""
    if "momentum" not in job.space:
        return
    is_searched = _BASE_OPTIMIZER in job.space
    optimizers = job.possible(_BASE_OPTIMIZER)
    drawn_with = condition(job.space["momentum"]).get(_BASE_OPTIMIZER, optimizers)
    others = [show_value(other) for other in optimizers if other in drawn_with and other != "sgd"]
    if others:
        can_be, advice = ("is", "remove one")
        if is_searched:
            can_be, advice = ("can be", f"add when: {{{_BASE_OPTIMIZER}: sgd}} to it")
        text = f"{_BASE_OPTIMIZER} {can_be} {' or '.join(others)}, and only sgd has a momentum; {advice}"
        yield Problem("space.momentum", NOTHING, text)


def check_points(
    job: JobSpec, space: Mapping[object, object], points: list[object] | tuple[object, ...]
) -> Iterator[Problem]:
    """Yields problems of first points, as the job file has them."""
    for index, point in enumerate(points):
        if not isinstance(point, Mapping):
            continue
        for name, value in point.items():
            path = show_path(("search", "first_points", index, name))
            distribution = job.space.get(name)
            if name not in space:
                text = f"not in this job's space; {unknown('parameter', name, _known(job, space))}"
                yield Problem(path, NOTHING, text)
            elif not is_value(value) or not is_known(name, any_name=job.takes_any_name):
                continue  # reported already
            elif (setting := named_settings().get(name)) is not None and not setting.is_valid(value):
                text = f"{_not_text(setting, value)}{name} must be {setting.valid}"
                yield Problem(path, value, text)
            elif (
                distribution is not None
                and not any(_check_values(name, setting, distribution) if setting else ())
                and not contains(distribution, value)
            ):
                yield Problem(path, value, f"the space has {name} {describe(distribution)}")


def _known(job: JobSpec, space: Mapping[object, object]) -> list[str]:
    return [name for name in space if isinstance(name, str) and is_known(name, any_name=job.takes_any_name)]


def is_value(value: object) -> TypeGuard[Value]:
    """Returns whether pydantic accepts it as a parameter's value; if not, pydantic has reported it."""
    if isinstance(value, bool | str):
        return value != ""
    return isinstance(value, int | float) and abs(value) < inf
