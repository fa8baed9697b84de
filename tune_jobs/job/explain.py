"""Rewrites pydantic's errors about a job in plain words: the path, the given value, and what is valid."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tune_jobs.errors import NOTHING, Problem, show_path, unknown
from tune_jobs.job.elsewhere import unknown_key
from tune_jobs.job.space import KINDS
from tune_jobs.job.spec import SECTIONS
from tune_jobs.wording import counted
from zsharp.names import did_you_mean

Context = Mapping[str, Any]


def explain(error: ValidationError, values: object) -> Iterator[Problem]:
    """Yields one problem for each thing that pydantic refused in `values`."""
    return (_explain(details, values) for details in error.errors(include_url=False))


def _explain(details: ErrorDetails, values: object) -> Problem:
    kind, keys = details["type"], _keys(details)
    path, value = show_path(keys) or "the job", _value_at(values, keys)
    if kind == "missing":
        if keys and isinstance(keys[-1], int):  # a list that is too short
            return Problem(show_path(keys[:-1]), _value_at(values, keys[:-1]), _TWO_NUMBERS)
        example = f", as in `{path}: {_EXAMPLES[path]}`" if path in _EXAMPLES else ""
        return Problem(path, NOTHING, f"missing; every job needs it{example}")
    if kind == "extra_forbidden":
        section = tuple(str(key) for key in keys[:-1])
        return Problem(
            path, NOTHING, unknown_key(str(keys[-1]), section, tuple(SECTIONS.get(section, KINDS)))
        )
    if (
        kind == "distribution"
        and isinstance(value, Mapping)
        and len(value) == 1
        and not set(value) & set(KINDS)
    ):
        return Problem(path, value, unknown("distribution", str(*value), KINDS))
    if path == "search.sampler" and value in _SAMPLERS_GONE:
        return Problem(path, value, _SAMPLER_GONE)
    if kind == "literal_error":
        return Problem(path, value, _one_of(re.findall(r"'([^']*)'", details["ctx"]["expected"]), value))
    if kind in ("model_type", "dict_type"):
        valid = SECTIONS.get(tuple(str(key) for key in keys))
        among = f" with keys among {', '.join(valid)}" if valid else ""
        return Problem(path, value, f"expected lines of `key: value`{among}")
    say = _WORDS.get(kind)
    return Problem(path, value, say(details.get("ctx", {})) if say else details["msg"])


def _keys(details: ErrorDetails) -> tuple[int | str, ...]:
    """Returns the keys that lead to the value in the job file, without what pydantic adds to them."""
    keys = tuple(key for key in details["loc"] if key != "[key]")
    # In the space, the third entry names the member of the union: ("space", "rho", "uniform", "uniform", 1).
    return (*keys[:2], *keys[3:]) if keys[:1] == ("space",) else keys


def _value_at(values: object, keys: tuple[int | str, ...]) -> object:
    for key in keys:
        try:
            values = values[key]  # type: ignore[index]
        except (LookupError, TypeError):
            return NOTHING
    return values


def _one_of(choices: list[str], value: object) -> str:
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"{hint}valid: {', '.join(choices)}"


_SAMPLERS_GONE = ("cmaes", "qmc")  # version 0.1 had them
_SAMPLER_GONE = (
    "this version no longer has that sampler; use tpe or gp in a new search. A finished search that used it can still "
    "be exported and compared, but not resumed or extended"
)
_EXAMPLES = {
    "name": "my_search",
    "methods": "[zsharp, sam, base]",
    "space": "{lr: {loguniform: [1.0e-4, 1.0e-1]}}",
    "search": "{num_trials: 16}",
    "search.num_trials": "16",
}
_TWO_NUMBERS = "expected exactly two numbers, [low, high]"

_WORDS: Mapping[str, Callable[[Context], str]] = {
    "int_type": lambda _: "expected a whole number",
    "float_type": lambda _: "expected a number",
    "string_type": lambda _: "expected text; put numbers and true or false in quotes to make them text",
    "bool_type": lambda _: "expected true or false",
    "tuple_type": lambda _: "expected a list, as in [a, b]",
    "finite_number": lambda _: "expected a finite number",
    "greater_than": lambda ctx: f"must be above {ctx['gt']:g}",
    "greater_than_equal": lambda ctx: f"must be at least {ctx['ge']:g}",
    "less_than": lambda ctx: f"must be below {ctx['lt']:g}",
    "less_than_equal": lambda ctx: f"must be at most {ctx['le']}",
    "too_short": lambda ctx: f"expected at least {counted(ctx['min_length'], 'item')}",
    "too_long": lambda _: _TWO_NUMBERS,  # only ranges have a maximum length
    "string_too_short": lambda _: "expected text that is not empty",
    "string_too_long": lambda ctx: f"expected at most {ctx['max_length']} characters",
    "string_pattern_mismatch": lambda _: (  # only the job's name has a pattern
        "expected a folder name: letters, digits and . _ -, starting with a letter or digit, no two dots in a row"
    ),
}
