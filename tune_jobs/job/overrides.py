"""Applies `--set path=value` to what a job file holds."""

from collections.abc import Sequence

from tune_jobs.errors import NOTHING, JobError, Problem, unknown
from tune_jobs.job.plain_yaml import read_value
from tune_jobs.job.spec import SECTIONS

_EXAMPLE = "expected path=value, as in train.epochs=3"


def apply_sets(values: dict[str, object], sets: Sequence[str]) -> list[Problem]:
    """Changes `values` in place and returns what cannot be applied.

    A path names a key of the job or of one of its sections; a parameter of the space, and a list, are set as a
    whole. Values are YAML.
    """
    problems: list[Problem] = []
    for text in sets:
        path, equals, given = text.partition("=")
        where = f"--set {path}"
        keys = tuple(path.strip().split("."))
        if not equals or not path.strip():
            problems.append(Problem("--set", text, _EXAMPLE))
            continue
        wrong = _find_problem(where, keys)
        if wrong:
            problems.append(wrong)
            continue
        try:
            _put(values, keys, read_value(given, where))
        except JobError as error:
            problems += error.problems
    return problems


def _find_problem(where: str, keys: tuple[str, ...]) -> Problem | None:
    """Returns why a path leads nowhere, or None if it is fine."""
    for depth, key in enumerate(keys):
        section = keys[:depth]
        if section not in SECTIONS:
            whole = ".".join(section)
            return Problem(where, NOTHING, f"{whole} has no parts; set it as a whole, {whole}=...")
        if key not in SECTIONS[section]:
            kind = "parameter" if section == ("space",) else "key"
            return Problem(where, NOTHING, unknown(kind, key, SECTIONS[section]))
    return None


def _put(values: dict[str, object], keys: tuple[str, ...], value: object) -> None:
    """Puts a value in its place; a section that is not a mapping stays as it is, to be reported later."""
    inside: object = values
    for key in keys[:-1]:
        assert isinstance(inside, dict)
        inside = inside.setdefault(key, {})
        if not isinstance(inside, dict):
            return
    assert isinstance(inside, dict)
    inside[keys[-1]] = value
