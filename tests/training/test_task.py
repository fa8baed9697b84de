"""Tasks of the user's own: trained by the engine of image classification, and refused where they are none."""

from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import is_same, measured, small_spec
from torch import nn

from zsharp.data import prepare
from zsharp.data.training_data import load_training_data
from zsharp.optim import METHODS
from zsharp.training import Training, TrainSpec, TrialSpec
from zsharp.training.image_classification import ImageClassification
from zsharp.training.nested import leaves, map_tensors, num_examples
from zsharp.training.step_graph import CannotReplayError, copy_batch
from zsharp.user_code import UserCodeError

Pair = namedtuple("Pair", ["inputs", "targets"])


class Line:
    """Fits a line with noise from every global generator."""

    def __init__(self, seed, batch_size, width=4):
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(40, 3, generator=generator)
        self.targets = self.inputs.sum(1)
        self.model = nn.Sequential(nn.Linear(3, width), nn.Dropout(0.1), nn.Linear(width, 1), nn.Flatten(0))
        self.seed, self.size, self.steps_per_epoch = seed, batch_size, 40 // batch_size

    def batches(self, epoch):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(self.seed + 100 * epoch))
        for rows in order.split(self.size):
            yield {"pair": Pair(self.inputs[rows], self.targets[rows]), "name": "line"}

    def prepare(self, batch):
        inputs, targets = batch["pair"]
        return inputs + 0.01 * torch.randn_like(inputs) + 0.01 * float(np.random.rand()), targets

    def loss(self, batch):
        inputs, targets = batch
        return nn.functional.mse_loss(self.model(inputs), targets)

    def validate(self):
        wrong = self.model(self.inputs) - self.targets
        return {"val_loss": (wrong**2).mean(), "mae": np.float64(wrong.abs().mean()), "ones": torch.ones(1)}


def line_spec(method="zsharp", **train):
    settings = {"epochs": 3, "batch_size": 10, "warmup_epochs": 1.0, **train}
    return TrialSpec("-", method, {"lr": 0.01}, train=TrainSpec(**settings), metric="val_loss")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_it_and_continues_bit_for_bit(method, tmp_path):
    spec = line_spec(method, ema_decay=0.5, clip_grad_norm=1.0)
    whole = Training(spec, task=Line)
    rows = []
    while not whole.is_finished:
        rows.append(whole.run_epoch())
        if whole.epoch == 1:
            whole.save(tmp_path / "c.pt")
    resumed = Training(spec, task=Line)
    resumed.load(tmp_path / "c.pt")
    assert measured([resumed.run_epoch() for _ in range(2)]) == measured(rows[1:])
    assert is_same(resumed.model.state_dict(), whole.model.state_dict())
    assert rows[2]["val_loss"] < rows[0]["val_loss"]
    assert rows[2]["metrics"].keys() == {"mae", "ones"}
    assert rows[2]["gradient_evaluations"] == 12 * METHODS[method].gradient_evaluations_per_step
    assert rows[2]["train_accuracy"] is rows[2]["val_accuracy"] is None


class Copied(Line):
    """Image classification as a user would write it: whole batches instead of rows, everything else the same."""

    def __init__(self, seed, batch_size):
        spec = small_spec(max_images=300)
        self.inner = ImageClassification(spec, load_training_data(prepare("digits"), max_images=300))
        self.model, self.steps_per_epoch = self.inner.model, self.inner.steps_per_epoch

    def batches(self, epoch):
        return [self.inner.prepare(rows) for rows in self.inner.batches(epoch)]

    def prepare(self, batch):
        return batch

    def loss(self, batch):
        return self.inner.loss(batch)

    def validate(self):
        return self.inner.validate()


@pytest.mark.parametrize("method", ["base", "sam", "zsharp"])
def test_the_built_in_task_and_a_copy_of_ones_own_are_trained_alike(method):
    spec = small_spec(method)
    ours, theirs = Training(spec), Training(spec, task=Copied)
    for _ in range(2):
        row, other = ours.run_epoch(), theirs.run_epoch()
        assert (row["val_loss"], row["train_loss"]) == (other["val_loss"], other["train_loss"])
    assert is_same(ours.model.state_dict(), theirs.model.state_dict())


def test_averaged_weights_are_what_is_validated_and_leave_no_trace():
    training = Training(line_spec(ema_decay=0.5), task=Line)
    training.run_epoch()
    trained = [param.clone() for param in training.model.parameters()]
    averaged = training.validate()["val_loss"]
    assert is_same(list(training.model.parameters()), trained)
    with torch.no_grad():
        for param, average in zip(training.model.parameters(), training._average, strict=True):
            param.copy_(average)
    training._average = []
    assert training.validate()["val_loss"] == averaged


def changed(**methods):
    return type("Changed", (Line,), methods)


def with_model(model):
    def init(self, seed, batch_size):
        Line.__init__(self, seed, batch_size)
        self.model = model() if callable(model) else model

    return changed(__init__=init)


def with_steps(steps):
    def init(self, seed, batch_size):
        Line.__init__(self, seed, batch_size)
        self.steps_per_epoch = steps

    return changed(__init__=init)


def raising(*_):
    raise RuntimeError("my own reason")


BAD = {
    "raises": (raising, "my own reason"),
    "no task": (lambda seed: 3, "without a method 'batches'"),
    "no loss": (changed(loss=None), "without a method 'loss'"),
    "no model": (with_model(3), "expected a torch.nn.Module"),
    "nothing to train": (with_model(nn.Flatten), "no parameters that need gradients"),
    "no steps": (with_steps(0), "steps_per_epoch is 0"),
    "steps as text": (with_steps("4"), "steps_per_epoch is '4'"),
    "too few batches": (with_steps(5), "gave 4 batches; steps_per_epoch is 5"),
    "too many batches": (with_steps(3), "gave more than 3 batches; steps_per_epoch is 3"),
    "no batches": (changed(batches=lambda self, epoch: []), "gave 0 batches"),
    "loss of a batch": (changed(loss=lambda self, batch: self.model(batch[0])), "of shape [10]"),
    "loss without graph": (
        changed(loss=lambda self, batch: Line.loss(self, batch).detach()),
        "without a graph",
    ),
    "loss as number": (changed(loss=lambda self, batch: Line.loss(self, batch).item()), "a float"),
    "loss on another device": (
        changed(loss=lambda self, batch: Line.loss(self, batch).to("meta")),
        "on meta",
    ),
    "validate returns a number": (changed(validate=lambda self: 1.0), "a float"),
    "validate without the metric": (
        changed(validate=lambda self: {"mae": 1.0}),
        "the job's metric is 'val_loss'",
    ),
    "validate returns text": (changed(validate=lambda self: {"val_loss": "low"}), "as a str"),
    "validate returns many": (changed(validate=lambda self: {"val_loss": torch.ones(2)}), "2 elements"),
    "validate returns a name of ours": (changed(validate=lambda self: {"epoch": 1}), "'epoch'"),
}


@pytest.mark.parametrize(("make", "said"), BAD.values(), ids=BAD)
def test_what_is_no_task_is_told(make, said):
    with pytest.raises(UserCodeError) as caught:
        Training(line_spec(), task=make).run_epoch()
    assert said in str(caught.value)


def test_a_metric_of_training_that_nothing_gives_is_told():
    with pytest.raises(UserCodeError, match="train_accuracy"):
        Training(replace(line_spec(), metric="train_accuracy"), task=Line).run_epoch()


def test_arguments_go_by_name():
    assert Training(replace(line_spec(), model={"width": 7}), task=Line).model[0].out_features == 7
    with pytest.raises(UserCodeError, match="did you mean width"):
        Training(replace(line_spec(), model={"widht": 7}), task=Line)


@pytest.mark.parametrize("broken", ["loss", "metric"])
def test_a_number_that_is_not_finite_is_divergence(broken):
    def nan(self, *_):
        return {"val_loss": float("nan")} if broken == "metric" else Line.loss(self, *_) * float("nan")

    task = changed(**{"loss" if broken == "loss" else "validate": nan})
    assert Training(line_spec(), task=task).run_epoch()["diverged"] == 1


def test_nested_batches():
    batch = {"a": Pair(torch.ones(3, 2), [torch.zeros(3)]), "b": "text"}
    doubled = map_tensors(lambda tensor: tensor * 2, batch)
    assert type(doubled["a"]) is Pair
    assert float(doubled["a"].inputs.sum()) == 12
    assert [type(leaf).__name__ for leaf in leaves(doubled)] == ["Tensor", "Tensor", "str"]
    assert num_examples(batch) == 3
    copy_batch(doubled, batch)
    assert is_same(doubled, batch)
    for other in (
        {"a": Pair(torch.ones(2, 2), [torch.zeros(3)]), "b": "text"},
        {"a": Pair(torch.ones(3, 2), [torch.zeros(3)]), "b": "other"},
        {"a": Pair(torch.ones(3, 2), []), "b": "text"},
        {"a": Pair(torch.ones(3, 2).double(), [torch.zeros(3)]), "b": "text"},
    ):
        with pytest.raises(CannotReplayError):
            copy_batch(doubled, other)
    assert is_same(doubled, batch)
