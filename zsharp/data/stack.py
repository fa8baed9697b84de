"""Puts images into one uint8 array, each fitted into one square size if asked for."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from zsharp.data.errors import data_error
from zsharp.data.limits import check_memory
from zsharp.data.source import Decoded, Images, Split


def stack_images(
    images: Iterable[tuple[str, Images]], count: int, size: int | None = None
) -> tuple[Images, bool]:
    """Returns `count` images of the same size as one array; grey ones become RGB.

    Args:
        images: Pairs of (where, uint8 [C, H, W]); `where` names the image in messages.
        count: How many pairs there are.
        size: Side of the square that every image is fitted into; None keeps the images as they are.

    Returns:
        uint8 [count, C, H, W] with at least 3 channels, and whether every image was grey (then the three are equal).

    Raises:
        DataError: An image differs from the first in size or channels, or there is not one for each label.
    """
    array: Images | None = None
    all_grey = True
    done = 0
    for where, image in images:
        if size is not None:
            image = fitted(image, size)
        channels, height, width = image.shape
        channels = 3 if channels == 1 else channels
        if array is None:
            first_where, first_channels, first_height, first_width = where, channels, height, width
            check_memory(count * channels * height * width, where)
            array = np.empty((count, channels, height, width), dtype=np.uint8)
        if (height, width) != (first_height, first_width):
            raise data_error(
                where,
                f"found {height} x {width} pixels (height x width)",
                f"{first_height} x {first_width}, as in {first_where}; data.image_size brings all to one size",
            )
        if channels != first_channels:
            raise data_error(where, f"found {channels} channels", f"{first_channels}, as in {first_where}")
        if done == count:
            raise data_error(where, "found more images than labels", "one label an image")
        all_grey &= image.shape[0] == 1
        array[done] = image
        done += 1
    if array is None:
        return np.empty((0, 3, 0, 0), dtype=np.uint8), all_grey
    if done != count:
        raise data_error(where, f"found {done} images for {count} labels", "one label an image")
    return array, all_grey


def fitted(image: Images, size: int) -> Images:
    """Returns the middle of an image uint8 [C, H, W], its shorter side resized with antialiasing: [C, size, size].

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


def fitted_data(decoded: Decoded, size: int) -> Decoded:
    """Returns a data set with all its images fitted."""
    return replace(decoded, train=_fitted_split(decoded.train, size), test=_fitted_split(decoded.test, size))


def _fitted_split(split: Split, size: int) -> Split:
    count, channels, *sides = split.images.shape
    if sides == [size, size] or not count:
        return split
    check_memory(count * channels * size * size, split.where)
    images = np.empty((count, channels, size, size), dtype=np.uint8)
    for row, image in enumerate(split.images):
        images[row] = fitted(image, size)
    return Split(images, split.labels, split.where)
