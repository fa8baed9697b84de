"""Reads how settings are declared: type, range and meaning of each field of a dataclass.

A field is declared as `rho: Annotated[float, Ge(0), "radius of the perturbation"]`. Checks, job files and listings all
read that one declaration.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

from zsharp.names import did_you_mean


@dataclass(frozen=True)
class Setting:
    """One field as it is declared."""

    name: str
    kind: type  # its type, without the None that it may be; `str` where there are choices, `tuple` of texts, `Mapping`
    summary: str = ""  # what it means, in one line
    choices: tuple[str, ...] = ()  # the valid names; empty where it is not a choice
    is_optional: bool = False  # whether None is valid
    low: float = -math.inf  # lower end of its range
    high: float = math.inf  # upper end of its range
    includes_low: bool = False  # whether the lower end is itself valid
    includes_high: bool = False  # whether the upper end is itself valid
    min_length: int = 0  # least number of characters of a text

    def is_valid(self, value: object) -> bool:
        """Returns whether the value has the right type and lies in the range; infinities and NaN never do."""
        if value is None:
            return self.is_optional
        if self.choices:
            return value in self.choices
        if self.kind is bool:
            return isinstance(value, bool)
        if self.kind in (int, float):
            return self._is_in_range(value)
        if self.kind is tuple:
            return isinstance(value, tuple | list) and all(isinstance(item, str) for item in value)
        if self.kind is Mapping:
            return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        return not isinstance(value, str) or len(value) >= self.min_length

    def _is_in_range(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
            return False
        above = self.low <= value if self.includes_low else self.low < value
        below = value <= self.high if self.includes_high else value < self.high
        return above and below

    @property
    def valid(self) -> str:
        """What is valid in words, such as `at least 0 and below 1`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is bool:
            return "true or false"
        low = f"{'at least' if self.includes_low else 'above'} {_show(self.low)}"
        high = f" and {'at most' if self.includes_high else 'below'} {_show(self.high)}"
        kind = "a whole number, " if self.kind is int else ""
        return kind + low + ("" if math.isinf(self.high) else high)

    def check(self, value: object, where: str | None = None) -> None:
        """Raises ValueError if the value is not valid: where, what was given, what is valid."""
        if not self.is_valid(value):
            raise ValueError(
                f"{where or self.name} is {value!r}; {did_you_mean(str(value), self.choices)}valid: {self._formula()}"
            )

    def _formula(self) -> str:
        if self.choices:
            return ", ".join(self.choices)
        if self.kind is bool:
            return "True, False"
        if self.kind is tuple:
            return "a list of texts"
        if self.kind is Mapping:
            return "values by name"
        if self.kind is str:
            return f"at least {self.min_length} characters"
        kind = "whole numbers, " if self.kind is int else ""
        low, high = "<=" if self.includes_low else "<", "<=" if self.includes_high else "<"
        return f"{kind}{_show(self.low)} {low} {self.name} {high} {_show(self.high)}"


def _show(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


@lru_cache
def settings_of(declaration: type) -> Mapping[str, Setting]:
    """Returns the settings that a dataclass declares, by name; fields that are dataclasses themselves are left out."""
    hints = get_type_hints(declaration, include_extras=True)
    settings = [_read(field.name, hints[field.name]) for field in fields(declaration)]
    return MappingProxyType({setting.name: setting for setting in settings if not is_dataclass(setting.kind)})


def check_settings(values: Any, where: str) -> None:
    """Checks every field of a dataclass, and of the dataclasses within it.

    Args:
        where: What goes before a field's name in messages, such as `train.`.

    Raises:
        ValueError: At the first field that is not valid.
    """
    declaration: type = type(values)
    settings = settings_of(declaration)
    for field in fields(values):
        value = getattr(values, field.name)
        if field.name in settings:
            settings[field.name].check(value, where + field.name)
        else:
            check_settings(value, f"{where}{field.name}.")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each value of nested mappings with its path, such as `train.augment.flip`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _read(name: str, hint: Any) -> Setting:
    notes: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        notes = tuple(rest)
    members = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = [member for member in members if member is not NoneType]
    assert len(kinds) == 1, f"{name}: a setting has one type, and may be None"
    facts: dict[str, Any] = {"kind": get_origin(kinds[0]) or kinds[0], "is_optional": NoneType in members}
    if get_origin(kinds[0]) is Literal:
        facts |= {"kind": str, "choices": get_args(kinds[0])}
    for note in notes:
        match note:
            case str():
                facts["summary"] = note
            case Ge(ge=low):
                facts |= {"low": low, "includes_low": True}
            case Gt(gt=low):
                facts |= {"low": low}
            case Le(le=high):
                facts |= {"high": high, "includes_high": True}
            case Lt(lt=high):
                facts |= {"high": high}
            case MinLen(min_length=length):
                facts["min_length"] = length
            case _:
                raise AssertionError(f"{name}: {note!r} is not a constraint that settings know")
    return Setting(name, **facts)
