"""A trial's numbers depend on its spec alone, whatever the process did before."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import is_same, measured, small_spec

from zsharp.training import AugmentSpec, Training, train

AUGMENT = AugmentSpec(flip=True, cutout=2, randaugment=1, mixup=0.2, cutmix=0.5)
SPECS = {
    "zsharp": small_spec("zsharp", max_images=200),
    "random_sam": small_spec("random_sam", max_images=200),
    "augmented": small_spec("base", max_images=200, augment=AUGMENT),
    "vit": small_spec("friendly_sam", "vit_tiny", max_images=200, epochs=1),
}


def outcome(spec):
    result = train(spec)
    return measured(result.reports), result.training.model.state_dict()


@functools.cache
def first_outcome(name):
    return outcome(SPECS[name])


@pytest.mark.parametrize("name", SPECS)
def test_the_same_spec_gives_the_same_numbers_on_a_warm_worker(name):
    first = first_outcome(name)
    train(small_spec("asam", "vit_tiny", epochs=1, max_images=100, seed=7))
    torch.manual_seed(123)
    np.random.seed(5)
    assert is_same(outcome(SPECS[name]), first)


@pytest.mark.parametrize("name", SPECS)
def test_another_seed_gives_other_numbers(name):
    spec = SPECS[name]
    other = replace(spec, train=replace(spec.train, seed=1))
    assert outcome(other)[0][0]["train_loss"] != first_outcome(name)[0][0]["train_loss"]


def test_the_random_filter_draws_other_numbers_for_another_seed():
    """With the same gradients: an order, weights or augmentation that differ would hide it."""
    kept = []
    for seed in (0, 1):
        optimizer = Training(small_spec("random_sam", seed=seed)).optimizer
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for p in params:
            p.data.zero_()
            p.grad = torch.ones_like(p)
        optimizer.first_step()
        kept.append([p.detach() != 0 for p in params])
    assert not is_same(*kept)


def test_interleaved_runs_do_not_disturb_each_other():
    names = ["zsharp", "augmented"]
    runs = [Training(SPECS[name]) for name in names]
    rows = [[run.run_epoch() for run in runs] for _ in range(2)]
    for i, name in enumerate(names):
        assert measured([row[i] for row in rows]) == first_outcome(name)[0]
