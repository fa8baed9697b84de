"""Random changes of training images: which there are, and how strong."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from zsharp.settings import check_settings

_Number = Annotated[int, Ge(0), Le(1_000_000)]


@dataclass(frozen=True)
class AugmentSpec:
    """Random changes of the training images, applied to whole batches on the device.

    None leaves a setting to the data. With both mixup and CutMix, each batch tosses a coin.
    """

    crop_padding: Annotated[
        int | None,
        Ge(0),
        Le(1_000_000),
        "zero pixels added on each side before a random crop back to size; null is an eighth of the side",
    ] = None
    flip: Annotated[bool | None, "random horizontal flips; null flips where the data set allows it"] = None
    cutout: Annotated[_Number, "side in pixels of a black square around a random point; 0 disables it"] = 0
    randaugment: Annotated[_Number, "number of RandAugment operations; 0 disables it"] = 0
    mixup: Annotated[float, Ge(0), "alpha of mixup's Beta(alpha, alpha); 0 disables it"] = 0.0
    cutmix: Annotated[float, Ge(0), "alpha of CutMix's Beta(alpha, alpha); 0 disables it"] = 0.0


@dataclass(frozen=True)
class Augmentation(AugmentSpec):
    """The same with nothing left to the data; the defaults change nothing.

    Raises:
        ValueError: A number is negative, not finite or not of its type.
    """

    crop_padding: _Number = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "augmentation.")
