"""How each parameter of the search space is drawn."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from zsharp.parameters import PARAMETERS as PARAMETERS
from zsharp.parameters import SHARED_PARAMETERS as SHARED_PARAMETERS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


Number = Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0)]


def _check_order(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    if not low < high:
        raise PydanticCustomError("order", "the low bound must be below the high one")
    return ends


def _check_distinct(choices: tuple[float, ...]) -> tuple[float, ...]:
    twice = [choice for choice, count in Counter(choices).items() if count > 1]
    if twice:
        raise PydanticCustomError("distinct", f"{twice[0]:g} is listed twice")
    return choices


class _Distribution(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Uniform(_Distribution):
    """Any number between two bounds, all equally likely."""

    uniform: Annotated[tuple[Number, Number], AfterValidator(_check_order)]


class LogUniform(_Distribution):
    """Any number between two bounds, all orders of magnitude equally likely."""

    loguniform: Annotated[tuple[Positive, Positive], AfterValidator(_check_order)]


class Choice(_Distribution):
    """One of a few numbers."""

    choice: Annotated[tuple[Number, ...], Field(min_length=1), AfterValidator(_check_distinct)]


KINDS = ("uniform", "loguniform", "choice")


def _kind(value: Any) -> Literal["uniform", "loguniform", "choice", "fixed"] | None:
    """Returns which member of the union a raw or parsed value is meant to be; None if it cannot be told."""
    match value:
        case {"uniform": _, **rest} if not rest:
            return "uniform"
        case {"loguniform": _, **rest} if not rest:
            return "loguniform"
        case {"choice": _, **rest} if not rest:
            return "choice"
        case Uniform():
            return "uniform"
        case LogUniform():
            return "loguniform"
        case Choice():
            return "choice"
        case int() | float() if not isinstance(value, bool):
            return "fixed"
    return None


Distribution = Annotated[
    Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[float, Field(strict=True, allow_inf_nan=False), Tag("fixed")],
    Discriminator(
        _kind,
        custom_error_type="distribution",
        custom_error_message="expected {uniform: [low, high]}, {loguniform: [low, high]}, "
        "{choice: [number, ...]} or a plain number, which fixes the parameter",
    ),
]
"""How one parameter is drawn; a plain number fixes it."""


def fixed_value(distribution: Distribution) -> float | None:
    """Returns the only value that can be drawn; None if there are several, which makes it a search."""
    match distribution:
        case float():
            return distribution
        case Choice(choice=(value,)):
            return value
    return None


def example_value(distribution: Distribution) -> Any:
    """Returns a value that can be drawn: the middle of a range (of its logarithms for `loguniform`), or the first."""
    match distribution:
        case Uniform(uniform=(low, high)):
            return (low + high) / 2
        case LogUniform(loguniform=(low, high)):
            return math.sqrt(low * high)
        case Choice(choice=choices):
            return choices[0]
    return distribution


def grid_size(choices: Sequence[Choice]) -> int:
    """Returns how many combinations of the choices there are: 1 of none."""
    return math.prod(len(choice.choice) for choice in choices)


def grid_point(choices: Mapping[str, Choice], number: int) -> dict[str, float]:
    """Returns combination `number` of the choices, counted from 0; the last parameter changes fastest."""
    point: dict[str, float] = {}
    for name in reversed(list(choices)):
        number, index = divmod(number, len(choices[name].choice))
        point[name] = choices[name].choice[index]
    return {name: point[name] for name in choices}


def contains(distribution: Distribution, value: float) -> bool:
    """Returns whether the value could be drawn; both bounds count as inside."""
    match distribution:
        case Uniform(uniform=(low, high)) | LogUniform(loguniform=(low, high)):
            return low <= value <= high
        case Choice(choice=choices):
            return value in choices
    return value == distribution


def describe(distribution: Distribution) -> str:
    """Describes the values that can be drawn, for messages."""
    match distribution:
        case Uniform(uniform=(low, high)) | LogUniform(loguniform=(low, high)):
            return f"between {low:g} and {high:g}"
        case Choice(choice=choices):
            return f"one of {', '.join(f'{value:g}' for value in choices)}"
    return f"fixed at {distribution:g}"


def bounds(distribution: Distribution) -> list[tuple[tuple[str | int, ...], float]]:
    """Returns the numbers in a distribution's definition, each with its keys below the parameter."""
    match distribution:
        case Uniform(uniform=values):
            return [(("uniform", index), value) for index, value in enumerate(values)]
        case LogUniform(loguniform=values):
            return [(("loguniform", index), value) for index, value in enumerate(values)]
        case Choice(choice=choices):
            return [(("choice", index), value) for index, value in enumerate(choices)]
    return [((), distribution)]


def to_optuna(distribution: Distribution) -> "BaseDistribution":
    """Returns the Optuna distribution that draws the same values.

    Both bounds of a range belong to it in Optuna too, so values enqueued there are accepted. A fixed parameter becomes
    a range of one value.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    match distribution:
        case Uniform(uniform=(low, high)):
            return FloatDistribution(low, high)
        case LogUniform(loguniform=(low, high)):
            return FloatDistribution(low, high, log=True)
        case Choice(choice=choices):
            return CategoricalDistribution(choices)
    return FloatDistribution(distribution, distribution)
