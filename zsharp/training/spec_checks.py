"""Checks the names and numbers of a trial's spec before anything is loaded or built."""

import math
from dataclasses import dataclass
from typing import get_args

from zsharp.names import did_you_mean
from zsharp.optim import find_method
from zsharp.training.spec import BaseOptimizer, DataSpec, Device, Precision, Schedule, TrainSpec, TrialSpec


@dataclass(frozen=True)
class _Range:
    low: float = 0.0
    high: float = math.inf
    is_open: bool = False  # whether the lower end is itself not valid; the upper one never is
    is_whole: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return False
        return (self.low < value if self.is_open else self.low <= value) and value < self.high

    def describe(self, name: str) -> str:
        kind = "whole numbers, " if self.is_whole else ""
        high = "" if self.is_whole and self.high == math.inf else f" < {self.high:g}"
        return f"{kind}{self.low:g} {'<' if self.is_open else '<='} {name}{high}"


_RATE = _Range(is_open=True)
_NOT_NEGATIVE = _Range()
_BELOW_ONE = _Range(high=1.0)
_COUNT = _Range(low=1, is_whole=True)
_SEED = _Range(high=2**62, is_whole=True)
_PARAMS = {
    "lr": _RATE,
    "weight_decay": _NOT_NEGATIVE,
    "label_smoothing": _BELOW_ONE,
    "momentum": _BELOW_ONE,
    "rho": _NOT_NEGATIVE,
    "q_p": _BELOW_ONE,
    "eta": _NOT_NEGATIVE,
    "sigma": _NOT_NEGATIVE,
    "lmbda": _BELOW_ONE,
}
_SHARED_PARAMS = ("lr", "weight_decay", "label_smoothing", "momentum")


def check_spec(spec: TrialSpec) -> None:
    """Does nothing if the spec is valid by itself; whether it fits the data shows once they are loaded.

    Raises:
        ValueError: At the first name or number that is not valid: where, what was given, what is valid.
    """
    _check_choice("device", spec.device, get_args(Device))
    _check_data(spec.data)
    _check_train(spec.train)
    _check_params(spec)


def _check_data(data: DataSpec) -> None:
    _check_number("data.val_fraction", data.val_fraction, _BELOW_ONE)
    _check_number("data.split_seed", data.split_seed, _SEED)
    if data.max_images is not None:
        _check_number("data.max_images", data.max_images, _COUNT)


def _check_train(train: TrainSpec) -> None:
    _check_choice("train.base_optimizer", train.base_optimizer, get_args(BaseOptimizer))
    _check_choice("train.schedule", train.schedule, get_args(Schedule))
    _check_choice("train.precision", train.precision, get_args(Precision))
    for name in ("epochs", "batch_size", "eval_batch_size"):
        _check_number(f"train.{name}", getattr(train, name), _COUNT)
    _check_number("train.seed", train.seed, _SEED)
    _check_number("train.warmup_epochs", train.warmup_epochs, _NOT_NEGATIVE)
    for name in ("weight_decay", "label_smoothing", "momentum"):
        _check_number(f"train.{name}", getattr(train, name), _PARAMS[name])
    if train.clip_grad_norm is not None:
        _check_number("train.clip_grad_norm", train.clip_grad_norm, _RATE)
    if train.ema_decay is not None:
        _check_number("train.ema_decay", train.ema_decay, _Range(high=1.0, is_open=True))


def _check_params(spec: TrialSpec) -> None:
    method = find_method(spec.method)
    valid = [*_SHARED_PARAMS, *method.defaults]
    for name, value in spec.params.items():
        if name not in valid:
            hint = did_you_mean(str(name), valid)
            raise ValueError(
                f"method {method.name!r} has no parameter {name!r}; {hint}valid: {', '.join(valid)}"
            )
        _check_number(name, value, _PARAMS[name])
    if "momentum" in spec.params and spec.train.base_optimizer != "sgd":
        raise ValueError(f"parameter 'momentum' with {spec.train.base_optimizer!r}; valid: only with 'sgd'")


def _check_choice(where: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{where} is {value!r}; {did_you_mean(str(value), choices)}valid: {', '.join(choices)}"
        )


def _check_number(where: str, value: object, valid: _Range) -> None:
    if value not in valid:
        raise ValueError(f"{where} is {value!r}; valid: {valid.describe(where.rpartition('.')[2])}")
