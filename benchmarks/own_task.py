"""What a task of one's own costs against the built-in one, on the same work: epochs of both, in turn.

Run: python benchmarks/own_task.py [--epochs N]. Prints the ratio of the processor times of an epoch with its validation
(own / built-in), which other programs on the machine disturb less than the wall time.
"""

import argparse
import platform
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsharp.cpu import cpu_model
from zsharp.data import prepare
from zsharp.data.training_data import load_training_data
from zsharp.models import build_model
from zsharp.training import AugmentSpec, DataSpec, Training, TrainSpec, TrialSpec

TRAIN = TrainSpec(
    epochs=1_000,
    batch_size=64,
    warmup_epochs=1,
    schedule="constant",
    augment=AugmentSpec(crop_padding=0, flip=False),
)


class Digits:
    """Classifies digits as a user would write it: floats in memory, one line a method."""

    def __init__(self, seed: int, batch_size: int, device: torch.device) -> None:
        data = load_training_data(prepare("digits"), device=device)
        mean, std = (
            torch.tensor(value, device=device)[:, None, None] for value in (data.info.mean, data.info.std)
        )
        # The layout that our own convolutional networks train in.
        inputs = ((data.images / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        self.train = inputs[data.train_indices], data.labels[data.train_indices]
        self.val = inputs[data.val_indices], data.labels[data.val_indices]
        model = build_model("resnet8", data.info.image_shape, 10)
        self.model: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.seed, self.size = seed, batch_size
        self.steps_per_epoch = len(self.train[1]) // batch_size

    def batches(self, epoch: int) -> list[tuple[Tensor, Tensor]]:
        """Returns shuffled batches."""
        generator = torch.Generator().manual_seed(self.seed + 1_000 * epoch)
        order = torch.randperm(len(self.train[1]), generator=generator)
        inputs, labels = self.train
        return [(inputs[rows], labels[rows]) for rows in order.split(self.size)[: self.steps_per_epoch]]

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the cross-entropy."""
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def validate(self) -> dict[str, Tensor]:
        """Returns loss and accuracy."""
        logits = self.model(self.val[0])
        accuracy = (logits.argmax(1) == self.val[1]).float().mean()
        return {"val_loss": F.cross_entropy(logits, self.val[1]), "val_accuracy": accuracy}


def processor_time_s(training: Training) -> float:
    """Trains an epoch and validates."""
    started_s = time.process_time()
    training.run_epoch()
    return time.process_time() - started_s


def main() -> None:
    """Prints a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15, help="of each, per method (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{cpu_model()}, one thread, torch {torch.__version__}, Python {platform.python_version()}")
    for method in ("base", "sam", "zsharp"):
        spec = TrialSpec("resnet8", method, {"lr": 1e-3}, DataSpec(), TRAIN)
        built_in, own = Training(spec), Training(spec, task=Digits)
        for training in (built_in, own):
            training.run_epoch()
        ratios = []
        for number in range(options.epochs):
            order = (built_in, own) if number % 2 else (own, built_in)  # neither is always second
            times = {training: processor_time_s(training) for training in order}
            ratios.append(times[own] / times[built_in])
        low, _, high = statistics.quantiles(ratios, n=4)
        middle = statistics.median(ratios)
        print(
            f"{method:<8} own / built-in: {middle:.3f} (quartiles {low:.3f} to {high:.3f}, n = {len(ratios)})"
        )


if __name__ == "__main__":
    main()
