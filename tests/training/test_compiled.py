"""Training with `torch.compile`: equal up to rounding, continued bit for bit, compiled once for runs of one kind."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from zsharp.training import Training, TrainSpec, TrialSpec
from zsharp.training.compile import compiles

NUM_STEPS = 5


class Task:
    """Batch norm, dropout and a last validation batch of another size."""

    steps_per_epoch = NUM_STEPS

    def __init__(self, seed, dropout):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(NUM_STEPS * 16 + 3, 5, generator=generator)
        self.y = self.x.sin().sum(1, keepdim=True)
        self.model = nn.Sequential(
            nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 1)
        )

    def batches(self, epoch):
        return [(self.x[i : i + 16], self.y[i : i + 16]) for i in range(0, NUM_STEPS * 16, 16)]

    def loss(self, batch):
        return nn.functional.mse_loss(self.model(batch[0]), batch[1])

    def validate(self):
        return {
            "val_loss": sum(
                self.loss((x, y)) for x, y in zip(self.x.split(16), self.y.split(16), strict=True)
            )
        }


def training(compile="true", dropout=0.0, method="zsharp"):
    train = TrainSpec(
        epochs=3,
        base_optimizer="sgd",  # Adam makes steps of the rounding in gradients that are zero
        batch_size=16,
        warmup_epochs=0,
        precision="fp32",
        ema_decay=0.9,
        clip_grad_norm=1.0,
        compile=compile,
    )
    spec = TrialSpec(
        "", method, {"lr": 0.01}, task="here:Task", metric="val_loss", device="cpu", train=train,
        model={"dropout": dropout},
    )  # fmt: skip
    return Training(spec, task=Task)


def weights(run):
    return [value.clone() for value in run.model.state_dict().values()]


# What torch itself says while it compiles.
quiet = pytest.mark.filterwarnings(
    "ignore:.torch.jit:DeprecationWarning", "ignore:.isinstance.treespec:FutureWarning"
)


@quiet
@pytest.mark.slow
@pytest.mark.parametrize("method", ["zsharp", "msam", "stale_sam"])
def test_compiled_it_trains_the_same_up_to_rounding(method):
    eager, compiled = training("false", method=method), training(method=method)
    for _ in range(2):
        row, compiled_row = eager.run_epoch(), compiled.run_epoch()
        for name in ("train_loss", "val_loss", "grad_norm", "perturbation_norm"):
            assert compiled_row[name] == pytest.approx(row[name], rel=1e-3), name
    for one, two in zip(weights(eager), weights(compiled), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
    assert int(compiled.model[1].num_batches_tracked) == 2 * NUM_STEPS, "the second pass does not count"


@quiet
@pytest.mark.slow
def test_it_goes_on_bit_for_bit_and_is_compiled_once_for_runs_of_a_kind(tmp_path):
    compiled = training(dropout=0.1)
    compiled.run_epoch()
    compiled.save(tmp_path / "checkpoint")
    compiled.run_epoch()
    before = counters["stats"]["unique_graphs"]
    again = training(dropout=0.1)
    again.load(tmp_path / "checkpoint")
    again.run_epoch()
    assert before > 0 and counters["stats"]["unique_graphs"] == before
    assert all(torch.equal(one, two) for one, two in zip(weights(compiled), weights(again), strict=True))
    with pytest.raises(ValueError, match="compile"):
        training("false", dropout=0.1).load(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("compile", "epochs", "steps", "gradients", "is_compiled"),
    [
        ("true", 1, 1, 1, True),
        ("false", 10**4, 10**4, 2, False),
        ("auto", 200, 390, 2, True),  # CIFAR-10, as in the paper
        ("auto", 8, 16, 2, False),
    ],
)
def test_auto_follows_from_how_long_a_trial_is(compile, epochs, steps, gradients, is_compiled):
    train = TrainSpec(epochs=epochs, batch_size=128, compile=compile)
    assert compiles(train, steps, gradients) is is_compiled
