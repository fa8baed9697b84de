"""From rows of the training set to augmented, normalised batches on the device."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zsharp.data.augment import Augmentation, augment, mix, normalise
from zsharp.data.prefetch import prefetched
from zsharp.data.training_data import TrainingData
from zsharp.training.spec import AugmentSpec


class Batches:
    """Batches of one run, all of one size.

    Args:
        batch_size: Images per batch; an incomplete last batch is dropped, with different images each epoch.
        normalisation: Mean and deviation of each channel, of images in [0, 1]; the training set's if not given.

    Attributes:
        steps_per_epoch: Whole batches of the training part.
        generator: Source of order and augmentation.
        runs_on_device: Whether batches are made on the device alone, so that a CUDA graph can hold them.

    Raises:
        ValueError: If the training part is smaller than one batch.
    """

    def __init__(
        self,
        data: TrainingData,
        batch_size: int,
        augmentation: Augmentation,
        layout: torch.memory_format,
        seed: int,
        normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        self._data, self._size, self._augmentation, self._layout = data, batch_size, augmentation, layout
        num_images = len(data.train_indices)
        if batch_size > num_images:
            raise ValueError(f"batch_size is {batch_size}; valid: at most {num_images}, the training images")
        self.steps_per_epoch = num_images // batch_size
        device = data.device
        self.generator = torch.Generator(device).manual_seed(seed)
        # RandAugment draws its operations on the host.
        self.runs_on_device = augmentation.randaugment == 0
        mean, std = normalisation or (data.info.mean, data.info.std)
        self._mean = torch.tensor(mean, device=device)
        self._std = torch.tensor(std, device=device)

    def draw_order(self) -> Tensor:
        """Returns the rows of an epoch's batches, int64 [steps_per_epoch, B], in a new order at every call."""
        indices = self._data.train_indices
        order = torch.randperm(len(indices), generator=self.generator, device=indices.device)
        return indices[order[: self.steps_per_epoch * self._size]].view(self.steps_per_epoch, self._size)

    def streamed(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the images uint8 [B, C, H, W] and labels [B] of `size` rows after `size` rows, from the host."""
        data = self._data
        images = prefetched(data.images, torch.split(rows.cpu(), size), data.device)
        return zip(images, torch.split(data.labels[rows], size), strict=True)

    def batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns inputs [B, C, H, W], targets [B, num_classes] or labels [B], and the labels [B] before mixing.

        Args:
            images: uint8 [B, C, H, W] on the device.
            labels: int64 [B] on the device.
        """
        images = augment(images, self._augmentation, self.generator)
        inputs, targets = self.normalised(images), labels
        if self._augmentation.mixup > 0 or self._augmentation.cutmix > 0:
            num_classes = self._data.info.num_classes
            inputs, targets = mix(inputs, labels, num_classes, self._augmentation, self.generator)
        return inputs, targets, labels

    def normalised(self, images: Tensor) -> Tensor:
        """Returns uint8 images [B, C, H, W] as float32 inputs; the training set's have channel mean 0 and deviation 1,
        unless the model's weights expect another normalisation.
        """
        return normalise(images, self._mean, self._std, torch.float32).contiguous(memory_format=self._layout)


def resolve_augmentation(spec: AugmentSpec, data: TrainingData) -> Augmentation:
    """Fills in what the spec leaves to the data: padding of an eighth of the side, flips where they make sense."""
    side = min(data.info.image_shape[1:])
    return Augmentation(
        crop_padding=side // 8 if spec.crop_padding is None else spec.crop_padding,
        flip=data.info.flip if spec.flip is None else spec.flip,
        cutout=spec.cutout,
        randaugment=spec.randaugment,
        mixup=spec.mixup,
        cutmix=spec.cutmix,
    )
