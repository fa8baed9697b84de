"""What the rows of a ledger must hold: a file from elsewhere, or an edited one, is refused before it is used."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from tune_jobs.ledger.rows import ACTIONS, METRICS, OWN_METRICS, RESERVED, STATUSES


def _moment(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("expected a time as text")
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("expected a time with its zone")
    return moment


def _file_name(value: str) -> str:
    if not value.isprintable() or value.startswith(".") or any(char in '/\\:*?"<>|' for char in value):
        raise ValueError("expected a name that can be a file's")
    return value


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_file_name)]
"""A trial's id names its checkpoint, so it must not lead to another folder."""
_Text = Annotated[str, Field(max_length=100_000)]
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Moment = Annotated[datetime, BeforeValidator(_moment)]
_Value = Annotated[int, Field(ge=-(2**63), lt=2**63)] | _Finite | str | None

_STRICT = ConfigDict(strict=True)


@with_config(_STRICT)
class _Trial(TypedDict):
    trial_id: Name
    study: _Text
    number: _Count
    dataset: _Text
    architecture: _Text
    method: _Text
    variant: _Text | None
    seed: int
    params: Json[dict[str, bool | int | _Finite | str]]
    max_epochs: _Count
    status: Literal[STATUSES] | None  # type: ignore[valid-type]  # a constant, spelt out in one file
    stop_reason: str | None
    error: str | None
    started_at: _Moment
    finished_at: _Moment | None
    ended_after: _Count | None
    retries: _Count


@with_config(_STRICT)
class _Report(TypedDict):
    trial: _Count
    epoch: _Count
    metrics: Json[dict[str, _Value | dict[str, _Finite | None]]]
    decision: Literal[ACTIONS]  # type: ignore[valid-type]
    rung: _Count | None
    cutoff: _Finite | None
    num_values: _Count | None
    reason: str
    reported_at: _Moment


@with_config(_STRICT)
class _Event(TypedDict):
    after: _Count
    kind: str
    trial_id: str | None
    data: Json[dict[str, Any]]
    happened_at: _Moment


@with_config(_STRICT)
class _Confirmation(TypedDict):
    key: str
    data: Json[dict[str, _Value | bool]]


@with_config(_STRICT)
class _Meta(TypedDict):
    key: str
    value: Json[dict[str, Any]]


class _Hardware(TypedDict, total=False):
    cpu_model: str | None
    num_cpus: int | None
    memory_bytes: float | None
    gpus: list[str] | None


class _Provenance(TypedDict, total=False):
    python_version: str | None
    git_commit: str | None
    git_dirty: bool | None
    package_versions: dict[str, str] | None
    hardware: _Hardware | None
    data: dict[str, Any] | None
    code: dict[str, Any] | None


class _JobData(TypedDict, total=False):
    name: str | None
    max_images: int | None
    val_fraction: float | None


_Section = dict[str, Any] | None


class _Job(TypedDict, total=False):
    """What is read of a job, whichever version wrote it; `load_job` checks all of it before anything is trained."""

    data: _JobData | None
    architectures: list[str] | None
    methods: list[str] | None
    train: _Section
    init: _Section
    space: _Section
    search: _Section
    asha: _Section
    budget: _Section
    resources: _Section
    failures: _Section
    track: _Section


_FACTS: dict[str, TypeAdapter[Any]] = {"job": TypeAdapter(_Job), "provenance": TypeAdapter(_Provenance)}


def check_facts(key: str, value: Mapping[str, Any]) -> None:
    """Checks what a ledger says of its search under `job` or `provenance`.

    Raises:
        ValueError: If a value has another type.
    """
    try:
        _FACTS[key].validate_python(value)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False)[0]
        raise ValueError(f"{key}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from problem


_ROWS: dict[str, TypeAdapter[Any]] = {
    "trials": TypeAdapter(_Trial),
    "reports": TypeAdapter(_Report),
    "events": TypeAdapter(_Event),
    "confirmations": TypeAdapter(_Confirmation),
    "meta": TypeAdapter(_Meta),
}


def checked(table: str, columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    """Returns a row by its columns, with JSON and times parsed.

    Raises:
        ValueError: If a value has another type, or is out of its range.
    """
    try:
        values: dict[str, Any] = _ROWS[table].validate_python(dict(zip(columns, row, strict=True)))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}") from problem
    return values


_KINDS: dict[str, Any] = {name: (int, float) if kind is float else kind for name, kind in METRICS.items()}


def check_metrics(metrics: Mapping[str, Any], *, is_sealed: bool) -> None:
    """Raises ValueError if a metric has another type than reports have, or a name that is taken.

    Args:
        is_sealed: Whether the report has a checksum. Of 0.1, which had none, each report has all of `METRICS`.
    """
    if not is_sealed and (missing := METRICS.keys() - metrics.keys()):
        raise ValueError(f"metrics: damaged: {', '.join(sorted(missing))} missing")
    if taken := RESERVED & metrics.keys():
        raise ValueError(f"metrics: {sorted(taken)} are no names of metrics")
    for name, value in metrics.items():  # of every report: each line here is run millions of times
        if value is None and name != OWN_METRICS:
            continue
        if isinstance(value, dict) is not (name == OWN_METRICS):
            raise ValueError(f"metrics.{name}: expected {_kind_of(name)}, found {value!r}")
        kind = _KINDS.get(name)
        if kind is not None and not isinstance(value, kind):
            raise ValueError(f"metrics.{name}: expected {METRICS[name].__name__}, found {value!r}")


def _kind_of(name: str) -> str:
    return "numbers by name" if name == OWN_METRICS else "one value"
