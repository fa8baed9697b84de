"""Training one model: specs, the loop, schedules and checkpoints."""

from typing import TYPE_CHECKING, Any

from zsharp.training.spec import AugmentSpec, DataSpec, TrainSpec, TrialSpec

if TYPE_CHECKING:
    from zsharp.training.run import TrialResult, train
    from zsharp.training.training import Training

__all__ = ["AugmentSpec", "DataSpec", "TrainSpec", "Training", "TrialResult", "TrialSpec", "train"]


def __getattr__(name: str) -> Any:
    """Loads what needs torch only when it is asked for, so that specs can be checked in an instant."""
    if name in ("TrialResult", "train"):
        from zsharp.training import run as loop

        return getattr(loop, name)
    if name == "Training":
        from zsharp.training.training import Training

        return Training
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
