"""What is trained: the protocol of tasks, and how one of the user's own is built and checked."""

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from zsharp.models import check_model
from zsharp.training.epoch_row import RESERVED_NAMES
from zsharp.training.spec import TrialSpec
from zsharp.user_code import UserCodeError, accepted, told_as_theirs, unused_argument

Batch = Any
"""Any nested structure of tensors: a tensor, or tuples, lists and mappings of them."""


@runtime_checkable
class Task(Protocol):
    """A model with its batches, its loss and its validation; the engine does the rest.

    The engine calls `loss` twice a step for the methods that perturb the weights: at w and at w + e, on the same
    batch. It moves batches to the device, and takes care of autocast, `train` and `eval` mode, gradients,
    clipping, averaged weights, checkpoints and reports.

    A task may have more, which the engine uses if it is there:

    - `prepare(batch) -> Batch`: what is done once a step on the device, before both calls of `loss`: augmentation,
      say. It is part of a CUDA graph, so it must not wait for the device.
    - `train_metrics() -> Mapping[str, Tensor]`: 0-d tensors about the last call of `loss`; `accuracy` is reported
      as `train_accuracy`, averaged over the epoch.
    - `test() -> Mapping[str, float]`: as `validate`, on data that no search may see; confirmations call it.
    - `state_dict()` and `load_state_dict(state)`: what its batches depend on besides (seed, epoch), for checkpoints.
    - `generators`: the `torch.Generator`s that `prepare` and `loss` draw from.
    """

    model: nn.Module
    """What is optimized. The engine moves it to the device."""

    steps_per_epoch: int
    """How many batches an epoch has."""

    def batches(self, epoch: int) -> Iterable[Batch]:
        """Returns the batches of an epoch, counted from 0; their order must follow from the task's seed and `epoch`."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Returns the mean loss of a batch, a 0-d tensor with a graph; must not change anything."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Returns numbers by name, the job's metric among them; called in eval mode and without gradients."""
        ...


def build_task(make: Callable[..., Any], spec: TrialSpec, device: torch.device) -> Task:
    """Returns a task of the user's own, checked.

    Args:
        make: Their class or function. It is passed, by name and as far as its signature takes them: `seed`, `device`,
            `batch_size`, `epochs`, and `spec.model`, with what is searched.

    Raises:
        UserCodeError: If it raises, needs what is not offered, or returns what is no task.
    """
    label = spec.task or str(getattr(make, "__name__", "task"))
    train = spec.train
    offered: dict[str, Any] = {
        "seed": train.seed,
        "device": device,
        "batch_size": train.batch_size,
        "epochs": train.epochs,
        **spec.model,
    }
    arguments = accepted(make, offered, label)
    if unused := [name for name in spec.model if name not in arguments]:
        raise unused_argument(make, unused[0], label)
    with told_as_theirs(label, spec.code):
        task = make(**arguments)
    check_task(task, label)
    return task  # type: ignore[no-any-return]


def check_task(task: object, label: str) -> None:
    """Raises UserCodeError if something that every task has is missing, or is of the wrong kind."""
    for name in ("batches", "loss", "validate"):
        if not callable(getattr(task, name, None)):
            raise UserCodeError(f"{label}: returned a {type(task).__name__} without a method {name!r}")
    check_model(getattr(task, "model", None), f"{label}: its model")
    steps = getattr(task, "steps_per_epoch", None)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UserCodeError(f"{label}: steps_per_epoch is {steps!r}; expected a whole number of at least 1")


def check_loss(loss: object, label: str, device: torch.device) -> None:
    """Raises UserCodeError if a loss is no 0-d tensor with a graph on the device."""
    if not isinstance(loss, Tensor):
        raise UserCodeError(f"{label}: loss returned a {type(loss).__name__}; expected a 0-d tensor")
    if loss.ndim:
        raise UserCodeError(
            f"{label}: loss returned a tensor of shape {list(loss.shape)}; expected a 0-d tensor, as .mean() gives"
        )
    if not loss.requires_grad:
        raise UserCodeError(
            f"{label}: loss returned a tensor without a graph; compute it from the model's output, "
            "without .detach(), .item() or torch.no_grad()"
        )
    if loss.device.type != device.type:
        raise UserCodeError(f"{label}: loss returned a tensor on {loss.device}; expected one on {device}")


def as_numbers(values: object, label: str) -> dict[str, float]:
    """Returns what `validate` returned as plain numbers; tensors and arrays of one element count as numbers.

    Raises:
        UserCodeError: If it is no mapping of names to numbers, or uses a name that reports have already.
    """
    if not isinstance(values, Mapping):
        raise UserCodeError(
            f"{label} returned a {type(values).__name__}; expected a mapping of names to numbers"
        )
    numbers = {}
    for name, value in values.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise UserCodeError(
                f"{label} returned a number called {name!r}; expected a name such as val_loss"
            )
        if name in RESERVED_NAMES:
            raise UserCodeError(
                f"{label} returned {name!r}, which every report has already; use another name"
            )
        numbers[name] = _as_number(value, f"{label} returned {name}")
    return numbers


def _as_number(value: object, label: str) -> float:
    if isinstance(value, Tensor) or hasattr(value, "item"):
        if getattr(value, "size", None) is not None and _num_elements(value) != 1:
            raise UserCodeError(f"{label} with {_num_elements(value)} elements; expected one number")
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UserCodeError(f"{label} as a {type(value).__name__}; expected a number")
    return float(value)


def _num_elements(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else int(math.prod(value.shape))
