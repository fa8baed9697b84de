"""Specs of runs that take a fraction of a second, and exact comparison of what came out."""

from dataclasses import replace

import torch

from zsharp.training import AugmentSpec, DataSpec, TrainSpec, TrialSpec

TIMINGS = {"epoch_s", "train_s", "wall_s", "images_per_s", "peak_memory_bytes"}
PLAIN = AugmentSpec(crop_padding=0, flip=False)
AUGMENT = AugmentSpec(crop_padding=1, flip=True, cutout=2, mixup=0.2, cutmix=0.5)


def small_spec(method="zsharp", architecture="resnet8", params=None, max_images=300, **train):
    """270 digits to train on and 30 to validate on, in batches of 50, unless told otherwise."""
    settings = {"epochs": 2, "batch_size": 50, "warmup_epochs": 1.0, "precision": "fp32", **train}
    data = DataSpec(max_images=max_images)
    return TrialSpec(architecture, method, {"lr": 0.01} | (params or {}), data, TrainSpec(**settings))


def one_step_spec(method="zsharp", architecture="resnet8", params=None, **train):
    """An epoch is one step, on all 90 images; constant rate, no augmentation."""
    settings = {"batch_size": 90, "warmup_epochs": 0.0, "schedule": "constant", "augment": PLAIN, **train}
    return small_spec(method, architecture, params, max_images=100, **settings)


def with_data(spec, **data):
    return replace(spec, data=replace(spec.data, **data))


def measured(reports):
    """Reports without what depends on the machine's load."""
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in reports]


def is_same(a, b):
    """Whether two nested states are equal, tensors component for component."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(is_same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def whole_state(training):
    """Everything that the rest of a run depends on, as it is now."""
    return {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "average": training._average,
        "batches": training.task.generators[0].get_state(),
        "global": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if training.device.type == "cuda" else None,
        "counts": (training.epoch, training._gradient_evaluations),
    }
