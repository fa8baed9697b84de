"""Inside an epoch's steps the host reads nothing back, so a GPU never waits for it."""

from itertools import cycle

import pytest
import torch
from small_runs import AUGMENT, one_step_spec, small_spec
from torch.utils._python_dispatch import TorchDispatchMode

from zsharp.optim import METHODS
from zsharp.optim.ascent import ascent
from zsharp.training import Training


class HostReads(TorchDispatchMode):
    """Counts reads of a tensor's value by the host: `.item()`, `float()`, `int()`, `bool()`."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def reads_of_an_epochs_steps(training):
    with HostReads() as reads:
        rates = training._device_rates[: training.task.steps_per_epoch]
        for _ in training._take_steps(training.task.batches(0), rates):
            pass
    assert training.task.steps_per_epoch == 5
    return reads.count


def test_the_counter_counts():
    with HostReads() as reads:
        value = torch.ones(2).sum()
        assert value > 1
        assert float(value) + value.item() == 4
    assert reads.count == 3


WITHOUT_FILTER = [name for name, row in METHODS.items() if row.rules.filter == "none"]


@pytest.mark.parametrize(
    ("method", "base"), list(zip(WITHOUT_FILTER, cycle(["sgd", "adam", "adamw"]), strict=False))
)
def test_steps_without_a_filter_read_nothing(method, base):
    training = Training(small_spec(method, base_optimizer=base))
    assert reads_of_an_epochs_steps(training) == 0


def test_augmentation_mixing_clipping_and_averaging_read_nothing():
    training = Training(
        small_spec("sam", augment=AUGMENT, clip_grad_norm=0.1, ema_decay=0.9, label_smoothing=0.1)
    )
    assert reads_of_an_epochs_steps(training) == 0


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.rules.filter != "none"])
def test_the_filter_as_it_runs_on_a_gpu_reads_nothing(method, monkeypatch):
    on_host = Training(one_step_spec(method)).run_epoch()
    monkeypatch.setattr(ascent, "_is_host", lambda devices: False)
    assert reads_of_an_epochs_steps(Training(small_spec(method))) == 0
    on_device = Training(one_step_spec(method)).run_epoch()
    for name in ("train_loss", "grad_norm", "perturbation_norm", "kept_fraction"):
        assert on_device[name] == pytest.approx(on_host[name], rel=1e-3)
