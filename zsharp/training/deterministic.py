"""The same numbers from the same GPU every time: kernels whose sums do not depend on who comes first."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within it cuDNN, cuBLAS and attention take deterministic algorithms; on the CPU there is nothing to do.

    Costs some speed where the usual ones add up in any order, such as the gradients of attention. An operation that has
    no deterministic algorithm is an error (with a warning alone, attention would not take its own); so is cuBLAS in a
    process that used it before, unless CUBLAS_WORKSPACE_CONFIG was set by then.
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
