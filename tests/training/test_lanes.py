"""Runs that take turns in one process are the runs alone, bit for bit, whatever happens to the others."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import AUGMENT, is_same, measured, small_spec
from torch import nn

from zsharp.training import Training, TrainSpec, TrialSpec
from zsharp.training.lanes import Lanes

EPOCHS = 2


class Noisy:
    """A task of somebody's own that draws from every global generator; fails at a step if told to."""

    def __init__(self, seed, steps, fails_at=None):
        self.steps_per_epoch, self._fails_at, self._num_losses = steps, fails_at, 0
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 1))

    def batches(self, epoch):
        for _ in range(self.steps_per_epoch):
            x = torch.randn(6, 4) * random.random()
            yield x, x.sum(1, keepdim=True) + np.random.rand()

    def loss(self, batch):
        self._num_losses += 1
        if self._num_losses == self._fails_at:
            raise ValueError("no more")
        return nn.functional.mse_loss(self.model(batch[0]), batch[1])

    def validate(self):
        return {"val_loss": random.random() + self.loss((torch.ones(2, 4), torch.ones(2, 1)))}


def noisy(method, seed, steps, **model):
    train = TrainSpec(epochs=EPOCHS, batch_size=6, warmup_epochs=0, seed=seed, precision="fp32")
    spec = TrialSpec(
        "", method, {"lr": 0.05}, task="here:Noisy", metric="val_loss", device="cpu", train=train,
        model={"steps": steps, **model},
    )  # fmt: skip
    return lambda: Training(spec, task=Noisy)


def images(method, seed, **train):
    spec = small_spec(method, max_images=70, epochs=EPOCHS, seed=seed, augment=AUGMENT, **train)
    return lambda: Training(replace(spec, device="cpu"))


def state_of(training):
    """Everything that the rest of the run depends on; called where its generators are the process's."""
    # A run of ours draws from torch's generators alone, and seeds no others.
    is_noisy = isinstance(training.task, Noisy)
    return {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "torch": torch.get_rng_state(),
        "python": random.getstate() if is_noisy else None,
        "numpy": [np.random.get_state()[1].tolist(), np.random.get_state()[2]] if is_noisy else None,
        "own": [generator.get_state() for generator in getattr(training.task, "generators", [])],
    }


def alone(make, num_epochs=EPOCHS):
    training = make()
    return measured([training.run_epoch() for _ in range(num_epochs)]), state_of(training)


MAKES = {
    "noisy zsharp": noisy("zsharp", 3, 5),
    "noisy random": noisy("random_sam", 4, 3),
    "images": images("random_sam", 5, batch_size=20),
    "other images": images("zsharp_friendly_sam", 6, batch_size=30, ema_decay=0.9),
}


def together(lanes, makes, stop_after=None):
    """The rows and errors of each lane, and its state when it ends or is stopped."""
    by_lane = {lanes.add(make): name for name, make in makes.items()}
    rows, states = {name: [] for name in makes}, {}
    for lane, outcome in lanes.run():
        name = by_lane[lane]
        rows[name].append(outcome)
        if name == stop_after:
            lanes.stop(lane)
        with lane.inside():
            states[name] = state_of(lane.training)
    return rows, states


def test_runs_that_take_turns_are_the_runs_alone():
    before = torch.get_rng_state(), random.getstate()
    torch.manual_seed(99)
    random.seed(99)
    mine = torch.get_rng_state(), random.getstate()
    rows, states = together(Lanes(torch.device("cpu")), MAKES)
    assert torch.equal(torch.get_rng_state(), mine[0]) and random.getstate() == mine[1], "the caller's own"
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    for name, make in MAKES.items():
        expected, state = alone(make)
        assert measured(rows[name]) == expected, name
        assert is_same(states[name], state), name


@pytest.mark.parametrize(
    ("fails_at", "num_outcomes"),
    [(1, 1), (5, 1), (9, 1), (14, 2)],
    ids=["step", "later", "validation", "epoch 2"],
)
def test_a_run_that_fails_or_is_stopped_touches_no_other(fails_at, num_outcomes):
    makes = {
        "fails": noisy("sam", 1, 4, fails_at=fails_at),
        "stops": noisy("sam", 2, 4),
        "noisy": MAKES["noisy zsharp"],
    }
    rows, states = together(Lanes(torch.device("cpu")), makes, stop_after="stops")
    *_, error = rows["fails"]
    assert isinstance(error, ValueError) and len(rows["fails"]) == num_outcomes
    assert (measured(rows["stops"]), len(rows["stops"])) == (alone(makes["stops"], 1)[0], 1)
    expected, state = alone(makes["noisy"])
    assert measured(rows["noisy"]) == expected
    assert is_same(states["noisy"], state)


def test_a_lane_can_be_saved_and_go_on_among_others(tmp_path):
    lanes = Lanes(torch.device("cpu"))
    first = lanes.add(MAKES["noisy zsharp"])
    lanes.add(MAKES["images"])
    for lane, _ in lanes.run():
        if lane is first:
            with lane.inside():
                lane.training.save(tmp_path / "checkpoint")
            break

    def resumed():
        training = MAKES["noisy zsharp"]()
        training.load(tmp_path / "checkpoint")
        return training

    rows, states = together(Lanes(torch.device("cpu")), {"resumed": resumed, "other": MAKES["images"]})
    expected, state = alone(MAKES["noisy zsharp"])
    assert measured(rows["resumed"])[-1] == expected[-1]
    assert is_same(states["resumed"]["model"], state["model"])
