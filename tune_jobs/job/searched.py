"""Which settings a search space can name: what each one is, and what a trial's value of it is."""

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from tune_jobs.errors import show, unknown
from tune_jobs.job.space import PARAMETERS, Value
from zsharp.data.augmentation import AugmentSpec
from zsharp.names import did_you_mean
from zsharp.settings import Setting, settings_of
from zsharp.training.spec import DataSpec, TrainSpec

MODEL = "model."
_REASONS = {
    "train.epochs": "the length of trials is what early stopping shortens; set it in train",
    "train.seed": "trials that differ in nothing else cannot be told apart; use search.repeats",
}
_OF_DATA = ("image_size",)


@lru_cache
def named_settings() -> Mapping[str, Setting]:
    """Returns the settings that a space can name, by name, but for arguments of models and tasks."""
    declared = {
        "train.": settings_of(TrainSpec),
        "train.augment.": settings_of(AugmentSpec),
        "data.": {name: row for name, row in settings_of(DataSpec).items() if name in _OF_DATA},
    }
    return MappingProxyType(
        dict(PARAMETERS)
        | {
            prefix + name: setting
            for prefix, settings in declared.items()
            for name, setting in settings.items()
            if why_not_searched(prefix + name) is None
        }
    )


def why_not_searched(name: str) -> str | None:
    """Returns why a setting that exists cannot be searched; None if it can, or there is none of this name."""
    if name in _REASONS:
        return f"cannot be searched: {_REASONS[name]}"
    section, _, key = name.partition(".")
    setting = settings_of(TrainSpec).get(key) if section == "train" else None
    if section == "data" and key in settings_of(DataSpec) and key not in _OF_DATA:
        return "cannot be searched: all trials of a search have the same data"
    if setting is not None and not is_searchable(setting):
        return "cannot be searched: only numbers, names, true and false can"
    return None


def is_searchable(setting: Setting) -> bool:
    """Returns whether a setting is a number, one of a few names, or true or false."""
    return setting.kind in (int, float, bool) or bool(setting.choices)


def model_argument(name: str, *, any_name: bool) -> str | None:
    """Returns which argument of the model or task a parameter is; None if it is a setting of ours.

    Args:
        name: As the space names it: `model.dropout`, and of a task of the user's own also `depth`.
        any_name: Whether the job has such a task.
    """
    argument = name.removeprefix(MODEL) if name.startswith(MODEL) else name
    if argument == name and (not any_name or name in PARAMETERS):
        return None
    return argument if re.fullmatch(r"[^\W\d]\w*", argument) else None


def is_known(name: str, *, any_name: bool) -> bool:
    """Returns whether a space can name this parameter."""
    return name in named_settings() or model_argument(name, any_name=any_name) is not None


def unknown_parameter(name: str, *, any_name: bool) -> str:
    """Returns a message about a name that no space can have: what is meant, or what is valid."""
    if reason := why_not_searched(name):
        return reason
    valid = named_settings()
    for prefix in ("train.augment.", "train."):
        if name.startswith(prefix):
            return unknown("parameter", name, [other for other in valid if other.startswith(prefix)])
    more = "any number or name of train as train.NAME, arguments of the model as model.NAME"
    if any_name:
        more += ", any other name for an argument of the task"
    meant = "did you mean lr? " if name.endswith("learning_rate") else did_you_mean(name, valid)
    return f"unknown parameter {show(name)}; {meant}valid: {', '.join(PARAMETERS)}; {more}"


def converted(name: str, value: Value) -> Value:
    """Returns a value in the type of its setting: numbers of ours that may be fractions are floats."""
    setting = named_settings().get(name)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if setting is not None and setting.kind is float and is_number else value
