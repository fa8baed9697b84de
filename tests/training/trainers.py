"""What each of several processes trains for `test_processes.py`."""

import torch
import torch.distributed as dist
from torch import nn

from zsharp.training import Training, TrainSpec, TrialSpec
from zsharp.training.processes import Processes

# The random filter draws once in each process, but for each part in turn where one process takes them all.
METHODS = ["base", "sam", "asam", "zsharp", "zsharp_official", "msam", "stale_sam"]
PARAMS = {"lr": 0.01}
NUM_STEPS = 20


class Regression:
    """A task of somebody's own, in float64, whose last batch is smaller and does not divide by the processes."""

    steps_per_epoch = NUM_STEPS // 2

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(9 * 16 + 7, 5, generator=generator, dtype=torch.float64)
        self.y = self.x.sin().sum(1, keepdim=True)
        layers = [nn.Linear(5, 13), nn.Tanh(), nn.Linear(13, 1)]
        self.model = nn.Sequential(*layers).double()

    def batches(self, epoch):
        order = torch.randperm(len(self.x))  # of torch's own generator
        return [{"x": self.x[rows], "y": self.y[rows], "scale": torch.ones(())} for rows in order.split(16)]

    def loss(self, batch):
        return ((self.model(batch["x"]) - batch["y"]) ** 2).mean() * batch["scale"]

    def validate(self):
        return {"val_loss": ((self.model(self.x) - self.y) ** 2).mean()}


def task_spec(method, **train):
    return TrialSpec(
        "",
        method,
        PARAMS,
        task="here:Regression",
        metric="val_loss",
        device="cpu",
        train=TrainSpec(epochs=2, batch_size=16, warmup_epochs=0, precision="fp32", **train),
    )


def image_spec(method="zsharp", **train):
    return TrialSpec(
        "resnet8",
        method,
        PARAMS,
        device="cpu",
        train=TrainSpec(
            epochs=2,
            base_optimizer="sgd",  # Adam makes steps of the rounding in gradients that are zero
            batch_size=66,
            warmup_epochs=0,
            precision="fp32",
            ema_decay=0.9,
            **train,
        ),
    )


def run(rank, size, folder):
    processes = Processes(rank, size)
    return {
        "task": {method: trained(task_spec(method), processes) for method in METHODS},
        "synchronised": trained(task_spec("zsharp", sync_ascent=True), processes),
        "sharded": trained(task_spec("zsharp", sharding="full", ema_decay=0.9), processes),
        "images": trained(image_spec(), processes),
        "sharded images": trained(image_spec(sharding="full"), processes),
        "resumed": resumed(processes, folder),
    }


def trained(spec, processes):
    training = Training(spec, task=Regression if spec.task else None, processes=processes)
    rows = [training.run_epoch() for _ in range(2)]
    return state_of(training), rows


def state_of(training):
    model = training.model.state_dict()
    return {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value.clone()
        for name, value in model.items()
    }


def resumed(processes, folder):
    """From a checkpoint of as many processes, sharded or not, each read by the other way too."""
    found = {}
    for sharding in ("none", "full"):
        spec = task_spec("friendly_sam", sharding=sharding, ema_decay=0.9)
        training = Training(spec, task=Regression, processes=processes)
        training.run_epoch()
        training.save(folder / f"{sharding}.ckpt")
        dist.barrier()
        training.run_epoch()
        found[sharding] = state_of(training)
    for saved, sharding in (("none", "none"), ("none", "full"), ("full", "none"), ("full", "full")):
        spec = task_spec("friendly_sam", sharding=sharding, ema_decay=0.9)
        training = Training(spec, task=Regression, processes=processes)
        training.load(folder / f"{saved}.ckpt")
        training.run_epoch()
        found[f"{saved} to {sharding}"] = state_of(training)
    return found
