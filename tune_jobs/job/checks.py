"""Finds every problem of a job at once: each section's own, and those between sections and with the tables."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import TypeGuard

from pydantic import ValidationError

from tune_jobs.errors import NOTHING, Problem, show_path, unknown
from tune_jobs.job.explain import explain
from tune_jobs.job.space import (
    PARAMETERS,
    Choice,
    Distribution,
    LogUniform,
    Uniform,
    bounds,
    contains,
    describe,
    grid_size,
)
from tune_jobs.job.spec import SECTIONS, JobSpec
from tune_jobs.wording import counted

_Place = tuple[int | str, ...]

# Samplers that look at no results: what they suggest depends on the number of the trial only.
_BLIND = ("random", "grid")

# Stands in for what is missing or wrong, so that the rest can be checked; never part of a job that runs.
_PLACEHOLDERS: Mapping[str, object] = {
    "name": "job",
    "data": {},
    "architectures": ["-"],
    "methods": ["base"],
    "space": {},
    "search": {"num_trials": 1},
}


@dataclass(frozen=True)
class _Given:
    """What is checked: the raw values, and the job with what pydantic refused left out."""

    values: Mapping[str, object]
    job: JobSpec


def check_job(values: Mapping[str, object]) -> tuple[JobSpec | None, list[Problem]]:
    """Returns the resolved job and no problems, or None and every problem of the job.

    Args:
        values: What a job file holds, as plain data.
    """
    try:
        job = JobSpec.model_validate(values)
        refused: set[_Place] = set()
        problems: list[Problem] = []
    except ValidationError as error:
        refused = {details["loc"][:2] for details in error.errors(include_url=False)}
        problems = explain(error, values)
        job = JobSpec.model_validate(_without(values, refused))
    for needs, check in _CHECKS:
        if not any(_overlap(need, place) for need in needs for place in refused):
            problems += check(_Given(values, job))
    problems.sort(key=_section_order)
    return (None if problems else job), problems


def _section_order(problem: Problem) -> int:
    section = re.split(r"[.\[]", problem.path, maxsplit=1)[0]
    return SECTIONS[()].index(section) if section in SECTIONS[()] else len(SECTIONS[()])


def _overlap(one: _Place, other: _Place) -> bool:
    """Returns whether one place lies inside the other."""
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _without(values: Mapping[str, object], refused: set[_Place]) -> dict[str, object]:
    """Returns the job with everything that pydantic refused left out, or replaced where it is required."""
    kept = dict(_PLACEHOLDERS)
    for section, value in values.items():
        if section not in JobSpec.model_fields or (section,) in refused:
            continue
        if isinstance(value, Mapping):
            right = {key: item for key, item in value.items() if (section, key) not in refused}
            required = _PLACEHOLDERS.get(section, {})
            assert isinstance(required, dict)
            kept[section] = required | right
        elif not any(_overlap((section,), place) for place in refused):
            kept[section] = value
    return kept


def _check_dataset(given: _Given) -> Iterator[Problem]:
    from zsharp.data import DATASETS

    if given.job.data.name not in DATASETS:
        yield Problem("data.name", given.job.data.name, unknown("data set", given.job.data.name, DATASETS))


def _check_architectures(given: _Given) -> Iterator[Problem]:
    from zsharp.models import ARCHITECTURES

    yield from _check_names("architectures", "architecture", given.values.get("architectures"), ARCHITECTURES)


def _check_methods(given: _Given) -> Iterator[Problem]:
    from zsharp.optim.methods import METHODS

    yield from _check_names("methods", "method", given.values.get("methods"), METHODS)


def _check_names(section: str, kind: str, names: object, valid: Mapping[str, object]) -> Iterator[Problem]:
    if not isinstance(names, list | tuple):
        return
    for index, name in enumerate(names):
        if not isinstance(name, str):
            continue  # pydantic has said so
        path = show_path((section, index))
        if name not in valid:
            yield Problem(path, name, unknown(kind, name, valid))
        elif name in names[:index]:
            yield Problem(path, name, "listed twice, which would make two studies of one name; remove one")


def _check_space(given: _Given) -> Iterator[Problem]:
    for name, distribution in given.job.space.items():
        if name not in PARAMETERS:
            yield Problem(show_path(("space", name)), NOTHING, unknown("parameter", name, PARAMETERS))
            continue
        parameter = PARAMETERS[name]
        for keys, value in bounds(distribution):
            if not parameter.is_valid(value):
                yield Problem(
                    show_path(("space", name, *keys)),
                    value,
                    f"{name} ({parameter.summary}) must be {parameter.valid}",
                )


def _check_momentum(given: _Given) -> Iterator[Problem]:
    if "momentum" in given.job.space and given.job.train.base_optimizer != "sgd":
        yield Problem(
            "space.momentum",
            NOTHING,
            f"train.base_optimizer is {given.job.train.base_optimizer}, and only sgd has a momentum; remove one",
        )


def _check_something_to_search(given: _Given) -> Iterator[Problem]:
    from zsharp.optim.methods import METHODS

    search = given.job.search
    if (
        search.num_configurations <= 1
        or search.sampler == "grid"
        or not set(given.job.methods) <= set(METHODS)
    ):
        return
    methods = {study.method for study in given.job.studies() if not study.parameters}
    for method in (method for method in given.job.methods if method in methods):
        yield Problem(
            "space",
            NOTHING,
            f"nothing to search for method {method}: its {given.job.search.num_trials} trials would all be the same; "
            "give one of its parameters a range, or set search.num_trials to 1",
        )


def _check_repeats(given: _Given) -> Iterator[Problem]:
    search = given.job.search
    settings = {"seeds above 1": search.seeds > 1, "shared_configurations": search.shared_configurations}
    for setting in [name for name, is_given in settings.items() if is_given]:
        if search.sampler not in _BLIND:
            yield Problem(
                "search.sampler",
                search.sampler,
                f"suggests by results, which does not go with search.{setting}; valid: {', '.join(_BLIND)}",
            )
    if search.num_trials % search.seeds:
        yield Problem(
            "search.num_trials",
            search.num_trials,
            f"must be a multiple of search.seeds, which is {search.seeds}",
        )
    if search.first_points and (search.seeds > 1 or search.sampler == "grid"):
        yield Problem(
            "search.first_points", NOTHING, "not with search.seeds above 1 or the grid sampler; remove them"
        )


def _check_grid(given: _Given) -> Iterator[Problem]:
    from zsharp.optim.methods import METHODS

    job = given.job
    if job.search.sampler != "grid" or not set(job.methods) <= set(METHODS):
        return
    ranges = [name for name, drawn in job.space.items() if isinstance(drawn, Uniform | LogUniform)]
    for name in ranges:
        yield Problem(
            show_path(("space", name)),
            NOTHING,
            "the grid sampler needs {choice: [number, ...]} or a plain number",
        )
    for study in () if ranges else job.studies()[: len(job.methods)]:
        drawn = [job.space[name] for name in study.parameters]
        size = grid_size([choice for choice in drawn if isinstance(choice, Choice)])
        if size * job.search.seeds != job.search.num_trials:
            yield Problem(
                "search.num_trials",
                job.search.num_trials,
                f"the grid of method {study.method} has {counted(size, 'point')}, which with search.seeds = "
                f"{job.search.seeds} makes {counted(size * job.search.seeds, 'trial')}",
            )


def _check_first_points(given: _Given) -> Iterator[Problem]:
    space = _inside(given.values, "space")
    if not isinstance(space, Mapping):
        return
    points = _inside(given.values, "search", "first_points")
    for index, point in enumerate(points if isinstance(points, list | tuple) else ()):
        for name, value in point.items() if isinstance(point, Mapping) else ():
            path = show_path(("search", "first_points", index, name))
            distribution = given.job.space.get(name)
            if name not in space:
                named = [parameter for parameter in space if parameter in PARAMETERS]
                yield Problem(path, NOTHING, f"not in this job's space; {unknown('parameter', name, named)}")
            elif not _is_number(value) or name not in PARAMETERS:
                continue  # reported already
            elif not PARAMETERS[name].is_valid(value):
                yield Problem(path, value, f"{name} must be {PARAMETERS[name].valid}")
            elif (
                distribution is not None
                and _is_sound(name, distribution)
                and not contains(distribution, value)
            ):
                yield Problem(path, value, f"the space has {name} {describe(distribution)}")


def _is_sound(name: str, distribution: Distribution) -> bool:
    return all(PARAMETERS[name].is_valid(value) for _, value in bounds(distribution))


def _is_number(value: object) -> TypeGuard[int | float]:
    """Returns whether pydantic takes it for a finite number; if not, it has said so."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < inf


def _check_warmup(given: _Given) -> Iterator[Problem]:
    if given.job.train.warmup_epochs > given.job.train.epochs:
        yield Problem(
            "train.warmup_epochs",
            given.job.train.warmup_epochs,
            f"must be at most train.epochs, which is {given.job.train.epochs}",
        )


def _check_grace(given: _Given) -> Iterator[Problem]:
    if given.job.grace_epochs > given.job.train.epochs:
        yield Problem(
            "asha.grace_epochs",
            given.job.grace_epochs,
            f"must be at most train.epochs, which is {given.job.train.epochs}",
        )


def _check_gpus(given: _Given) -> Iterator[Problem]:
    gpus = given.job.resources.gpus_per_trial
    if gpus != "auto" and gpus > 1:
        yield Problem(
            "resources.gpus_per_trial",
            gpus,
            "a trial trains on one GPU and would leave the others idle; valid: auto, or a number from 0 to 1",
        )


def _inside(values: Mapping[str, object], *keys: str) -> object:
    value: object = values
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


# Each check, and the places that must be right for it to make sense.
_CHECKS: tuple[tuple[tuple[_Place, ...], Callable[[_Given], Iterator[Problem]]], ...] = (
    ((("data", "name"),), _check_dataset),
    ((), _check_architectures),
    ((), _check_methods),
    ((), _check_space),
    ((("space",), ("train", "base_optimizer")), _check_momentum),
    (
        (("methods",), ("space",), *(("search", name) for name in ("num_trials", "seeds", "sampler"))),
        _check_something_to_search,
    ),
    ((("search",),), _check_repeats),
    ((("methods",), ("space",), ("search",)), _check_grid),
    ((), _check_first_points),
    ((("train", "epochs"), ("train", "warmup_epochs")), _check_warmup),
    ((("train", "epochs"), ("asha", "grace_epochs")), _check_grace),
    ((("resources", "gpus_per_trial"),), _check_gpus),
)
