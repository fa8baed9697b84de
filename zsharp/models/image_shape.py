"""Which image shapes an architecture can take."""

ImageShape = tuple[int, int, int]
"""Channels, height, width."""


def check_min_side(name: str, image_shape: ImageShape, *, min_side: int) -> None:
    """Refuse images with a side shorter than `min_side` pixels.

    Raises:
        ValueError: naming the architecture, the shape and the shortest side that it takes.
    """
    _check_positive(name, image_shape)
    _, height, width = image_shape
    if min(height, width) < min_side:
        raise _refusal(name, image_shape, f"height and width must each be at least {min_side} pixels")


def check_patch_grid(name: str, image_shape: ImageShape, *, patches_per_side: int) -> None:
    """Refuse images that are not square or cannot be cut into `patches_per_side` equal patches a side.

    Raises:
        ValueError: naming the architecture, the shape and the sides that it takes.
    """
    _check_positive(name, image_shape)
    _, height, width = image_shape
    if height != width or height % patches_per_side:
        raise _refusal(
            name,
            image_shape,
            f"height and width must be equal and a multiple of {patches_per_side} pixels "
            f"(it cuts an image into {patches_per_side} x {patches_per_side} patches)",
        )


def _check_positive(name: str, image_shape: ImageShape) -> None:
    if len(image_shape) != 3 or any(not isinstance(size, int) or size < 1 for size in image_shape):
        raise ValueError(
            f"architecture {name!r}: the image shape must be three positive whole numbers "
            f"(channels, height, width), not {image_shape!r}"
        )


def _refusal(name: str, image_shape: ImageShape, valid: str) -> ValueError:
    channels, height, width = image_shape
    return ValueError(
        f"architecture {name!r} cannot take images of {channels} x {height} x {width} "
        f"(channels x height x width): {valid}"
    )
