"""The settings of augmentation: what to do to training images, and how much of it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """Which augmentations to apply and how strongly; the defaults do nothing.

    Attributes:
        crop_padding: Zero pixels added on each side before cropping back to size; 0 disables cropping.
        flip: Whether to mirror each image left to right with a chance of one half.
        cutout: Side of the square that is blacked out around a random point; 0 disables it.
        randaugment: Number of RandAugment operations; 0 disables it.
        mixup: alpha of mixup's Beta(alpha, alpha); 0 disables it.
        cutmix: alpha of CutMix's Beta(alpha, alpha); 0 disables it. With both, a coin toss per batch decides.

    Raises:
        ValueError: A number is negative, not finite or of the wrong type.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    randaugment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout", "randaugment"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"augmentation.{name}: got {value!r}, expected an integer >= 0")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"augmentation.{name}: got {value!r}, expected a finite number >= 0")
        if not isinstance(self.flip, bool):
            raise ValueError(f"augmentation.flip: got {self.flip!r}, expected true or false")
