"""The built-in task: classify images of a decoded data set."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from zsharp.data import DataInfo, prepare
from zsharp.data.training_data import TrainingData, load_test_data
from zsharp.models import build_model, is_library_name, layout_of
from zsharp.models.libraries import weights_input
from zsharp.training.batches import Batches, resolve_augmentation
from zsharp.training.deterministic import repeatable
from zsharp.training.nested import to_device
from zsharp.training.processes import Processes
from zsharp.training.spec import TrialSpec

_ALONE = Processes()


class ImageClassification:
    """A `Task` whose batches are rows of the training set until `prepare` makes augmented images of them.

    Of data that stay on the host, its batches are the images and labels themselves.

    Args:
        spec: Of an architecture and a data set.
        data: The training set.
        processes: Which of several processes validates what part.

    Attributes:
        data: The training set.

    Raises:
        ValueError: If the architecture or the batch size does not fit the data.
    """

    def __init__(self, spec: TrialSpec, data: TrainingData, processes: Processes = _ALONE) -> None:
        self.data = data
        # A sharded model has to take as many passes in every process.
        self._processes = _ALONE if spec.train.sharding == "full" else processes
        self._spec = spec
        info = data.info
        self._device = data.device
        model = build_model(
            spec.architecture,
            info.image_shape,
            info.num_classes,
            arguments=spec.model,
            code=spec.code,
            pretrained=spec.init.pretrained,
        )
        layout = layout_of(spec.architecture, model)
        self.model = model.to(self._device, memory_format=layout)  # type: ignore[call-overload]
        augmentation = resolve_augmentation(spec.train.augment, data)
        normalisation = normalisation_of(spec, info)
        self._batches = Batches(
            data, spec.train.batch_size, augmentation, layout, spec.train.seed + 1, normalisation
        )
        self.steps_per_epoch = self._batches.steps_per_epoch
        self._smoothing = spec.params.get("label_smoothing", spec.train.label_smoothing)

    @property
    def generators(self) -> Sequence[Generator]:
        """The source of order and augmentation."""
        return [self._batches.generator]

    @property
    def runs_on_device(self) -> bool:
        """Whether a CUDA graph can hold a step: RandAugment draws its operations on the host."""
        return self._batches.runs_on_device

    def batches(self, epoch: int) -> Iterator[Tensor] | Iterator[tuple[Tensor, Tensor]]:
        """Yields the rows of each batch, int64 [B], or its images and labels, in a new order at every call."""
        order = self._batches.draw_order()
        return (
            self._batches.streamed(order.flatten(), order.shape[1]) if self.data.is_streamed else iter(order)
        )

    def prepare(self, batch: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns augmented, normalised images, their targets, and their labels before mixing."""
        if isinstance(batch, Tensor):
            batch = self.data.images[batch], self.data.labels[batch]
        return self._batches.batch(*batch)

    def normalised(self, images: Tensor) -> Tensor:
        """Returns uint8 images [B, C, H, W] as the model's inputs."""
        return self._batches.normalised(images)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Returns the mean cross-entropy with label smoothing."""
        inputs, targets, labels = batch
        logits = self.model(inputs)
        self._last = logits.detach(), labels
        return F.cross_entropy(logits.float(), targets, label_smoothing=self._smoothing)

    def train_metrics(self) -> Mapping[str, Tensor]:
        """Returns the share of images that the last call of `loss` classified correctly."""
        logits, labels = self._last
        return {"accuracy": (logits.argmax(1) == labels).float().mean()}

    def validate(self) -> dict[str, float]:
        """Returns `val_loss` and `val_accuracy` on the validation part; nothing if it is empty."""
        count = len(self.data.val_indices)
        if not count:
            return {}
        rows = self.data.val_indices[self._processes.rank :: self._processes.size]
        size = self._spec.train.eval_batch_size
        if self.data.is_streamed:
            sums = self._evaluate(self._batches.streamed(rows, size) if len(rows) else ())
        else:
            sums = self._evaluate(self._parts(self.data.images[rows], self.data.labels[rows]))
        loss, accuracy = (self._processes.sum(sums) / count).tolist()
        return {"val_loss": loss, "val_accuracy": accuracy}

    def test(self) -> dict[str, float]:
        """Returns `test_loss` and `test_accuracy` on the test set. A search must not call this."""
        data = self._spec.data
        prepared = prepare(**data.source, code=self._spec.code)
        images, labels = load_test_data(prepared, on_device=data.on_device, device=self._device)
        loss, accuracy = self.evaluate(images, labels)
        return {"test_loss": loss, "test_accuracy": accuracy}

    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Returns the mean cross-entropy and the accuracy on uint8 images [N, C, H, W] and labels [N].

        The model is used as it is; the engine puts it into eval mode and its averaged weights in place.
        """
        loss, accuracy = (self._evaluate(self._parts(images, labels)) / len(labels)).tolist()
        return loss, accuracy

    def _parts(self, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        size = self._spec.train.eval_batch_size
        for part in (
            zip(torch.split(images, size), torch.split(labels, size), strict=True) if len(images) else ()
        ):
            yield to_device(part, self._device)

    @torch.no_grad()
    def _evaluate(self, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Returns the sums of the losses and of the correct answers, float64 [2]."""
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        with repeatable(self._device):
            for batch, answers in parts:
                logits = self.model(self.normalised(batch))
                batch_loss = F.cross_entropy(logits.float(), answers, reduction="sum")
                num_correct = (logits.argmax(1) == answers).sum()
                sums += torch.stack([batch_loss.double(), num_correct.double()])
        return sums

    def state_dict(self) -> dict[str, Any]:
        """Returns which data it is, and where the generator of order and augmentation stands."""
        return {"data": self.data.info.checksum, "batches": self._batches.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state.

        Raises:
            ValueError: If it belongs to other data.
        """
        info = self.data.info
        if state["data"] != info.checksum:
            raise ValueError(
                f"checkpoint of other data: checksum {state['data']}; "
                f"expected {info.checksum}, that of {info.name!r}"
            )
        self._batches.generator.set_state(state["batches"].cpu())


def normalisation_of(spec: TrialSpec, info: DataInfo) -> tuple[Sequence[float], Sequence[float]] | None:
    """Returns the channels' mean and deviation that a library's weights expect; None for those of the data.

    A weight file of a library's architecture is taken to be one that the library publishes. For images of other than
    three channels the weights' values are averaged.
    """
    if not (spec.init.pretrained or spec.init.weights) or not is_library_name(spec.architecture):
        return None
    seen = weights_input(spec.architecture)
    if seen is None:
        return None
    channels = info.image_shape[0]
    if channels == len(seen.mean):
        return seen.mean, seen.std
    return [fmean(seen.mean)] * channels, [fmean(seen.std)] * channels
