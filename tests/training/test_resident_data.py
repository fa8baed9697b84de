"""The data a run holds: its own part of the training set, and never the test set."""

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import AUGMENT, PLAIN, is_same, measured, small_spec, whole_state, with_data
from torch.nn import functional as F

from zsharp.data import prepare, split_indices, subset_indices
from zsharp.data.augment import Augmentation
from zsharp.data.prefetch import prefetched
from zsharp.data.training_data import load_test_data, load_training_data
from zsharp.sharpness import measure_training
from zsharp.training import AugmentSpec, Training, train
from zsharp.training.batches import resolve_augmentation


def test_the_split_is_that_of_the_data_package():
    images, labels = prepare("digits").train()
    data = load_training_data(prepare("digits"), val_fraction=0.2, split_seed=3)
    for ours, expected in zip(
        (data.train_indices, data.val_indices), split_indices(labels, 0.2, 3), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(data.images, images)
    np.testing.assert_array_equal(data.labels, labels)
    assert (data.images.dtype, data.labels.dtype) == (torch.uint8, torch.int64)
    assert (
        load_training_data(prepare("digits"), val_fraction=0.2, split_seed=3) is data
    )  # trials of a worker share it
    everything = load_training_data(prepare("digits"), val_fraction=0.0)
    assert (len(everything.train_indices), len(everything.val_indices)) == (1438, 0)


def test_a_subset_is_split_as_a_whole():
    labels = prepare("digits").train()[1]
    data = load_training_data(prepare("digits"), val_fraction=0.1, split_seed=3, max_images=200)
    chosen = subset_indices(labels, 200, 3)
    assert (len(data.train_indices), len(data.val_indices)) == (180, 20)
    np.testing.assert_array_equal(np.sort(np.r_[data.train_indices, data.val_indices]), chosen)
    assert set(data.labels[data.train_indices].tolist()) == set(range(10))


def test_an_epoch_sees_each_image_at_most_once_and_none_of_the_validation_images():
    training = Training(small_spec(augment=PLAIN))
    data = training.data
    where = {image.numpy().tobytes(): i for i, image in enumerate(data.images)}
    assert len(where) == len(data.images)
    epochs = [[], []]
    for seen in epochs:
        for batch in training.task.batches(0):
            inputs, _, labels = training.task.prepare(batch)
            pixels = ((inputs * data.info.std[0] + data.info.mean[0]) * 255).round().to(torch.uint8)
            rows = [where[image.contiguous().numpy().tobytes()] for image in pixels]
            assert data.labels[rows].tolist() == labels.tolist()
            seen += rows
        assert len(set(seen)) == len(seen) == 250
        assert set(seen) <= set(data.train_indices.tolist())
    first, second = epochs
    assert first != second
    assert set(first) != set(second)  # the incomplete last batch is of other images each time


def test_augmentation_is_what_the_spec_says_or_what_suits_the_data():
    data = load_training_data(prepare("digits"), val_fraction=0.1)
    assert resolve_augmentation(AugmentSpec(), data) == Augmentation(crop_padding=1, flip=False)
    photographs = replace(data, info=replace(data.info, image_shape=(3, 32, 32), flip=True))
    assert resolve_augmentation(AugmentSpec(), photographs) == Augmentation(crop_padding=4, flip=True)
    given = {"crop_padding": 0, "flip": True, "cutout": 3, "randaugment": 2, "mixup": 0.2, "cutmix": 0.5}
    assert resolve_augmentation(AugmentSpec(**given), data) == Augmentation(**given)


def test_the_test_set_is_read_only_when_asked_for():
    images, labels = load_test_data(prepare("digits"))
    assert (images.shape, images.dtype, labels.dtype) == ((359, 1, 8, 8), torch.uint8, torch.int64)
    training = Training(with_data(small_spec(), max_images=None))
    assert len(training.data.images) == training.data.info.num_train == 1438
    held = {image.numpy().tobytes() for image in training.data.images}
    assert not held & {image.numpy().tobytes() for image in images}

    training.run_epoch()
    loss, accuracy = training.evaluate(images, labels)
    info = training.data.info
    model = training.model.eval()
    with torch.no_grad():
        logits = model((images / 255 - info.mean[0]) / info.std[0])
    assert loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


@pytest.mark.parametrize("eval_batch_size", [1, 7, 30, 1000])
def test_evaluation_does_not_depend_on_its_batch_size(eval_batch_size):
    training = Training(small_spec(eval_batch_size=eval_batch_size))
    expected = Training(small_spec())
    rows = training.data.val_indices
    part = training.data.images[rows], training.data.labels[rows]
    assert training.evaluate(*part) == pytest.approx(expected.evaluate(*part), rel=1e-5)


def test_training_opens_no_file_of_the_test_set():
    opened, is_watched = [], True
    sys.addaudithook(
        lambda event, given: opened.append(str(given[0])) if is_watched and event == "open" else None
    )
    train(with_data(small_spec(epochs=1), max_images=299))  # of which nothing is in memory yet
    num_of_training = len(opened)
    load_test_data(prepare("digits"))
    is_watched = False
    names = ("test_images", "test_labels")
    assert any("train_images" in path for path in opened[:num_of_training])
    assert not [path for path in opened[:num_of_training] if any(name in path for name in names)]
    assert all(any(name in path for path in opened[num_of_training:]) for name in names), "the hook sees them"


STREAMED = {
    "plain": {},
    "everything on": {"augment": AUGMENT, "ema_decay": 0.9, "eval_batch_size": 7},
    "one step an epoch": {"batch_size": 270, "eval_batch_size": 30},
    "RandAugment": {"augment": AugmentSpec(randaugment=1)},
}


@pytest.mark.parametrize("settings", STREAMED)
def test_images_that_stay_on_the_host_give_the_same_run_bit_for_bit(settings, tmp_path):
    spec = small_spec("random_sam", **STREAMED[settings])
    resident, streamed = (Training(with_data(spec, on_device=choice)) for choice in ("always", "never"))
    assert (resident.data.is_streamed, streamed.data.is_streamed) == (False, True)
    assert measured([resident.run_epoch()]) == measured([streamed.run_epoch()])
    resident.save(tmp_path / "checkpoint.pt")
    streamed.load(tmp_path / "checkpoint.pt")
    assert measured([resident.run_epoch()]) == measured([streamed.run_epoch()])
    assert is_same(whole_state(resident), whole_state(streamed))
    assert resident.test() == streamed.test()


def test_flatness_is_measured_on_images_that_stay_on_the_host():
    spec = small_spec("base", max_images=60, batch_size=20)
    runs = [Training(with_data(spec, on_device=choice)) for choice in ("always", "never")]
    first, second = (measure_training(run, num_images=4) for run in runs)
    assert first == second


def test_batches_that_nobody_takes_stop_and_a_fault_arrives():
    images, rows = torch.arange(40, dtype=torch.uint8).view(10, 1, 2, 2), torch.arange(10).flip(0).split(2)
    threads = threading.active_count()
    assert torch.equal(torch.cat([*prefetched(images, rows, torch.device("cpu"))]), images.flip(0))
    started = prefetched(images, rows, torch.device("cpu"))
    assert torch.equal(next(started), images[[9, 8]])
    started.close()
    with pytest.raises(IndexError):
        list(prefetched(images, [torch.tensor([10])], torch.device("cpu")))
    assert threading.active_count() == threads
