"""A network of your own beside one of ours, on a folder of images.

`small` is all that a network needs: the job calls it with the shape of the images, the number of classes and what its
`model` and `space` sections say. The rest of this file writes the images, scikit-learn's digits, one folder a class:

    cd examples/own_network
    python nets.py                                  # writes digits/train/0/*.png and so on
    tune-jobs run job.yaml --out results
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn


def small(image_shape, num_classes, width=32, dropout=0.1):
    """Returns two convolutions and a linear layer."""
    channels = image_shape[0]
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(4 * width, num_classes),
    )


def write_images(root):
    """Writes every fifth image below `root`/test and the others below `root`/train."""
    digits = load_digits()
    pixels = (digits.images * 255 / 16).round().astype(np.uint8)
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        folder = root / ("train" if number % 5 else "test") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:04}.png")


if __name__ == "__main__":
    write_images(Path(__file__).parent / "digits")
