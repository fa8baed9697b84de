"""Distributions: their ranges, what they contain, and what Optuna makes of them at both ends."""

import optuna
import pytest
from optuna.distributions import BaseDistribution
from pydantic import TypeAdapter, ValidationError

from tune_jobs.job.space import (
    PARAMETERS,
    SHARED_PARAMETERS,
    Distribution,
    bounds,
    contains,
    fixed_value,
    to_optuna,
)

ADAPTER = TypeAdapter(Distribution)
EXAMPLES = [
    *(
        {"uniform": [0.5, 0.99]},
        {"uniform": [-1, 1]},
        {"loguniform": [0.01, 0.5]},
        {"loguniform": [1e-8, 0.1]},
    ),
    *({"choice": [0.01, 0.05, 0.5]}, {"choice": [3]}, 0.25, 1, 0),
    *(
        {"int": [-2, 5]},
        {"int": [0, 2**53]},
        {"int": [1, 1024], "log": True},
        {"choice": ["sgd", "adamw"]},
        {"choice": [True, "x", 7]},
        "sgd",
        True,
    ),
    {"uniform": [0.5, 0.9], "when": {"a": ["x"], "b": [1, True]}},
]


@pytest.mark.parametrize("raw", EXAMPLES, ids=str)
def test_round_trip(raw: object):
    distribution = ADAPTER.validate_python(raw)
    assert ADAPTER.dump_python(distribution, mode="json") == raw
    assert ADAPTER.validate_python(distribution) == distribution


@pytest.mark.parametrize(
    "raw",
    [
        *(None, [0.1, 0.2], {}, float("nan"), float("inf"), {"uniform": [0.1, 0.1]}),
        *({"uniform": [False, True]}, {"uniform": [0, float("inf")]}, {"uniform": [0.1, 0.2], "choice": [1]}),
        *({"int": [1, 2.5]}, {"int": [2, 2]}, {"int": [False, 5]}, {"int": [1, 5], "when": {"a": [None]}}),
        *({"choice": [1, 1.0]}, {"choice": [""]}, {"choice": [1], "when": {}}, {"when": {"a": 1}}, ""),
        *({"int": [0, 9], "log": True}, {"int": [1, 9], "log": 2}, {"choice": [1], "log": True}),
        *({"loguniform": [-1, 1]}, {"choice": ["sgd", None]}, {"normal": [0, 1]}),
    ],
    ids=str,
)
def test_refused(raw: object):
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(raw)


@pytest.mark.parametrize("raw", EXAMPLES, ids=str)
def test_contains_exactly_what_optuna_contains(raw: object):
    distribution = ADAPTER.validate_python(raw)
    theirs = to_optuna(distribution)
    ends = [value for _, value in bounds(distribution)]
    numbers = [end for end in ends if not isinstance(end, bool | str)]
    near = [end + step for end in numbers for step in (-1e-9, 0, 1e-9)]
    assert all(contains(distribution, end) for end in ends)
    for value in [*near, -100.0, 0.0, 100.0]:
        assert contains(distribution, value) == accepted_by_optuna(theirs, value), value


def accepted_by_optuna(distribution: BaseDistribution, value: float) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # not one of the choices, or no logarithm
        return False


@pytest.mark.parametrize("raw", EXAMPLES, ids=str)
def test_both_ends_can_be_enqueued_and_draws_stay_inside(raw: object):
    distribution = ADAPTER.validate_python(raw)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ends = [value for _, value in bounds(distribution)]
    for end in ends:
        study.enqueue_trial({"x": end})
    drawn = [study.ask({"x": to_optuna(distribution)}).params["x"] for _ in range(len(ends) + 50)]
    assert drawn[: len(ends)] == ends
    assert all(contains(distribution, value) for value in drawn)
    assert (len(set(drawn)) == 1) == (fixed_value(distribution) is not None)


RANGES = {
    "q_p": ([0, 0.5, 0.99, 0.999999], [-1e-9, 1, 1.5]),
    "rho": ([0, 0.05, 10], [-1e-9]),
    "lr": ([1e-9, 0.1, 10], [0, -0.1]),
    "weight_decay": ([0, 5e-5, 1], [-1e-9]),
    "label_smoothing": ([0, 0.1, 0.999], [-1e-9, 1]),
    "momentum": ([0, 0.9, 0.999], [-1e-9, 1]),
    "eta": ([0, 0.01, 2], [-1e-9]),
    "sigma": ([0, 1, 2], [-1e-9]),
    "lmbda": ([0, 0.9, 0.999], [-1e-9, 1]),
}


def test_the_table_is_complete_and_in_a_fixed_order():
    assert list(PARAMETERS) == list(RANGES)
    assert set(SHARED_PARAMETERS) < set(PARAMETERS)


@pytest.mark.parametrize("name", RANGES)
def test_ranges(name: str):
    inside, outside = RANGES[name]
    assert all(PARAMETERS[name].is_valid(value) for value in inside)
    assert not any(PARAMETERS[name].is_valid(value) for value in outside)
    assert not PARAMETERS[name].is_valid(float("nan"))


def test_every_method_parameter_is_in_the_table():
    from zsharp.optim.methods import METHODS

    for method in METHODS.values():
        for name, default in method.defaults.items():
            assert PARAMETERS[name].is_valid(default)
