"""A folder of images with a folder for each class: its layouts, kinds of files and sizes."""

import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from zsharp.data import DataError, prepare, split_indices
from zsharp.data.training_data import load_training_data

ROW, COLUMN = np.mgrid[:12, :16]
COLOURS = np.stack([COLUMN * 15, ROW * 15, (ROW + COLUMN) * 7], -1).astype(np.uint8)


def picture(seed=0, size=(16, 12)):
    return Image.fromarray(np.roll(COLOURS, seed, 1)).resize(size)


def write(root, *names, **options):
    """Writes a picture of each name, each another one."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed, **options).save(path, {".jpg": "JPEG", ".png": "PNG"}.get(path.suffix.lower(), "PNG"))


def write_splits(root, *splits, classes=("cat", "ant"), num=3):
    for split in splits:
        write(root / split, *(f"{name}/{i}.png" for name in classes for i in range(num)))


@pytest.mark.parametrize("val", ["val", "validation", "valid", "dev", "Val"])
def test_splits_are_folders_and_classes_are_sorted_by_name(tmp_path, val):
    write(
        tmp_path,
        "train/cat/0.png",
        "train/cat/1.png",
        "train/ant/9.png",
        "test/cat/0.PNG",
        f"{val}/ant/0.jpg",
    )
    prepared = prepare("folder", tmp_path)
    images, labels = prepared.train()
    info = prepared.info
    assert (info.num_train, info.num_val, info.num_test, info.num_classes) == (3, 1, 1, 2)
    assert labels.tolist() == [0, 1, 1, 0]
    assert prepared.test()[1].tolist() == [1]
    np.testing.assert_array_equal(images[1], np.asarray(picture(0)).transpose(2, 0, 1))
    assert info.mean == pytest.approx(images[:3].mean((0, 2, 3)) / 255)  # without the validation images
    assert len(info.notes) == 1


def test_its_own_validation_images_take_the_place_of_a_share(tmp_path):
    write_splits(tmp_path, "train", "val", "test")
    data = load_training_data(prepare("folder", tmp_path), val_fraction=0.5)
    assert (data.train_indices.tolist(), data.val_indices.tolist()) == ([*range(6)], [*range(6, 12)])
    fewer = load_training_data(prepare("folder", tmp_path), max_images=2)
    assert (len(fewer.train_indices), len(fewer.val_indices)) == (2, 6)
    everything = load_training_data(prepare("folder", tmp_path), val_fraction=0.0)
    assert (len(everything.train_indices), len(everything.val_indices)) == (12, 0)


@pytest.mark.parametrize("top", ["", "train"])
def test_without_test_images_a_stratified_share_is_drawn_and_told(tmp_path, top):
    write_splits(tmp_path, top, classes=("ant", "cat"), num=10)
    prepared = prepare("folder", tmp_path)
    train, test = split_indices([0] * 10 + [1] * 10, 0.2, 0)
    everything = np.stack([np.asarray(picture(seed)).transpose(2, 0, 1) for seed in range(20)])
    np.testing.assert_array_equal(prepared.train()[0], everything[train])
    np.testing.assert_array_equal(prepared.test()[0], everything[test])
    assert np.bincount(prepared.test()[1]).tolist() == [2, 2]
    assert "4 of the training images" in prepared.info.notes[0]
    assert prepare("folder", tmp_path).info == prepared.info


@pytest.mark.parametrize("size", [8, 20])
def test_images_of_all_sizes_are_fitted_into_a_square(tmp_path, size):
    write_splits(tmp_path, "train", "test")
    shapes = {"train/ant/wide.png": (50, 9), "train/ant/high.png": (7, 31), "test/cat/one.png": (1, 1)}
    for name, shape in shapes.items():
        picture(3, shape).save(tmp_path / name)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(5, (30, 10)).save(tmp_path / "train/ant/turned.png", exif=turned)
    with pytest.raises(DataError, match="image_size"):
        prepare("folder", tmp_path)
    prepared = prepare("folder", tmp_path, image_size=size)
    assert prepared.info.image_shape == (3, size, size)
    images = prepared.train()[0]
    shown = {
        3: picture(3, (7, 31)),
        4: ImageOps.exif_transpose(Image.open(tmp_path / "train/ant/turned.png")),
        5: picture(3, (50, 9)),
    }
    for row, image in shown.items():
        expected = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(images[row], np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_each_size_is_a_copy_of_its_own(tmp_path, name):
    write_splits(tmp_path, "train", "test")
    sizes = [None, 8, 16, 24]
    copies = [prepare(name, tmp_path, cache=tmp_path / "cache", image_size=size) for size in sizes]
    assert len({copy.folder for copy in copies}) == len(sizes)
    assert [copy.info.image_shape[1:] for copy in copies[1:]] == [(8, 8), (16, 16), (24, 24)]


def test_grey_images_have_one_channel(tmp_path):
    write_splits(tmp_path, "train", "test")
    for path in tmp_path.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert prepare("folder", tmp_path).info.image_shape == (1, 12, 16)


def test_links_are_followed_and_foreign_files_left_out(tmp_path):
    write_splits(tmp_path / "data", "train", "test")
    write(tmp_path / "elsewhere", "0.png", "1.png")
    root = tmp_path / "data"
    (root / "train/bee").symlink_to(tmp_path / "elsewhere")
    (root / "train/ant/linked.png").symlink_to(tmp_path / "elsewhere/0.png")
    for name in (".hidden.png", "._0.png", "notes.txt", "@eaDir/0.png"):
        (root / "train/ant" / name).parent.mkdir(exist_ok=True)
        (root / "train/ant" / name).write_bytes(b"not an image")
    (root / "train/.ipynb_checkpoints").mkdir()
    (root / "labels.csv").touch()
    info = prepare("folder", root).info
    assert (info.num_train, info.num_classes) == (9, 3)
    assert ".txt" in info.notes[0]


def test_a_copy_is_used_again_for_the_same_images_elsewhere(tmp_path):
    write_splits(tmp_path / "here", "train", "test")
    first = prepare("folder", tmp_path / "here", cache=tmp_path / "cache")
    (tmp_path / "here").rename(tmp_path / "there")
    for path in (tmp_path / "there").rglob("*.png"):
        os.utime(path, (1, 1))
    assert prepare("folder", tmp_path / "there", cache=tmp_path / "cache") == first
    picture(7).save(tmp_path / "there/train/ant/0.png")
    assert (
        prepare("folder", tmp_path / "there", cache=tmp_path / "cache").info.checksum != first.info.checksum
    )


def without(path):
    return lambda root: [file.unlink() for file in (root / path).iterdir()]


def written(name, content):
    def change(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return change


REFUSED = {
    "no images of a class": (without("train/ant"), "train/ant"),
    "a class that training lacks": (lambda root: write(root, "test/dog/0.png"), "'dog'"),
    "a damaged image": (written("train/cat/1.png", b"\x89PNG\r\n\x1a\nno more"), "train/cat/1.png"),
    "an empty file": (written("train/cat/1.png", b""), "train/cat/1.png"),
    "a text called an image": (written("test/cat/1.jpg", b"text"), "test/cat/1.jpg"),
    "a pipe": (lambda root: os.mkfifo(root / "train/cat/3.png"), "train/cat/3.png"),
    "two sets for validation": (lambda root: write_splits(root, "val", "valid"), "valid"),
    "no classes": (lambda root: write(root, "val/0.png"), "val"),
    "one class": (lambda root: [cat.rename(cat.with_name(".cat")) for cat in root.glob("*/cat")], "class"),
    "no training images": (lambda root: (root / "train").rename(root / "training"), "train"),
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_told_with_its_place_and_nothing_is_left_behind(tmp_path, case):
    root = tmp_path / "data"
    change, where = REFUSED[case]
    write_splits(root, "train", "test")
    change(root)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=where):
        prepare("folder", root)
    assert sorted(tmp_path.rglob("*")) == before
