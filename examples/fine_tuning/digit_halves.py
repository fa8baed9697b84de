"""Fine-tuning from a file of weights: learn the digits 0 to 4, then 5 to 9 from few images with a frozen backbone.

Run as a script this file trains resnet8 on one half of the classes and writes its weights. The job starts every trial
from them (`init`), keeps the first layers as they are (`train.freeze`) and moves the last block slowly
(`train.lr_scale`). The job's data are a function of this file.

    cd examples/fine_tuning
    python digit_halves.py                          # writes weights.pt
    tune-jobs run job.yaml --out results
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from zsharp.training import DataSpec, Training, TrainSpec, TrialSpec


def load(first=5, every=1):
    """Returns train and test images and labels of five digits.

    Args:
        first: The lowest of them.
        every: Keep one training image of so many.
    """
    digits = load_digits()
    pixels = (digits.images * 255 / 16).round().astype(np.uint8)
    rows = np.flatnonzero((digits.target >= first) & (digits.target < first + 5))
    train, test = rows[: len(rows) // 2 : every], rows[len(rows) // 2 :]
    return (pixels[train], digits.target[train] - first), (pixels[test], digits.target[test] - first)


def pretrain(file, epochs=10):
    """Trains resnet8 on the digits 0 to 4 and writes its weights."""
    spec = TrialSpec(
        "resnet8",
        "base",
        {"lr": 0.01},
        DataSpec("digit_halves:load", arguments={"first": 0}),
        TrainSpec(epochs=epochs, batch_size=32, warmup_epochs=1),
        code=(str(Path(__file__).parent),),
    )
    training = Training(spec)
    while not training.is_finished:
        row = training.run_epoch()
    print(f"validation accuracy on 0 to 4: {row['val_accuracy']:.4f}")
    torch.save(training.model.state_dict(), file)


if __name__ == "__main__":
    pretrain(Path(__file__).parent / "weights.pt")
