"""What is done to training images."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """Which augmentations, how strong; the defaults do nothing.

    Attributes:
        crop_padding: Zero pixels added on each side before cropping back to size; 0 for no crop.
        flip: Mirror every second image, on average, left to right.
        cutout: Side of the square that is blackened around a random point; 0 for none.
        randaugment: Number of RandAugment operations; 0 for none.
        mixup: alpha of mixup's Beta(alpha, alpha); 0 for none.
        cutmix: alpha of CutMix's Beta(alpha, alpha); 0 for none. With mixup, each batch tosses a coin.

    Raises:
        ValueError: A number is negative, not finite or not of its type.
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
