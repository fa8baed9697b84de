"""Measures the model of a training run on a fixed subset of its training images."""

from typing import TYPE_CHECKING

import torch

from zsharp.data import subset_indices
from zsharp.sharpness.measure import measure
from zsharp.training.image_classification import ImageClassification

if TYPE_CHECKING:
    from zsharp.training import Training

NUM_IMAGES = 1024
_BATCH_SIZE = 256


def measure_training(training: "Training", *, num_images: int = NUM_IMAGES) -> dict[str, float | None]:
    """Returns `measure` of the run's model, with default settings and without augmentation.

    The images are drawn with the classes in proportion and a fixed seed, so runs on the same training part are
    measured on the same images in the same groups. The loss is the cross-entropy in float32 without label
    smoothing, the weights are the trained ones (not their average), batch norm uses its running statistics.

    Args:
        num_images: Number of images, or all training images if there are fewer.
    """
    data = training.data
    labels = data.labels[data.train_indices].cpu().numpy()
    chosen = torch.from_numpy(subset_indices(labels, min(num_images, len(labels)), seed=0))
    # Shuffled, because m-sharpness takes its groups in order and the indices come sorted.
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    rows = data.train_indices[chosen.to(data.train_indices.device)]
    task = training.task
    assert isinstance(task, ImageClassification)
    batches = [
        (task.normalised(data.images[part.to(data.images.device)].to(training.device)), data.labels[part])
        for part in torch.split(rows, _BATCH_SIZE)
    ]
    return measure(training.model, batches, max_examples=len(rows))
