"""Applies `--set path=value` to the values of a job file."""

from collections.abc import Sequence

from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.job.elsewhere import unknown_key
from tune_jobs.job.plain_yaml import read_value
from tune_jobs.job.renamed import named_now, stored_keys
from tune_jobs.job.searched import is_known, unknown_parameter
from tune_jobs.job.space import PARAMETERS
from tune_jobs.job.spec import SECTIONS

_EXAMPLE = "expected path=value, as in train.epochs=3"


def apply_sets(values: dict[str, object], sets: Sequence[str]) -> list[Problem]:
    """Changes `values` in place and returns a problem for each change that cannot be made.

    A path names a key of the job or of one of its sections. Lists and parameters of the space, whose names may have
    dots, can only be replaced as a whole. Values are YAML.
    """
    problems: list[Problem] = []
    for text in sets:
        path, equals, value = text.partition("=")
        option = f"--set {path}"
        keys = _keys(path.strip())
        if not equals or not path.strip():
            problems.append(Problem("--set", text, _EXAMPLE))
            continue
        problem = _find_problem(option, keys, any_name=values.get("task") is not None)
        if problem:
            problems.append(problem)
            continue
        try:
            _put(values, stored_keys(keys), read_value(value, option))
        except JobError as error:
            problems += error.problems
    return problems


def _keys(path: str) -> tuple[str, ...]:
    """Returns the keys of a path; parameters of the space and arguments of the model are the last key."""
    section, dot, rest = path.partition(".")
    return (section, rest) if dot and section in ("space", "model") else tuple(path.split("."))


def _find_problem(option: str, keys: tuple[str, ...], *, any_name: bool) -> Problem | None:
    for depth, key in enumerate(keys):
        section = keys[:depth]
        if section == ("space",):
            parameter, dot, _ = key.partition(".")
            if dot and parameter in PARAMETERS:
                return Problem(
                    option,
                    NOTHING,
                    f"space.{parameter} has no keys; set all of it with space.{parameter}=...",
                )
            if not is_known(key, any_name=any_name):
                return Problem(option, NOTHING, unknown_parameter(key, any_name=any_name))
        elif section in (("model",), ("data", "arguments"), ("init", "trunk", "params")):
            continue  # any name
        elif section not in SECTIONS:
            path = ".".join(section)
            return Problem(option, NOTHING, f"{path} has no keys; set all of it with {path}=...")
        elif named_now(".".join((*section, key))).rpartition(".")[2] not in SECTIONS[section]:
            return Problem(option, NOTHING, unknown_key(key, section, SECTIONS[section]))
    return None


def _put(values: dict[str, object], keys: tuple[str, ...], value: object) -> None:
    """Sets the value at a path; a section that is not a mapping stays unchanged, to be reported later."""
    section: dict[str, object] = values
    for key in keys[:-1]:
        if section.get(key) is None:
            section[key] = {}
        inner = section[key]
        if not isinstance(inner, dict):
            return
        section = inner
    section[keys[-1]] = value
