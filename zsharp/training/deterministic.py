"""The same numbers from the same GPU every time: kernels whose sums are independent of execution order."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Makes cuDNN, cuBLAS and attention take deterministic algorithms within it; changes nothing on the CPU.

    This costs some speed where the usual algorithms add up in any order, as in the gradients of attention. An
    operation without a deterministic algorithm raises an error, because with a mere warning attention would not
    choose its own. cuBLAS raises one too if the process used it before CUBLAS_WORKSPACE_CONFIG was set.
    """
    if device.type != "cuda":
        yield
        return
    # Read when cuBLAS is first asked; this size is the default of recent versions.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, new_memory = torch.backends.cudnn, cast(Any, torch.utils.deterministic)
    was_filled = new_memory.fill_uninitialized_memory
    was_on = torch.are_deterministic_algorithms_enabled()
    was_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    was_deterministic, was_timing = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    new_memory.fill_uninitialized_memory = False  # one more launch for each new tensor
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = was_deterministic, was_timing
        new_memory.fill_uninitialized_memory = was_filled
        torch.use_deterministic_algorithms(was_on, warn_only=was_warning)
