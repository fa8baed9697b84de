"""Which number format and memory layout a model trains fastest in on the hardware at hand."""

import torch

from zsharp.training.spec import Precision

# Below this many pixels the casts of autocast cost more than bfloat16 arithmetic saves (docs/log.md).
_MIN_PIXELS = 16 * 16


def uses_bf16(precision: Precision, device: torch.device, image_shape: tuple[int, int, int]) -> bool:
    """Whether the forward pass runs under bfloat16 autocast.

    `auto` takes it for images of at least 16 x 16 pixels on hardware with bfloat16 arithmetic: recent GPUs, and
    CPUs with AMX tiles or AVX512_BF16.
    """
    if precision != "auto":
        return precision == "bf16"
    if image_shape[1] * image_shape[2] < _MIN_PIXELS:
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def memory_format(family: str) -> torch.memory_format:
    """`channels_last` for convolutional networks, which gain 1.1 to 1.2 times on CPUs; the default for others."""
    return torch.contiguous_format if family == "vit" else torch.channels_last
