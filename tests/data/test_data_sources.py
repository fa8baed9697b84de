"""Every data set is read from its true on-disk format, pixel by pixel."""

import dataclasses

import numpy as np
import pytest
import true_format
from sklearn.datasets import load_digits

from zsharp.data import DATASETS, DataError, prepare

WITH_MD5 = {
    "cifar10": true_format.write_cifar,
    "cifar100": lambda root: true_format.write_cifar(root, "cifar100", num=200),
    "svhn": true_format.write_svhn,
    "fashion_mnist": true_format.write_fashion_mnist,
}


def assert_holds(prepared, expected, num_classes):
    for (images, labels), (true_images, true_labels) in zip(
        (prepared.train(), prepared.test()), (expected.train, expected.test), strict=True
    ):
        np.testing.assert_array_equal(images, true_images)
        np.testing.assert_array_equal(labels, true_labels)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        assert isinstance(images, np.memmap) and not images.flags.writeable and not labels.flags.writeable
    info, pixels = prepared.info, expected.train[0] / 255
    assert info.image_shape == expected.train[0].shape[1:]
    assert (info.num_train, info.num_test) == (len(expected.train[1]), len(expected.test[1]))
    assert info.num_classes == num_classes
    np.testing.assert_allclose(info.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(info.std, pixels.std((0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("name", WITH_MD5)
def test_reads_the_official_format_with_verified_checksums(name, tmp_path, monkeypatch):
    expected = WITH_MD5[name](tmp_path)
    source = DATASETS[name]
    monkeypatch.setitem(
        DATASETS, name, dataclasses.replace(source, md5=true_format.md5_of(tmp_path, source.md5))
    )
    prepared = prepare(name, tmp_path, cache=tmp_path / "cache")
    assert_holds(prepared, expected, 100 if name == "cifar100" else 10)
    assert prepared.info.name == name and prepared.info.flip == (name != "svhn")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "fashion_mnist"])
def test_checksums_are_those_that_torchvision_knows(name):
    from torchvision import datasets  # seconds, which other processes of tests need not spend

    source = DATASETS[name]
    ours = {path.rpartition("/")[2]: md5 for path, md5 in source.md5.items()}
    if name.startswith("cifar"):
        official = getattr(datasets, name.upper())
        assert (source.archives[0].md5, source.archives[0].url) == (official.tgz_md5, official.url)
        files = dict(official.train_list + official.test_list)
        assert ours == files | {official.meta["filename"]: official.meta["md5"]}
        assert {path.partition("/")[0] for path in source.md5} == {official.base_folder}
    elif name == "svhn":
        known = [datasets.SVHN.split_list[split] for split in ("train", "test")]
        assert ours == {file: md5 for _, file, md5 in known}
        assert [archive.url for archive in source.archives] == [url for url, *_ in known]
    else:
        official = datasets.FashionMNIST
        assert ours == dict(official.resources)
        assert {archive.url.rpartition("/")[0] + "/" for archive in source.archives} == set(official.mirrors)
    assert {archive.md5 for archive in source.archives if not archive.unpack} <= set(source.md5.values())


@pytest.mark.parametrize("root", [".", "tiny-imagenet-200", "zip"])
def test_reads_tiny_imagenet_from_folder_and_zip(root, tmp_path):
    expected = true_format.write_tiny_imagenet(tmp_path)
    if root == "zip":
        true_format.zip_tiny_imagenet(tmp_path)
    prepared = prepare("tiny_imagenet", tmp_path / root.removeprefix("zip"), cache=tmp_path / "cache")
    grey = prepared.train()[0][6]
    assert (grey[0] == grey[1]).all() and (grey[0] == grey[2]).all()
    for split in ("train", "test"):
        (images, _), (true_images, labels) = getattr(prepared, split)(), getattr(expected, split)
        # Pillow and torchvision ship different JPEG decoders: a grey level or two apart
        assert np.abs(images.astype(int) - true_images).max() <= 4
        setattr(expected, split, (images, labels))
    assert_holds(prepared, expected, 3)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"binary": True, "image": "image", "label": "fine_label"},
        {"label": "labels", "test": "validation"},
        {"shape": (1, 8, 8)},
        {"names": ["a", "b", "c", "d"]},
    ],
    ids=str,
)
def test_reads_parquet_in_every_allowed_layout(columns, tmp_path):
    expected = true_format.write_parquet(tmp_path, **columns)
    assert_holds(prepare("parquet", tmp_path), expected, 4 if "names" in columns else 3)


def test_parquet_shards_may_lie_in_data_and_test_wins_over_validation(tmp_path):
    true_format.write_parquet(tmp_path / "data", test="validation", num=24)
    expected = true_format.write_parquet(tmp_path / "data")
    assert_holds(prepare("parquet", tmp_path, cache=tmp_path / "cache"), expected, 3)


def test_parquet_with_some_grey_and_transparent_images_becomes_rgb(tmp_path):
    images, labels = true_format.draw(0, 4, (3, 8, 8), 2)
    opaque = np.full((1, 8, 8), 255, dtype=np.uint8)
    shard = [images[0][:1], images[1], np.concatenate([images[2], opaque]), images[3]]
    true_format.write_shard(tmp_path / "train-00000-of-00001.parquet", shard, labels)
    true_format.write_shard(tmp_path / "test-00000-of-00001.parquet", images, labels)
    train, _ = prepare("parquet", tmp_path).train()
    np.testing.assert_array_equal(train[0], np.broadcast_to(images[0][:1], (3, 8, 8)))
    np.testing.assert_array_equal(train[1:], images[1:])


def test_digits_are_scikit_learns_scaled_and_split_for_ever(tmp_path):
    prepared = prepare("digits", cache=tmp_path)
    images, labels = (np.concatenate(parts) for parts in zip(prepared.train(), prepared.test(), strict=True))
    original = load_digits()
    rounded = np.floor(original.images * 255 / 16 + 0.5).reshape(1797, 64)
    assert images.shape == (1797, 1, 8, 8) and images.max() == 255 and not prepared.info.flip
    ours = sorted(zip(images.reshape(1797, 64).tolist(), labels, strict=True))
    assert ours == sorted(zip(rounded.astype(int).tolist(), original.target, strict=True))
    assert prepared.info.num_test == 359
    shares = np.bincount(prepared.test()[1]) / np.bincount(original.target)
    assert (abs(shares - 0.2) < 0.01).all()


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(DataError, match=r"unknown data set 'cifar-10'; did you mean cifar10.*tiny_imagenet"):
        prepare("cifar-10")
