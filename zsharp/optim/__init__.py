"""The optimizer family: SAM, ASAM, Friendly-SAM and ZSharp around any `torch.optim` optimizer."""

from zsharp.optim.batch_norm import frozen_batch_norm
from zsharp.optim.methods import METHODS, Method, Rules, find_method
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
