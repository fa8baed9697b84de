"""Augments and normalises whole batches of uint8 images on the device that holds them.

Every draw comes from the caller's generator, so a trial's images depend on its seed alone. Only RandAugment
waits for the device; nothing else has shapes that depend on the data.
"""

import torch
from torch import Generator, Tensor

from zsharp.data.augment.windows import crop, cut_out
from zsharp.data.augmentation import Augmentation

_NUM_RANDAUGMENT_GROUPS = 8


def augment(images: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """Crops, mirrors, applies RandAugment and cuts out, in this order.

    Args:
        images: uint8 [B, C, H, W]; not changed.
        augmentation: What to do; `mix` does the mixing.
        generator: On the images' device.

    Returns:
        uint8 [B, C, H, W]; `images` itself if there is nothing to do.

    Raises:
        ValueError: The images do not allow these settings.
    """
    _check(images, augmentation, generator)
    padding, device, batch_size = augmentation.crop_padding, images.device, len(images)
    if padding or augmentation.flip:
        offsets = torch.randint(2 * padding + 1, (2, batch_size), generator=generator, device=device)
        mirrored = None
        if augmentation.flip:
            mirrored = torch.rand(batch_size, generator=generator, device=device) < 0.5
        images = crop(images, padding, offsets, mirrored)
    if augmentation.randaugment:
        images = _randaugment(images, augmentation.randaugment, generator)
    if augmentation.cutout:
        height, width = images.shape[2:]
        rows = torch.randint(height, (batch_size,), generator=generator, device=device)
        columns = torch.randint(width, (batch_size,), generator=generator, device=device)
        images = cut_out(images, augmentation.cutout, rows, columns)
    return images


def normalise(images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns (images / 255 - mean) / std as one multiplication and one addition in float32, then as `dtype`.

    Args:
        images: uint8 [B, C, H, W].
        mean: [C], on the images' device.
        std: [C], on the images' device.
        dtype: Of the result. Rounding to half precision comes last, so mean and std lose nothing.
    """
    mean, std = mean.to(torch.float32), std.to(torch.float32)
    scale = (1 / (255 * std)).view(-1, 1, 1)
    shift = (-mean / std).view(-1, 1, 1)
    # Two steps in place: on a CPU nine times faster than addcmul, which cannot vectorise broadcast operands.
    return images.to(torch.float32).mul_(scale).add_(shift).to(dtype)


def _check(images: Tensor, augmentation: Augmentation, generator: Generator) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4 or 0 in images.shape:
        raise ValueError(f"images: got {images.dtype} {tuple(images.shape)}, expected uint8 [B, C, H, W]")
    channels, side = images.shape[1], min(images.shape[2:])
    if augmentation.crop_padding >= side:
        given = f"augmentation.crop_padding: got {augmentation.crop_padding}"
        raise ValueError(f"{given} for images with a side of {side} pixels, expected less than {side}")
    if augmentation.cutout > side:
        given = f"augmentation.cutout: got {augmentation.cutout}"
        raise ValueError(f"{given} for images with a side of {side} pixels, expected at most {side}")
    if augmentation.randaugment and channels not in (1, 3):
        raise ValueError(f"augmentation.randaugment: got images of {channels} channels, expected 1 or 3")
    # An empty tensor, as a generator's "cuda" lacks the index of the current device that tensors have.
    if torch.empty(0, device=generator.device).device != images.device:
        raise ValueError(f"generator: got one on {generator.device}, expected one on {images.device}")


def _randaugment(images: Tensor, num_ops: int, generator: Generator) -> Tensor:
    """Applies torchvision's RandAugment, with its own draw to each eighth of the batch.

    torchvision draws its operations once per call, for all images; in eighths, a batch sees up to eight draws.
    It draws from the global CPU generator, which is seeded from ours meanwhile and restored afterwards.
    """
    from torchvision.transforms import v2

    transform = v2.RandAugment(num_ops=num_ops)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well
        return torch.cat(
            [transform(group) for group in images.tensor_split(_NUM_RANDAUGMENT_GROUPS) if len(group)]
        )
