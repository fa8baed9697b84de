"""Brings images to one square size: the shorter side is resized with antialiasing, the middle is kept."""

import numpy as np

from zsharp.data.limits import check_memory
from zsharp.data.source import Images, Split


def fitted(image: Images, size: int) -> Images:
    """Returns uint8 [C, size, size] of an image uint8 [C, H, W], each channel for itself.

    Pillow computes with integers, so the pixels are the same on every machine.
    """
    from PIL import Image, ImageOps

    if image.shape[1:] == (size, size):
        return image
    channels = [
        ImageOps.fit(Image.fromarray(channel), (size, size), Image.Resampling.BILINEAR)
        for channel in np.ascontiguousarray(image)
    ]
    return np.stack([np.asarray(channel) for channel in channels])


def fitted_split(split: Split, size: int) -> Split:
    """Returns a split with all its images fitted."""
    count, channels, *sides = split.images.shape
    if sides == [size, size] or not count:
        return split
    check_memory(count * channels * size * size, split.where)
    images = np.empty((count, channels, size, size), dtype=np.uint8)
    for row, image in enumerate(split.images):
        images[row] = fitted(image, size)
    return Split(images, split.labels, split.where)
