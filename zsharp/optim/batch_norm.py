"""Keeps batch norm from counting a batch twice: its statistics see w, not w + e."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def frozen_batch_norm(model: torch.nn.Module) -> Iterator[None]:
    """Batch-norm layers in training mode use batch statistics inside, but do not update their own.

    Put it around the second forward pass: the running statistics (and `num_batches_tracked`) then see each
    batch once, at w. Covers every `_BatchNorm`, SyncBatchNorm and `momentum=None` included.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
