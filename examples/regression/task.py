"""A task of your own: regression on scikit-learn's diabetes data, searched for the lowest validation loss.

cd examples/regression
tune-jobs run job.yaml --out results
tune-jobs confirm results --seeds 5             # measures `test` as well
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn


class Diabetes:
    """Predicts the progression of the disease from ten measurements of a patient.

    Args:
        seed: The trial's; the order of the batches follows from it. The split is the same for all trials.
        batch_size: The job's `train.batch_size`.
        width: Of the hidden layers; a job sets it in `model`, as it does `dropout`.
    """

    def __init__(self, seed, batch_size, width=64, dropout=0.1):
        inputs, targets = (torch.tensor(part).float() for part in load_diabetes(return_X_y=True))
        rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
        train, val, test = rows[:266], rows[266:354], rows[354:]
        self.scale = targets[train].std()
        inputs = (inputs - inputs[train].mean(0)) / inputs[train].std(0)
        targets = (targets - targets[train].mean()) / self.scale
        self.train, self.val, self.held_out = ((inputs[part], targets[part]) for part in (train, val, test))
        self.model = nn.Sequential(
            nn.Linear(10, width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, 1), nn.Flatten(0),
        )  # fmt: skip
        self.seed, self.batch_size = seed, batch_size
        self.steps_per_epoch = len(train) // batch_size

    def batches(self, epoch):
        """Yields inputs and targets in an order that follows from the seed and the epoch."""
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        inputs, targets = self.train
        order = torch.randperm(len(inputs), generator=generator)
        for rows in order.split(self.batch_size)[: self.steps_per_epoch]:
            yield inputs[rows], targets[rows]

    def loss(self, batch):
        """Returns the mean squared error, in units of the training targets' variance."""
        inputs, targets = batch
        return nn.functional.mse_loss(self.model(inputs), targets)

    def validate(self):
        """Returns what is searched for, `val_loss`, and the mean absolute error in the units of the data."""
        return self._measured("val_loss", self.val)

    def test(self):
        """Returns the same of patients that no search sees."""
        return self._measured("test_loss", self.held_out)

    def _measured(self, name, part):
        device = next(self.model.parameters()).device
        inputs, targets = (values.to(device) for values in part)
        wrong = self.model(inputs) - targets
        return {name: wrong.square().mean(), "mean_absolute_error": wrong.abs().mean() * float(self.scale)}
