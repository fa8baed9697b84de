"""The optimizer family: SAM, ASAM, Friendly-SAM and ZSharp around any `torch.optim` optimizer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zsharp.optim.methods import METHODS, Method, Rules, find_method

if TYPE_CHECKING:
    from zsharp.optim.batch_norm import frozen_batch_norm
    from zsharp.optim.optimizers import ASAM, SAM, FriendlySAM, ZSharp, make_optimizer
    from zsharp.optim.sharpness_aware import SharpnessAware

__all__ = [
    "ASAM",
    "METHODS",
    "SAM",
    "FriendlySAM",
    "Method",
    "Rules",
    "SharpnessAware",
    "ZSharp",
    "find_method",
    "frozen_batch_norm",
    "make_optimizer",
]


def __getattr__(name: str) -> Any:
    """Loads what needs torch only when it is asked for, so that jobs can be checked in an instant."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = {"frozen_batch_norm": "batch_norm", "SharpnessAware": "sharpness_aware"}
    return getattr(import_module(f"{__name__}.{modules.get(name, 'optimizers')}"), name)
