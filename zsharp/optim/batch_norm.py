"""Keeps batch norm from counting a batch twice: its statistics see w, not w + e."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@contextmanager
def frozen_batch_norm(model: torch.nn.Module) -> Iterator[None]:
    """Batch-norm layers in training mode use batch statistics inside, but do not update their own.

    Put it around the second forward pass: the running statistics (and `num_batches_tracked`) then see
    each batch once, at w. Covers every `_BatchNorm`, SyncBatchNorm and `momentum=None` included, and whatever else
    has statistics by these names: instance norm, layers of other libraries, scripted and traced models.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    # No flag stops the others. They write to copies, since autograd notices if it is taken back in place.
    others = [
        (module, name, buffer)
        for module in model.modules()
        if not isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
        if name.endswith(_STATISTICS)
    ]
    for layer in layers:
        layer.track_running_stats = False
    for module, name, buffer in others:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        for module, name, buffer in others:
            setattr(module, name, buffer)
