"""The device a trial runs on."""

from functools import lru_cache

import torch

from zsharp.cpu import cpu_model
from zsharp.training.spec import Device


def choose_device(device: Device) -> torch.device:
    """Returns the device; `auto` is the first visible CUDA device, or the CPU where there is none.

    Raises:
        ValueError: If CUDA is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but no CUDA device is visible; valid: auto, cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")


@lru_cache
def device_name(device: torch.device) -> str:
    """The device's make, such as `cuda NVIDIA H200` or `cpu Intel(R) Xeon(R) ...`."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {cpu_model() or ''}".strip()
