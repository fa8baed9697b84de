"""Mixes pairs of images and their labels (mixup, CutMix) without waiting for the device."""

import torch
from torch import Generator, Tensor

from zsharp.data.augment.windows import box
from zsharp.data.augmentation import Augmentation


def mix(
    inputs: Tensor, labels: Tensor, num_classes: int, augmentation: Augmentation, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mixes each image with its predecessor in the (shuffled) batch, by mixup or CutMix.

    All images of a batch share one lambda. CutMix's is the share of pixels left after clipping the box.

    Args:
        inputs: Float [B, C, H, W], normalised; not changed.
        labels: int64 [B].
        num_classes: K.
        augmentation: If `mixup` and `cutmix` are both 0, the inputs are returned unchanged.
        generator: On the inputs' device.

    Returns:
        (inputs, targets): targets are float32 [B, K] and sum to one.

    References:
        Zhang et al. 2018, section 2; Yun et al. 2019, algorithm 1.
    """
    classes = torch.arange(num_classes, device=labels.device)
    targets = (labels[:, None] == classes).to(torch.float32)
    if not augmentation.mixup and not augmentation.cutmix:
        return inputs, targets
    height, width = inputs.shape[2:]
    weight = _draw_weight(height, width, augmentation, generator)
    mixed = torch.lerp(inputs.roll(1, 0), inputs, weight.to(inputs.dtype))
    return mixed, torch.lerp(targets.roll(1, 0), targets, weight.mean())


def _draw_weight(height: int, width: int, augmentation: Augmentation, generator: Generator) -> Tensor:
    """Returns float32 [H, W], the weight of each pixel of an image against its partner's."""
    alpha_mixup, alpha_cutmix = augmentation.mixup, augmentation.cutmix
    if not alpha_cutmix:
        return _draw_beta(alpha_mixup, generator).expand(height, width)
    outside = _cutmix_weight(_draw_beta(alpha_cutmix, generator), height, width, generator)
    if not alpha_mixup:
        return outside
    share = _draw_beta(alpha_mixup, generator)
    # Both are drawn, then one is picked on the device: an `if` would have to wait for the coin.
    heads = torch.rand((), generator=generator, device=generator.device) < 0.5
    return torch.where(heads, share, outside)


def _draw_beta(alpha: float, generator: Generator) -> Tensor:
    """Returns one float32 number from Beta(alpha, alpha), on the generator's device.

    `torch.distributions` takes no generator, but the kernel underneath does. It draws in float64 because
    float32 underflows to 0 / 0 at small alpha.
    """
    concentration = torch.full((2,), alpha, dtype=torch.float64, device=generator.device)
    return torch._sample_dirichlet(concentration, generator)[0].to(torch.float32)


def _cutmix_weight(share: Tensor, height: int, width: int, generator: Generator) -> Tensor:
    """Returns float32 [H, W]: 0 inside a random box of area (1 - share), clipped at the border, 1 outside."""
    device = generator.device
    side = torch.sqrt(1 - share)
    rows = torch.randint(height, (1,), generator=generator, device=device)
    columns = torch.randint(width, (1,), generator=generator, device=device)
    inside = box(
        rows, columns, (height * side).to(torch.int64), (width * side).to(torch.int64), height, width
    )
    return (~inside[0]).to(torch.float32)
