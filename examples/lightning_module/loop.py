"""A Lightning module that is searched: Lightning trains, the search decides after each epoch.

The module is as it would be without a search, but for `configure_optimizers`. Lightning's own checkpoint is what
`trial.save` keeps, so a trial that was killed continues to the same numbers.

    cd examples/lightning_module
    tune-jobs run job.yaml --out results            # kill it and run it again: it resumes
"""

import logging
import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # else every trial lists the devices


class Digits(pl.LightningModule):
    """Classifies scikit-learn's digits."""

    def __init__(self, make_optimizer):
        super().__init__()
        self.make_optimizer = make_optimizer
        self.layers = nn.Sequential(
            nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10)
        )

    def configure_optimizers(self):
        """Returns the trial's method; Lightning passes its `step` a closure, which both passes of a step call."""
        return self.make_optimizer(self)

    def training_step(self, batch, _):
        """Returns the mean cross-entropy."""
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch, _):
        """Logs what is searched for, and the loss."""
        logits = self.layers(batch[0])
        accuracy = (logits.argmax(1) == batch[1]).float().mean()
        self.log_dict({"val_accuracy": accuracy, "val_loss": nn.functional.cross_entropy(logits, batch[1])})


class Reporter(pl.Callback):
    """Saves and reports each epoch; `report` ends the loop if the trial is stopped."""

    def __init__(self, trial, file):
        self.trial, self.file = trial, file

    def on_train_epoch_end(self, trainer, _):
        """Called after the epoch's validation."""
        trainer.save_checkpoint(self.file, weights_only=False)
        self.trial.save(torch.load(self.file, weights_only=True))
        self.trial.report(epoch=trainer.current_epoch + 1, **trainer.callback_metrics)


def train(trial):
    """Trains a trial: the job's `train: {loop: "loop:train"}` names this function."""
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data / 16).float(), torch.tensor(digits.target))
    train_data, val_data = (torch.utils.data.Subset(data, range(*part)) for part in ((0, 1400), (1400, 1797)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "last.ckpt"
        trainer = pl.Trainer(
            max_epochs=trial.epochs, accelerator=trial.device.type, devices=1, num_sanity_val_steps=0,
            callbacks=[Reporter(trial, file)], default_root_dir=folder,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        module = Digits(trial.optimizer)
        loaders = DataLoader(train_data, 64, shuffle=True), DataLoader(val_data, 397)
        # Last, since it puts the generators back to where they were, whatever was drawn above.
        if (state := trial.load()) is not None:
            torch.save(state, file)
        trainer.fit(module, *loaders, ckpt_path=None if state is None else file)
