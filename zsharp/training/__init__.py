"""Training one model: specs, the loop, schedules and checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zsharp.training.spec import AugmentSpec, DataSpec, InitSpec, TrainSpec, TrialSpec

if TYPE_CHECKING:
    from zsharp.training.run import TrialResult, train
    from zsharp.training.training import Training

__all__ = [
    "AugmentSpec",
    "DataSpec",
    "InitSpec",
    "TrainSpec",
    "Training",
    "TrialResult",
    "TrialSpec",
    "train",
]


def __getattr__(name: str) -> Any:
    """Loads what needs torch only when it is asked for, so that specs can be checked in an instant."""
    modules = {"TrialResult": "run", "train": "run", "Training": "training"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)
