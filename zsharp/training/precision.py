"""Chooses the number format and memory layout in which a model trains fastest on this hardware."""

import torch

from zsharp.models import ARCHITECTURES
from zsharp.training.device import device_name
from zsharp.training.spec import Precision

# Below this many pixels the casts of autocast cost more on a CPU than bfloat16 arithmetic saves, and for these
# architectures on images of any size (docs/log.md).
_MIN_PIXELS = 16 * 16
_NARROW = ("vit_tiny",)


def uses_bf16(
    precision: Precision, device: torch.device, image_shape: tuple[int, int, int] | None, architecture: str
) -> bool:
    """Whether the forward pass runs under bfloat16 autocast.

    `auto` uses it where the hardware gains from it: on recent GPUs, and on CPUs with AMX tiles or AMD's with
    AVX512_BF16 (Intel's without AMX are slower), for images of at least 16 x 16 pixels and all but the narrowest
    of our architectures. A library's or the user's own model, and a task without images (None), use it on GPUs only:
    on a CPU it depends on the model, and those of depthwise convolutions lose up to half their speed.
    """
    if precision != "auto":
        return precision == "bf16"
    is_measured = image_shape is not None and architecture in ARCHITECTURES
    if not is_measured and device.type == "cpu":
        return False
    if image_shape is not None and image_shape[1] * image_shape[2] < _MIN_PIXELS:
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if architecture in _NARROW:
        return False
    if torch.cpu._is_amx_tile_supported():
        return True
    return bool(torch.cpu._is_avx512_bf16_supported()) and "AMD" in device_name(device)
