"""Where decoded images lie while a model trains on them: in the device's memory, or on the host."""

from typing import Literal

OnDevice = Literal["auto", "always", "never"]

_SHARE = 0.25  # of the device's free memory, for images


def stays_on_host(on_device: OnDevice, num_bytes: int, device: str) -> bool:
    """Returns whether images stay on the host; those of a CPU do so anyway."""
    import torch

    if on_device != "auto" or torch.device(device).type != "cuda":
        return on_device == "never"
    return num_bytes > _SHARE * torch.cuda.mem_get_info(device)[0]
