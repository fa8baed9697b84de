"""Random changes to whole batches of images, made on the device that holds them."""

from zsharp.data.augment.mixing import mix
from zsharp.data.augment.transforms import augment, normalise
from zsharp.data.augment.windows import crop, cut_out
from zsharp.data.augmentation import Augmentation

__all__ = ["Augmentation", "augment", "crop", "cut_out", "mix", "normalise"]
