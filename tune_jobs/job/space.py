"""How each parameter of the search space is drawn, and in which trials."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from zsharp.parameters import PARAMETERS as PARAMETERS
from zsharp.parameters import SHARED_PARAMETERS as SHARED_PARAMETERS

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution


def in_one_message(message: str) -> WrapValidator:
    """Returns a validator for a union that gives one message instead of one per member."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("union", message) from None

    return WrapValidator(validate)


Number = Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0)]
# Beyond this, a float is not exact, and Parquet files have floats.
Whole = Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)]
Value = Annotated[
    Annotated[bool, Field(strict=True)]
    | Whole
    | Annotated[float, Field(strict=True, allow_inf_nan=False)]
    | Annotated[str, Field(strict=True, min_length=1, max_length=200)],
    in_one_message("expected a finite number, text, true or false"),
]
"""What a parameter may be: a number, a name, true or false."""


def show_value(value: Value) -> str:
    """Returns a value as a job file has it, with numbers shortened."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_full(value: Value) -> str:
    """Returns a value as text that stands for no other value of a parameter, as results have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_order(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    if not low < high:
        raise PydanticCustomError("order", "the low bound must be below the high one")
    return ends


def _check_distinct(choices: tuple[Value, ...]) -> tuple[Value, ...]:
    twice = [choice for choice, count in Counter(choices).items() if count > 1]
    if twice:
        raise PydanticCustomError("distinct", "{value} is listed twice", {"value": show_value(twice[0])})
    return choices


def _as_tuple(values: Any) -> Any:
    return values if isinstance(values, list | tuple) else (values,)


_Values = Annotated[tuple[Value, ...], Field(min_length=1)]
When = Annotated[
    dict[
        Annotated[str, Field(min_length=1)],
        Annotated[_Values, BeforeValidator(_as_tuple, json_schema_input_type=Value | _Values)],
    ],
    Field(min_length=1),
]


class _Distribution(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # The parameter belongs only to trials in which other ones have these values.
    when: When | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Writes a job without conditions as earlier versions wrote it."""
        return {name: value for name, value in handler(self).items() if value is not None}


class Uniform(_Distribution):
    """Any number between two bounds, all equally likely."""

    uniform: Annotated[tuple[Number, Number], AfterValidator(_check_order)]


class LogUniform(_Distribution):
    """Any number between two bounds, all orders of magnitude equally likely."""

    loguniform: Annotated[tuple[Positive, Positive], AfterValidator(_check_order)]


class Int(_Distribution):
    """Any whole number between two bounds, both included, all equally likely.

    With `log` all orders of magnitude are equally likely, as for `loguniform`.
    """

    int: Annotated[tuple[Whole, Whole], AfterValidator(_check_order)]
    log: bool | None = None

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.log and self.int[0] < 1:
            raise PydanticCustomError("log", "with `log` the low bound must be at least 1")
        return self


class Choice(_Distribution):
    """One of a few numbers or names."""

    choice: Annotated[tuple[Value, ...], Field(min_length=1), AfterValidator(_check_distinct)]


KINDS = ("uniform", "loguniform", "int", "choice")
_MODELS: Mapping[type[_Distribution], str] = {
    Uniform: "uniform",
    LogUniform: "loguniform",
    Int: "int",
    Choice: "choice",
}


def _kind(value: Any) -> Literal["uniform", "loguniform", "int", "choice", "fixed"] | None:
    """Returns which member of the union a raw or parsed value is meant to be; None if it cannot be told."""
    if isinstance(value, Mapping):
        named = [key for key in value if key != "when" and not (key == "log" and "int" in value)]
        return named[0] if len(named) == 1 and named[0] in KINDS else None
    if isinstance(value, bool | int | float | str):
        return "fixed"
    return _MODELS.get(type(value))  # type: ignore[return-value]


Distribution = Annotated[
    Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[Int, Tag("int")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[Value, Tag("fixed")],
    Discriminator(
        _kind,
        custom_error_type="distribution",
        custom_error_message="expected {uniform: [low, high]}, {loguniform: [low, high]}, {int: [low, high]}, "
        "{choice: [value, ...]} or a plain number or name, which fixes the parameter",
    ),
]
"""How one parameter is drawn; a plain value fixes it."""


def fixed_value(distribution: Distribution) -> Value | None:
    """Returns the only value that can be drawn; None if there are several, which makes it a search."""
    match distribution:
        case Choice(choice=(value,)):
            return value
        case bool() | int() | float() | str():
            return distribution
    return None


def example_value(distribution: Distribution) -> Value:
    """Returns a value that can be drawn: the middle of a range (of its logarithms for `loguniform`), or the first."""
    match distribution:
        case Uniform(uniform=(low, high)):
            return (low + high) / 2
        case LogUniform(loguniform=(low, high)):
            return math.sqrt(low * high)
        case Int(int=(low, high), log=True):
            return round(math.sqrt(low * high))
        case Int(int=(low, high)):
            return (low + high) // 2
        case Choice(choice=choices):
            return choices[0]
    return distribution


def choices_of(distribution: Distribution) -> tuple[Value, ...]:
    """Returns all values that can be drawn, if they are few; none of a range."""
    match distribution:
        case Choice(choice=choices):
            return choices
        case Uniform() | LogUniform() | Int():
            return ()
    return (distribution,)


def condition(distribution: Distribution) -> Mapping[str, tuple[Value, ...]]:
    """Returns which values other parameters must have for this one to be drawn; empty if it always is."""
    return (distribution.when or {}) if isinstance(distribution, _Distribution) else {}


def is_active(distribution: Distribution, values: Mapping[str, Value]) -> bool:
    """Returns whether a trial with these values of other parameters has the parameter."""
    return all(
        name in values and is_among(values[name], valid) for name, valid in condition(distribution).items()
    )


def in_order(space: Mapping[str, Distribution], names: Iterable[str]) -> list[str]:
    """Returns names with every parameter after those that its condition names, and otherwise as they are.

    Raises:
        ValueError: If conditions go round in a circle; its argument has the names in the circle.
    """
    ordered: list[str] = []
    waiting = dict.fromkeys(names)
    while waiting:
        ready = (name for name in waiting if waiting.keys().isdisjoint(condition(space[name])))
        name = next(ready, None)
        if name is None:
            raise ValueError(list(waiting))
        ordered.append(name)
        del waiting[name]
    return ordered


def as_choices(space: Mapping[str, Distribution]) -> dict[str, Choice]:
    """Returns the parameters of a grid as choices: all values of a range of whole numbers, and fixed ones too."""
    choices: dict[str, Choice] = {}
    for name, distribution in space.items():
        values = choices_of(distribution)
        if isinstance(distribution, Int):
            low, high = distribution.int
            values = tuple(range(low, high + 1))
        choices[name] = Choice(choice=values, when=dict(condition(distribution)) or None)
    return choices


def grid_size(choices: Mapping[str, Choice], values: Mapping[str, Value] | None = None) -> int:
    """Returns how many combinations of the choices there are: 1 of none.

    Args:
        choices: Parameters in the order of `in_order`.
        values: Those of other parameters, which conditions may name.
    """
    if not choices:
        return 1
    (name, own), *others = choices.items()
    rest, values = dict(others), values or {}
    if not is_active(own, values):
        return grid_size(rest, values)
    if not any(name in condition(other) for other in rest.values()):
        return len(own.choice) * grid_size(rest, values)
    return sum(grid_size(rest, {**values, name: value}) for value in own.choice)


def grid_point(
    choices: Mapping[str, Choice], number: int, values: Mapping[str, Value] | None = None
) -> dict[str, Value]:
    """Returns combination `number` of the choices, counted from 0; the last parameter changes fastest."""
    if not choices:
        return {}
    (name, own), *others = choices.items()
    rest, values = dict(others), values or {}
    if not is_active(own, values):
        return grid_point(rest, number, values)
    for value in own.choice:
        with_this = {**values, name: value}
        size = grid_size(rest, with_this)
        if number < size:
            return {name: value, **grid_point(rest, number, with_this)}
        number -= size
    raise AssertionError("more combinations than there are")


def contains(distribution: Distribution, value: Value) -> bool:
    """Returns whether the value could be drawn; both bounds count as inside."""
    match distribution:
        case Uniform(uniform=(low, high)) | LogUniform(loguniform=(low, high)) | Int(int=(low, high)):
            if isinstance(value, bool | str) or not low <= value <= high:
                return False
            return not isinstance(distribution, Int) or value == int(value)
        case Choice(choice=choices):
            return is_among(value, choices)
    return is_among(value, (distribution,))


def find_value(distribution: Distribution, value: Value) -> Value | None:
    """Returns the value that results stand for, which have whole numbers as floats, and `true` as text.

    None if it cannot be drawn.
    """
    choices = choices_of(distribution)
    for choice in choices:
        if is_among(value, (choice,)) or in_full(choice) == value:
            return choice
    if choices or not contains(distribution, value):
        return None
    return int(value) if isinstance(distribution, Int) else float(value)


def is_among(value: Value, choices: Collection[Value]) -> bool:
    """Returns whether a value is one of the choices; unlike for Python, `true` is not 1."""
    return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices)


def describe(distribution: Distribution) -> str:
    """Describes the values that can be drawn, for messages."""
    match distribution:
        case Uniform(uniform=(low, high)) | LogUniform(loguniform=(low, high)):
            return f"between {low:g} and {high:g}"
        case Int(int=(low, high)):
            return f"a whole number between {low} and {high}"
        case Choice(choice=choices):
            return f"one of {', '.join(map(show_value, choices))}"
    return f"fixed at {show_value(distribution)}"


def bounds(distribution: Distribution) -> list[tuple[tuple[str | int, ...], Value]]:
    """Returns the values in a distribution's definition, each with its keys below the parameter."""
    if not isinstance(distribution, _Distribution):
        return [((), distribution)]
    kind = _MODELS[type(distribution)]
    return [((kind, index), value) for index, value in enumerate(getattr(distribution, kind))]


def to_optuna(distribution: Distribution) -> "BaseDistribution":
    """Returns the Optuna distribution that draws the same values.

    Both bounds of a range belong to it in Optuna too, so values enqueued there are accepted. A fixed parameter becomes
    a choice of one value.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match distribution:
        case Uniform(uniform=(low, high)):
            return FloatDistribution(low, high)
        case LogUniform(loguniform=(low, high)):
            return FloatDistribution(low, high, log=True)
        case Int(int=(low, high)):
            return IntDistribution(low, high, log=bool(distribution.log))
        case Choice(choice=choices):
            return CategoricalDistribution(choices)
    return CategoricalDistribution((distribution,))


def suggest(trial: "Trial", name: str, distribution: Distribution) -> Value:
    """Returns the value that Optuna suggests to a trial for a parameter that is searched."""
    match distribution:
        case Uniform(uniform=(low, high)):
            return trial.suggest_float(name, low, high)
        case LogUniform(loguniform=(low, high)):
            return trial.suggest_float(name, low, high, log=True)
        case Int(int=(low, high)):
            return trial.suggest_int(name, low, high, log=bool(distribution.log))
        case Choice(choice=choices):
            chosen: Value = trial.suggest_categorical(name, choices)  # type: ignore[assignment]
            return chosen
    raise AssertionError(f"{name} is fixed")
