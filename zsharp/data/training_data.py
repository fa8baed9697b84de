"""The training set as tensors ready for batches: memory-mapped on the CPU, copied once to a GPU that has room."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsharp.data.cache import DataInfo, PreparedData
from zsharp.data.placement import OnDevice, stays_on_host
from zsharp.data.split import split_indices, subset_indices


@dataclass(frozen=True)
class TrainingData:
    """A training set, split into a part to train on and a part to validate on. Holds no test images."""

    info: DataInfo  # shape, classes, channel statistics
    images: Tensor  # uint8 [N, C, H, W], read-only; on the device unless `is_streamed`
    labels: Tensor  # int64 [N]
    train_indices: Tensor  # int64 [num_train], rows to train on
    # int64 [num_val], rows to validate on: the data set's own, or a share of the rest; empty if `val_fraction` is 0
    val_indices: Tensor
    is_streamed: bool = (
        False  # whether the images stay on the host, and batches of them are copied to the device
    )

    @property
    def device(self) -> torch.device:
        """Where the data are trained on."""
        return self.train_indices.device


def load_training_data(
    prepared: PreparedData,
    *,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    max_images: int | None = None,
    on_device: OnDevice = "auto",
    device: torch.device | str = "cpu",
) -> TrainingData:
    """Returns the split training set of a data set.

    A data set that brings validation images of its own is validated on those, whatever share `val_fraction` says;
    only 0 trains on them too. On the CPU the images stay memory-mapped, so all processes of a machine share one
    copy. The last result is kept for the next trial of the same worker.

    Args:
        on_device: Whether the images lie on the device: `always`, `never`, or `auto`, while they fit into a quarter
            of its free memory. Where they do not, batches are copied to it, and are the same.

    Raises:
        ValueError: If the split or the subset does not fit the data.
    """
    where = str(device), on_device
    return _load(prepared.folder, prepared.info, val_fraction, split_seed, max_images, *where)


def load_test_data(
    prepared: PreparedData, *, on_device: OnDevice = "auto", device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Returns the test set: uint8 images [N, C, H, W] and int64 labels [N]. A search must not read it.

    The images are on the host where `on_device` keeps those of `load_training_data` there.
    """
    images, labels = prepared.test()
    is_streamed = stays_on_host(on_device, images.nbytes, str(device))
    return _tensor(images).to("cpu" if is_streamed else device), _tensor(labels).to(device)


@lru_cache(maxsize=1)
def _load(
    folder: Path,
    info: DataInfo,
    val_fraction: float,
    split_seed: int,
    max_images: int | None,
    device: str,
    on_device: OnDevice,
) -> TrainingData:
    images, labels = PreparedData(info, folder).train()
    if max_images is not None and max_images > info.num_train:
        given = f"max_images is {max_images} for data set {info.name!r}"
        raise ValueError(f"{given}; valid: at most {info.num_train}, its training images")
    chosen, own_val = np.arange(info.num_train), np.arange(info.num_train, len(labels))
    if max_images is not None:
        chosen = subset_indices(labels[: info.num_train], max_images, split_seed)
    train, val = np.concatenate([chosen, own_val]), chosen[:0]
    if val_fraction != 0 and len(own_val):
        train, val = chosen, own_val
    elif val_fraction != 0:
        train, val = (chosen[part] for part in split_indices(labels[chosen], val_fraction, split_seed))
    is_streamed = stays_on_host(on_device, images.nbytes, str(device))
    pixels = _tensor(images).to("cpu" if is_streamed else device)
    answers, train_rows, val_rows = (_tensor(array).to(device) for array in (labels, train, val))
    return TrainingData(info, pixels, answers, train_rows, val_rows, is_streamed)


def _tensor(array: NDArray[np.uint8] | NDArray[np.int64]) -> Tensor:
    with warnings.catch_warnings():
        # torch warns that writing to this tensor would be undefined; nothing writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
