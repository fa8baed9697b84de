"""Settings with two names: the one that says what it is, and the earlier one, under which searches store it."""

from collections.abc import Mapping
from typing import Any

from tune_jobs.errors import Problem

RENAMED: Mapping[tuple[str, str], str] = {("search", "sampler_seed"): "seed", ("search", "repeats"): "seeds"}
"""The stored name of each setting, by its section and its name in job files.

`search.seed` was taken for the seed of training (`train.seed`), and `search.seeds` for the fresh seeds of `confirm`.
"""


def to_stored_names(values: dict[str, Any]) -> list[Problem]:
    """Gives a job's settings their stored names, in place; returns a problem for each that has both."""
    problems = []
    for (section, name), stored in RENAMED.items():
        inner = values.get(section)
        if isinstance(inner, Mapping) and name in inner:
            if stored in inner:
                text = f"it is the same setting as {section}.{stored}; remove one"
                problems.append(Problem(f"{section}.{name}", inner[name], text))
            values[section] = {
                stored if key == name else key: value for key, value in inner.items() if key != stored
            }
    return problems


def named_now(path: str) -> str:
    """Returns the path of a setting with the name that messages use: `search.repeats` for `search.seeds`."""
    section, _, key = path.partition(".")
    return next(
        (f"{section}.{name}" for (of, name), stored in RENAMED.items() if (of, stored) == (section, key)),
        path,
    )


def stored_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the keys of a setting with its stored name."""
    if len(keys) == 2 and (stored := RENAMED.get((keys[0], keys[1]))):
        return keys[0], stored
    return keys
