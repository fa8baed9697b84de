"""Whether a trial's model is compiled by `torch.compile`, and whether that can be done here."""

import os
import shutil

import torch
from torch import nn

from zsharp.training.spec import TrainSpec

_EARNED_FROM = 5_000_000
"""Examples, counted once for each gradient: a compilation takes a minute or so and saves about a fifth of the time."""


def compiles(train: TrainSpec, steps_per_epoch: int, gradients_per_step: int) -> bool:
    """Returns whether the model is compiled; it follows from the spec and the data alone, as all of a trial does."""
    if train.compile != "auto":
        return train.compile == "true"
    return train.epochs * steps_per_epoch * train.batch_size * gradients_per_step >= _EARNED_FROM


def check_compiler() -> None:
    """Raises ValueError if there is no C++ compiler, which `torch.compile` needs on every device."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None and shutil.which("clang++") is None:
        raise ValueError(
            f"train.compile needs a C++ compiler, and {compiler!r} is not installed; install one, or set "
            "train.compile to false"
        )


def compile_model(model: nn.Module) -> None:
    """Compiles a model in place; models of one kind share what is compiled, in this process and on disk."""
    # Not `model.compile()`, which leaves models made of torch's own containers as they are.
    model.forward = torch.compile(model.forward, dynamic=False)
