"""A training loop on Hugging Face's Accelerate that is searched: the loop is yours, line by line.

What the next epoch depends on is in the state that it saves, or follows from the generators that `trial` seeds for
every epoch, so a trial that was killed continues to the same numbers.

    cd examples/accelerate_loop
    tune-jobs run job.yaml --out results            # kill it and run it again: it resumes
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def network(width):
    """Returns a small convolutional network for digits [batch, 1, 8, 8]."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(width * 16, 10),
    )  # fmt: skip


def loaders():
    """Returns the batches of 1400 images to train on, in random order, and of the other 397."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16).float().unsqueeze(1), torch.tensor(digits.target)
    parts = TensorDataset(images[:1400], labels[:1400]), TensorDataset(images[1400:], labels[1400:])
    return DataLoader(parts[0], 64, shuffle=True), DataLoader(parts[1], 397)


def train(trial):
    """Trains a trial: the job's `train: {loop: "loop:train"}` names this function."""
    accelerator = Accelerator(cpu=trial.device.type == "cpu")
    model, train_batches, val_batches = accelerator.prepare(network(trial.params["width"]), *loaders())
    optimizer = trial.optimizer(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, trial.epochs)
    if (state := trial.load()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    for epoch in range(trial.epoch, trial.epochs):
        model.train()
        for images, labels in train_batches:

            def closure(images=images, labels=labels):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images), labels)
                accelerator.backward(loss)
                return loss

            optimizer.step(closure, model=model)  # batch norm counts each batch once
        schedule.step()
        states = {"model": model, "optimizer": optimizer, "schedule": schedule}
        trial.save({name: part.state_dict() for name, part in states.items()})
        trial.report(epoch=epoch + 1, **validate(model, val_batches))


def validate(model, batches):
    """Returns what is searched for, and the loss."""
    model.eval()
    with torch.no_grad():
        ((images, labels),) = batches
        logits = model(images)
    accuracy = (logits.argmax(1) == labels).float().mean()
    return {"val_accuracy": accuracy, "val_loss": nn.functional.cross_entropy(logits, labels)}
