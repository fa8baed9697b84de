"""Each kind of damage is one `DataError` that names the file, and leaves no cache behind."""

import dataclasses
import io
import pickle

import numpy as np
import pyarrow as pa
import pytest
import true_format
from PIL import Image

from zsharp.data import DATASETS, DataError, prepare
from zsharp.data.decode import decode_images

WRITERS = {
    "cifar10": true_format.write_cifar,
    "svhn": true_format.write_svhn,
    "fashion_mnist": true_format.write_fashion_mnist,
    "tiny_imagenet": true_format.write_tiny_imagenet,
    "parquet": true_format.write_parquet,
}
BATCH = "cifar-10-batches-py/data_batch_3"
MAT = "test_32x32.mat"
IDX = "FashionMNIST/raw/t10k-images-idx3-ubyte.gz"
IDX_LABELS = "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz"
SHARD, TEST_SHARD = "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"
TINY = "tiny-imagenet-200"
WNIDS, ANNOTATIONS = f"{TINY}/wnids.txt", f"{TINY}/val/val_annotations.txt"
CLASS = f"{TINY}/train/{true_format.WNIDS[1]}"
JPEG = f"{CLASS}/images/{true_format.WNIDS[1]}_1.JPEG"
IMAGES, LABELS = true_format.draw(5, 6, (3, 8, 8), 3)
COLOURS = np.random.default_rng(0).integers(256, size=(20, 3, 32, 32), dtype=np.uint8)
PNG = true_format.encode(IMAGES[5])


def remove(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def append(text):
    return lambda path: path.write_text(path.read_text() + text)


def shard(images=IMAGES, labels=LABELS, **columns):
    return lambda path: true_format.write_shard(path, images, labels, **columns)


def last_image(encoded):
    return shard([true_format.encode(image) for image in IMAGES[:-1]] + [encoded])


def labelled(write, labels, images=COLOURS):
    return lambda path: write(path, images, np.array(labels))


def idx(array):
    return lambda path: true_format.write_idx(path, array)


def swap_class(path):
    path.write_text(path.read_text().replace(true_format.WNIDS[0], "n99999999"))


def other_size(path):
    path.write_bytes(true_format.encode(np.zeros((3, 9, 16), np.uint8), "JPEG"))


def empty_class(path):
    for image in path.glob("images/*"):
        image.unlink()


def rename_class(path):
    path.rename(path.with_name("n00000001"))


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\xd8\xff") + 200] ^= 1
    path.write_bytes(content)


# data set -> file, what happens to it, what the message says, and the file that it names if that is another one
DAMAGE = {
    "cifar10": [
        (BATCH, remove, "not found.*cifar-10-python.tar.gz.*download=True"),
        (BATCH, truncate, "found md5 .*official"),
    ],
    "svhn": [(MAT, remove, "not found.*download=True"), (MAT, truncate, "found md5")],
    "fashion_mnist": [(IDX, remove, "not found.*download=True"), (IDX, truncate, "found md5")],
    "tiny_imagenet": [
        (WNIDS, remove, "not found", "tiny-imagenet-200.zip"),
        (WNIDS, append("n01443537\n"), "twice"),
        (ANNOTATIONS, remove, "not found"),
        (ANNOTATIONS, swap_class, "line 1: .*'n99999999'"),
        (ANNOTATIONS, append(f"val_0.JPEG\t{true_format.WNIDS[0]}\n"), "line 6.*twice"),
        (ANNOTATIONS, append("val_9.JPEG\tn01443537\n"), "line 6.*not there"),
        (ANNOTATIONS, append("val_9.JPEG n01443537\n"), "line 6: .*'val_9"),
        (f"{TINY}/val/images/val_77.JPEG", empty, "no annotation"),
        (JPEG, truncate, "[Tt]runcated"),
        (JPEG, empty, "empty file"),
        (JPEG, other_size, "9 x 16 pixels.*expected 16 x 16"),
        (CLASS, empty_class, "no images"),
        (CLASS, rename_class, "wnids.txt", "train/n00000001"),
    ],
    "parquet": [
        ("train-00000-of-00002.parquet", remove, "not found"),
        (TEST_SHARD, remove, "not found", "test-*.parquet"),
        (SHARD, truncate, "expected a complete Parquet file"),
        (SHARD, empty, "cannot be read"),
        (SHARD, shard(label="coarse"), "columns img, coarse; expected one named label"),
        (SHARD, shard(image="pixels"), "expected one named img"),
        (SHARD, shard(labels=pa.array(list("abcabc"))), "label of text"),
        (SHARD, shard(labels=pa.array([0, 1, 2, 0, 1, None])), "1 rows without label"),
        (SHARD, shard(labels=LABELS - 1), "label -1 at row 0.*from 0 to 2"),
        (TEST_SHARD, shard(labels=LABELS + 1), "label 3 at row 2 .2 such"),
        (SHARD, last_image(None), "row 5: found no image bytes"),
        (SHARD, last_image(PNG[:60]), "row 5: cannot be read"),
        (SHARD, last_image(b"hello world"), "row 5: cannot be read"),
        (SHARD, last_image(true_format.encode(IMAGES[0][:, :7])), "row 5: .*7 x 8 .*8 x 8, .*train-00000"),
        (TEST_SHARD, shard(IMAGES[:, :, :7]), r"\(3, 7, 8\); expected \(3, 8, 8\)"),
    ],
}
# the checksum is right, so that the damage gets as far as the reader
DAMAGE_BEHIND_MD5 = {
    "cifar10": [
        (BATCH, labelled(true_format.write_cifar_batch, [10] * 20), "label 10 at row 0"),
        (BATCH, labelled(true_format.write_cifar_batch, [0] * 19), "19 labels for 20 images"),
        (BATCH, truncate, "cannot be read"),
    ],
    "svhn": [
        (MAT, labelled(true_format.write_svhn_file, [11] * 20), "label 11"),
        (MAT, labelled(true_format.write_svhn_file, [0] * 7), "7 labels for 20 images"),
        (MAT, truncate, "cannot be read"),
    ],
    "fashion_mnist": [
        (IDX, truncate, "cannot be read"),
        (IDX_LABELS, idx(COLOURS[:, 0]), "cannot be read"),
        (IDX_LABELS, idx(np.zeros(9, np.uint8)), "9 labels for 20 images"),
    ],
}


def cases(table):
    rows = [(name, *row) for name, rows in table.items() for row in rows]
    return pytest.mark.parametrize("case", rows, ids=lambda row: f"{row[0]}-{row[3]}")


def check_refused(name, root, named, message):
    with pytest.raises(DataError, match=message) as caught:
        prepare(name, root, cache=root / "cache")
    text = str(caught.value)
    assert named in text and "expected" in text and "\n" not in text
    assert not list((root / "cache").glob(f"**/{name}-*"))


def set_checksums(monkeypatch, name, root):
    md5 = true_format.md5_of(root, DATASETS[name].md5)
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], md5=md5))


@cases(DAMAGE)
def test_damage_is_one_error_naming_the_file(case, tmp_path, monkeypatch):
    name, file, damage, message, *named = case
    WRITERS[name](tmp_path)
    set_checksums(monkeypatch, name, tmp_path)
    damage(tmp_path / file)
    check_refused(name, tmp_path, *named or [file], message)


@cases(DAMAGE_BEHIND_MD5)
def test_damage_behind_a_right_checksum_is_found_by_the_reader(case, tmp_path, monkeypatch):
    name, file, damage, message = case
    WRITERS[name](tmp_path)
    damage(tmp_path / file)
    set_checksums(monkeypatch, name, tmp_path)
    check_refused(name, tmp_path, file, message)


@pytest.mark.parametrize(("damage", "message"), [(truncate, "BadZipFile"), (flip_a_byte, "Bad CRC-32")])
def test_a_damaged_zip_is_named(damage, message, tmp_path):
    true_format.write_tiny_imagenet(tmp_path)
    true_format.zip_tiny_imagenet(tmp_path)
    damage(tmp_path / "tiny-imagenet-200.zip")
    check_refused("tiny_imagenet", tmp_path, "tiny-imagenet-200.zip", message)


def test_one_class_or_a_constant_channel_is_refused(tmp_path):
    true_format.write_parquet(tmp_path, num_classes=1)
    check_refused("parquet", tmp_path, "train-00000-of-00002.parquet", "found 1 class")
    for name in ("train-00000-of-00002.parquet", SHARD, TEST_SHARD):
        true_format.write_shard(tmp_path / name, np.full((6, 1, 8, 8), 7, np.uint8), LABELS)
    check_refused("parquet", tmp_path, "train-00000-of-00002.parquet", "channel 0 is the same")


def test_a_pickle_with_a_wrong_checksum_is_never_loaded(tmp_path):
    true_format.write_cifar(tmp_path)
    witness = tmp_path / "code ran"
    bomb = b"cbuiltins\nexec\n(Vopen(%r, 'w').close()\ntR." % str(witness)
    (tmp_path / BATCH).write_bytes(bomb)
    with pytest.raises(DataError, match="found md5"):
        prepare("cifar10", tmp_path)
    assert not witness.exists()
    pickle.loads(bomb)
    assert witness.exists()  # so it would have shown


@pytest.mark.parametrize("name", [name for name, source in DATASETS.items() if source.needs_root])
def test_root_must_be_given_and_be_a_folder_and_nothing_is_written_before(name, tmp_path):
    for root, message in (([], f"{name}: got no root"), (["nowhere"], "no such folder"), ([""], "not found")):
        with pytest.raises(DataError, match=message):
            prepare(name, *(tmp_path / part for part in root))
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_says_so(tmp_path):
    true_format.write_parquet(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"file: cannot be written .*ZSHARP_CACHE"):
        prepare("parquet", tmp_path, cache=tmp_path / "file")


@pytest.mark.timeout(20)
def test_an_image_of_countless_scans_is_refused(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (4096, 4096)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2][:12]
    with pytest.raises(DataError, match="scans"):
        decode_images([("here", content[:-2] + scan * 5000 + content[-2:])], 1)
