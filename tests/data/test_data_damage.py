"""Each kind of damage is one `DataError` that names the file, and leaves no cache behind."""

import dataclasses
import hashlib
import pickle

import numpy as np
import pyarrow as pa
import pytest
import true_format

from zsharp.data import DATASETS, DataError, prepare

WRITERS = {
    "cifar10": true_format.write_cifar,
    "svhn": true_format.write_svhn,
    "fashion_mnist": true_format.write_fashion_mnist,
    "tiny_imagenet": true_format.write_tiny_imagenet,
    "parquet": true_format.write_parquet,
}
BATCH = "cifar-10-batches-py/data_batch_3"
TEST_MAT = "test_32x32.mat"
IDX = "FashionMNIST/raw/t10k-images-idx3-ubyte.gz"
IDX_LABELS = "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz"
SHARD = "train-00001-of-00002.parquet"
TINY = "tiny-imagenet-200"
ANNOTATIONS = f"{TINY}/val/val_annotations.txt"
JPEG = f"{TINY}/train/{true_format.WNIDS[0]}/images/{true_format.WNIDS[0]}_1.JPEG"
IMAGES, LABELS = true_format.draw(5, 6, (3, 8, 8), 3)


def remove(root, relative):
    (root / relative).unlink()


def truncate(root, relative):
    path = root / relative
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def append(text):
    return lambda root, relative: (root / relative).write_text((root / relative).read_text() + text)


def shard(images=IMAGES, labels=LABELS, **columns):
    return lambda root, relative: true_format.write_shard(root / relative, images, labels, **columns)


def cifar_batch(images, labels):
    return lambda root, relative: true_format.write_cifar_batch(root / relative, images, labels)


def swap_class(root, relative):
    path = root / relative
    path.write_text(path.read_text().replace(true_format.WNIDS[0], "n99999999"))


def other_size(root, relative):
    (root / relative).write_bytes(true_format.encode(np.zeros((3, 9, 16), np.uint8), "JPEG"))


def empty_class(root, relative):
    for path in (root / relative).glob("*"):
        path.unlink()


def rename_class(root, relative):
    (root / relative).rename(root / TINY / "train" / "n00000001")


def encoded_with(replacement):
    return [true_format.encode(image) for image in IMAGES[:-1]] + [replacement]


COLOURS = np.random.default_rng(0).integers(256, size=(20, 3, 32, 32), dtype=np.uint8)
WHOLE_PNG = true_format.encode(IMAGES[5])

# name of the data set, file, what happens to it, what the message says besides the file's name
DAMAGE = {
    "cifar missing": ("cifar10", BATCH, remove, "not found.*cifar-10-python.tar.gz.*download=True"),
    "cifar truncated": ("cifar10", BATCH, truncate, "found md5 .* bytes.*official"),
    "svhn missing": ("svhn", TEST_MAT, remove, "not found.*download=True"),
    "svhn truncated": ("svhn", TEST_MAT, truncate, "found md5"),
    "fashion missing": ("fashion_mnist", IDX, remove, "not found.*FashionMNIST/raw.*download=True"),
    "fashion truncated": ("fashion_mnist", IDX, truncate, "found md5"),
    "tiny missing": ("tiny_imagenet", f"{TINY}/wnids.txt", remove, "tiny-imagenet-200.zip: not found"),
    "tiny no annotations": ("tiny_imagenet", ANNOTATIONS, remove, "not found"),
    "tiny truncated": ("tiny_imagenet", JPEG, truncate, "cannot be read .*truncated"),
    "tiny empty file": ("tiny_imagenet", JPEG, lambda root, r: (root / r).write_bytes(b""), "empty file"),
    "tiny wrong size": ("tiny_imagenet", JPEG, other_size, "found 9 x 16 pixels.*expected 16 x 16"),
    "tiny unknown class": ("tiny_imagenet", ANNOTATIONS, swap_class, "line 1: found class 'n99999999'"),
    "tiny twice": (
        "tiny_imagenet",
        ANNOTATIONS,
        append(f"val_0.JPEG\t{true_format.WNIDS[0]}\n"),
        "line 6.*twice",
    ),
    "tiny no such image": (
        "tiny_imagenet",
        ANNOTATIONS,
        append("val_9.JPEG\tn01443537\n"),
        "line 6.*not there",
    ),
    "tiny bad line": ("tiny_imagenet", ANNOTATIONS, append("val_9.JPEG n01443537\n"), "line 6: found 'val_9"),
    "tiny unlabelled": (
        "tiny_imagenet",
        f"{TINY}/val/images/val_77.JPEG",
        lambda root, r: (root / r).write_bytes(b""),
        "no annotation",
    ),
    "tiny empty class": ("tiny_imagenet", f"{TINY}/train/n01443537/images", empty_class, "found no images"),
    "tiny unlisted class": ("tiny_imagenet", f"{TINY}/train/n01443537", rename_class, "wnids.txt"),
    "tiny class twice": ("tiny_imagenet", f"{TINY}/wnids.txt", append("n01443537\n"), "listed twice"),
    "parquet shard missing": ("parquet", "train-00000-of-00002.parquet", remove, "not found"),
    "parquet no test": ("parquet", "test-00000-of-00001.parquet", remove, r"test-\*.parquet: not found"),
    "parquet truncated": ("parquet", SHARD, truncate, "cannot be read .*expected a complete Parquet file"),
    "parquet empty": ("parquet", SHARD, lambda root, r: (root / r).write_bytes(b""), "cannot be read"),
    "parquet no label": (
        "parquet",
        SHARD,
        shard(label="coarse"),
        "columns img, coarse; expected one named label",
    ),
    "parquet no image": ("parquet", SHARD, shard(image="pixels"), "expected one named img or image"),
    "parquet text labels": ("parquet", SHARD, shard(labels=pa.array(list("abcabc"))), "of type string"),
    "parquet null label": (
        "parquet",
        SHARD,
        shard(labels=pa.array([0, 1, 2, 0, 1, None])),
        "1 rows without label",
    ),
    "parquet negative label": (
        "parquet",
        SHARD,
        shard(labels=LABELS - 1),
        "found label -1 at row 0.*from 0 to 2",
    ),
    "parquet test label": (
        "parquet",
        "test-00000-of-00001.parquet",
        shard(labels=LABELS + 1),
        "found label 3 at row 2 .2 such",
    ),
    "parquet only a path": ("parquet", SHARD, shard(encoded_with(None)), "row 5: found no image bytes"),
    "parquet cut image": ("parquet", SHARD, shard(encoded_with(WHOLE_PNG[:60])), "row 5: cannot be read"),
    "parquet not an image": ("parquet", SHARD, shard(encoded_with(b"hello world")), "row 5: cannot be read"),
    "parquet wrong size": (
        "parquet",
        SHARD,
        shard(encoded_with(true_format.encode(IMAGES[0][:, :7]))),
        "row 5: found 7 x 8 pixels.*8 x 8, as in .*train-00000",
    ),
    "parquet other test size": (
        "parquet",
        "test-00000-of-00001.parquet",
        shard(IMAGES[:, :, :7]),
        r"\(3, 7, 8\); expected \(3, 8, 8\)",
    ),
}
# the checksum is right, so that the damage gets as far as the reader
DAMAGE_BEHIND_MD5 = {
    "cifar label": ("cifar10", BATCH, cifar_batch(COLOURS, np.full(20, 10)), "found label 10 at row 0"),
    "cifar label count": (
        "cifar10",
        BATCH,
        cifar_batch(COLOURS, np.zeros(19)),
        "found 19 labels for 20 images",
    ),
    "cifar pickle": ("cifar10", BATCH, truncate, "cannot be read"),
    "svhn file": ("svhn", TEST_MAT, truncate, "cannot be read"),
    "svhn label": (
        "svhn",
        TEST_MAT,
        lambda root, r: true_format.write_svhn_file(root / r, COLOURS, np.full(20, 11)),
        "found label 11",
    ),
    "svhn label count": (
        "svhn",
        TEST_MAT,
        lambda root, r: true_format.write_svhn_file(root / r, COLOURS, np.zeros(7)),
        "found 7 labels for 20 images",
    ),
    "fashion gzip": ("fashion_mnist", IDX, truncate, "cannot be read"),
    "fashion header": (
        "fashion_mnist",
        IDX_LABELS,
        lambda root, r: true_format.write_idx(root / r, COLOURS[:, 0]),
        "cannot be read",
    ),
    "fashion label count": (
        "fashion_mnist",
        IDX_LABELS,
        lambda root, r: true_format.write_idx(root / r, np.zeros(9, np.uint8)),
        "found 9 labels for 20 images",
    ),
}


# where the message names another file than the damaged one
NAMED_INSTEAD = {
    "tiny missing": "tiny-imagenet-200.zip",
    "tiny unlisted class": "train/n00000001",
    "parquet no test": "test-*.parquet",
}


def check_refused(name, root, named, message):
    with pytest.raises(DataError, match=message) as caught:
        prepare(name, root, cache=root / "cache")
    text = str(caught.value)
    assert named in text and "expected" in text and "\n" not in text
    assert not list((root / "cache").glob(f"**/{name}-*"))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_error_naming_the_file(kind, tmp_path, monkeypatch):
    name, relative, damage, message = DAMAGE[kind]
    WRITERS[name](tmp_path)
    if official := DATASETS[name].md5:
        replaced = dataclasses.replace(DATASETS[name], md5=true_format.md5_of(tmp_path, official))
        monkeypatch.setitem(DATASETS, name, replaced)
    damage(tmp_path, relative)
    check_refused(name, tmp_path, NAMED_INSTEAD.get(kind, relative), message)


@pytest.mark.parametrize("kind", DAMAGE_BEHIND_MD5)
def test_damage_behind_a_right_checksum_is_found_by_the_reader(kind, tmp_path, monkeypatch):
    name, relative, damage, message = DAMAGE_BEHIND_MD5[kind]
    WRITERS[name](tmp_path)
    damage(tmp_path, relative)
    replaced = dataclasses.replace(DATASETS[name], md5=true_format.md5_of(tmp_path, DATASETS[name].md5))
    monkeypatch.setitem(DATASETS, name, replaced)
    check_refused(name, tmp_path, relative, message)


def test_a_pickle_with_a_wrong_checksum_is_never_loaded(tmp_path):
    true_format.write_cifar(tmp_path)
    witness = tmp_path / "code ran"
    bomb = b"cbuiltins\nexec\n(Vopen(%r, 'w').close()\ntR." % str(witness)
    (tmp_path / BATCH).write_bytes(bomb)
    assert hashlib.md5(bomb).hexdigest() not in DATASETS["cifar10"].md5.values()
    with pytest.raises(DataError, match="found md5"):
        prepare("cifar10", tmp_path)
    assert not witness.exists()
    pickle.loads(bomb)
    assert witness.exists()  # so it would have shown


def test_truncated_zip_names_the_zip(tmp_path):
    true_format.write_tiny_imagenet(tmp_path)
    true_format.zip_tiny_imagenet(tmp_path)
    truncate(tmp_path, "tiny-imagenet-200.zip")
    check_refused("tiny_imagenet", tmp_path, "tiny-imagenet-200.zip", "cannot be read .BadZipFile")


def test_zip_with_a_flipped_byte_names_the_zip(tmp_path):
    true_format.write_tiny_imagenet(tmp_path)
    true_format.zip_tiny_imagenet(tmp_path)
    path = tmp_path / "tiny-imagenet-200.zip"
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\xd8\xff") + 200] ^= 1
    path.write_bytes(content)
    check_refused("tiny_imagenet", tmp_path, path.name, "Bad CRC-32")


def test_one_class_is_too_few(tmp_path):
    true_format.write_parquet(tmp_path, num_classes=1)
    check_refused("parquet", tmp_path, "train-00000-of-00002.parquet", "found 1 class")


def test_constant_channel_cannot_be_normalised(tmp_path):
    for split in ("train", "test"):
        constant = np.full((6, 1, 8, 8), 7, np.uint8)
        true_format.write_shard(tmp_path / f"{split}-00000-of-00001.parquet", constant, LABELS)
    check_refused("parquet", tmp_path, "train-00000-of-00001.parquet", "channel 0 is the same")


@pytest.mark.parametrize("name", [name for name, source in DATASETS.items() if source.needs_root])
def test_root_must_be_given_and_be_a_folder_and_nothing_is_written_before(name, tmp_path):
    with pytest.raises(DataError, match=rf"{name}: got no root"):
        prepare(name)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        prepare(name, tmp_path / "nowhere")
    with pytest.raises(DataError, match="not found"):
        prepare(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_says_so(tmp_path):
    true_format.write_parquet(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"file: cannot be written .*ZSHARP_CACHE"):
        prepare("parquet", tmp_path, cache=tmp_path / "file")
