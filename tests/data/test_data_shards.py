"""Which Parquet files make up a data set, and what their labels mean."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import true_format

from zsharp.data import DataError, prepare

IMAGES, LABELS = true_format.draw(0, 6, (3, 8, 8), 3)
TEST_IMAGES, TEST_LABELS = true_format.draw(1, 6, (3, 8, 8), 3)
WHOLE = ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet")
TEST = "test-00000-of-00001.parquet"
HASH = "0123456789abcdef"


def write(root, train=WHOLE, test=(TEST,)):
    """Shares the training images out among the named files; every test file has all test images."""
    for name, rows in zip(train, np.array_split(np.arange(6), len(train)), strict=True):
        true_format.write_shard(root / name, IMAGES[rows], LABELS[rows])
    for name in test:
        true_format.write_shard(root / name, TEST_IMAGES, TEST_LABELS)


def labels_of(root, **columns):
    prepared = prepare("parquet", root, cache=root / "cache", **columns)
    return prepared.train()[1].tolist(), prepared.test()[1].tolist()


LAYOUTS = {
    "fingerprints": ([f"train-0000{i}-of-00002-{i}123456789abcdef.parquet" for i in range(2)], TEST),
    "single files": (["train.parquet"], "test.parquet"),
    "plain numbers": (["train-0.parquet", "train-1.parquet"], "test-0.parquet"),
    "folder of a configuration": ([f"plain_text/{name}" for name in WHOLE], f"plain_text/{TEST}"),
    "converted by the hub": (
        ["default/train/0000.parquet", "default/train/0001.parquet"],
        "default/test/0000.parquet",
    ),
    "in data": ([f"data/{name}" for name in WHOLE], f"data/{TEST}"),
    "hidden copies beside them": (["train/0000.parquet"], "test/0000.parquet"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_every_layout_are_found(layout, tmp_path):
    train, test = LAYOUTS[layout]
    write(tmp_path, train, [test])
    if "hidden" in layout:
        (tmp_path / "train" / "._0000.parquet").write_bytes(b"\0\5\x16\7")
        write(tmp_path / ".cache")
    np.testing.assert_array_equal(prepare("parquet", tmp_path).train()[0], IMAGES)
    assert labels_of(tmp_path) == (LABELS.tolist(), TEST_LABELS.tolist())


INCOMPLETE = {
    "an earlier upload": [*WHOLE, "train-00000-of-00001.parquet"],
    "one with a fingerprint": [*WHOLE, f"train-00001-of-00002-{HASH}.parquet"],
    "another fingerprint": [
        f"train-00000-of-00001-{HASH}.parquet",
        f"train-00000-of-00001-{HASH[::-1]}.parquet",
    ],
    "a copy by a browser": [*WHOLE, "train-00001-of-00002 (1).parquet"],
    "another width": ["train-00000-of-00002.parquet", "train-0001-of-0002.parquet"],
    "a number too many": [*WHOLE, "train-00002-of-00002.parquet"],
    "a fingerprint missing": [f"train-00000-of-00002-{HASH}.parquet"],
    "a gap": ["train/0000.parquet", "train/0002.parquet"],
    "the first missing": ["train/0001.parquet"],
    "two names": ["train-new.parquet", "train-old.parquet"],
    "a single one": [*WHOLE, "train.parquet"],
    "a folder": [*WHOLE, "train/0000.parquet"],
    "both folders": [*WHOLE, *(f"data/{name}" for name in WHOLE)],
    "two configurations": ["a/train.parquet", "b/train.parquet"],
}


@pytest.mark.parametrize("kind", INCOMPLETE)
def test_files_that_are_not_one_complete_set_are_refused(kind, tmp_path):
    write(tmp_path, INCOMPLETE[kind])
    with pytest.raises(DataError, match=r"train|several"):
        prepare("parquet", tmp_path)
    assert not list(tmp_path.glob(".zsharp_cache"))


def test_files_of_the_test_split_have_to_be_complete_too(tmp_path):
    write(tmp_path, test=[TEST, "test-00000-of-00002.parquet"])
    with pytest.raises(DataError, match="test-00000-of-00002"):
        prepare("parquet", tmp_path)


NAMES = ["cat", "dog", "owl"]
INTEGERS = pa.array([0, 1, 2, 0, 1, 2])
TEXT = pa.array(["owl", "cat", "dog", "owl", "cat", "dog"])
# for each of two files its labels and its class names, and the labels read from both; None: refused
MEANINGS = {
    "another order": ((INTEGERS, NAMES), (INTEGERS, ["owl", "cat", "dog"]), [2, 0, 1, 2, 0, 1]),
    "fewer names": ((INTEGERS, NAMES), (pa.array([0, 1] * 3), ["owl", "dog"]), [2, 1] * 3),
    "a name of no image": ((INTEGERS, NAMES), (pa.array([0] * 6), ["dog", "elk"]), [1] * 6),
    "no names": ((INTEGERS, NAMES), (INTEGERS, None), [0, 1, 2, 0, 1, 2]),
    "an unknown name": ((INTEGERS, NAMES), (INTEGERS, ["cat", "dog", "elk"]), None),
    "a name twice": ((INTEGERS, NAMES), (INTEGERS, ["cat", "cat", "owl"]), None),
    "text": ((TEXT, None), (TEXT.take(INTEGERS), None), [2, 0, 1, 2, 0, 1]),
    "text, an unknown one": ((TEXT, None), (pa.array(["elk"] * 6), None), None),
    "text and integers": ((TEXT, None), (INTEGERS, None), None),
    "text by dictionary": (
        (TEXT.dictionary_encode(), None),
        (TEXT.cast(pa.large_string()), None),
        [2, 0, 1, 2, 0, 1],
    ),
    "views of text": ((TEXT.cast(pa.string_view()), None), (TEXT, None), [2, 0, 1, 2, 0, 1]),
    "booleans": ((pa.array([True, False] * 3), None), (pa.array([False, True] * 3), None), [0, 1] * 3),
}


@pytest.mark.parametrize("second", ["test-0.parquet", "train-1.parquet"])
@pytest.mark.parametrize("kind", MEANINGS)
def test_a_label_means_the_same_class_in_all_files(kind, second, tmp_path):
    (labels, names), (other_labels, other_names), expected = MEANINGS[kind]
    for name in ("train-0.parquet", "test-0.parquet"):
        true_format.write_shard(tmp_path / name, IMAGES, labels, names=names)
    true_format.write_shard(tmp_path / second, TEST_IMAGES, other_labels, names=other_names)
    if expected is None or (kind == "text, an unknown one" and second.startswith("train")):
        if kind == "text, an unknown one" and second.startswith("train"):
            assert labels_of(tmp_path)[0][6:] == [2] * 6  # training files decide which classes there are
            return
        with pytest.raises(DataError, match=second):
            labels_of(tmp_path)
        return
    train, test = labels_of(tmp_path)
    assert (test if second.startswith("test") else train[6:]) == expected


@pytest.mark.parametrize(
    "unlabelled",
    [None, pa.array([-1] * 6), pa.array([None] * 6, pa.int64())],
    ids=["no column", "all -1", "nulls"],
)
def test_a_test_split_without_labels_gives_way_to_validation_and_this_is_said(unlabelled, tmp_path, caplog):
    write(tmp_path, test=["validation-00000-of-00001.parquet"])
    true_format.write_shard(tmp_path / TEST, IMAGES, unlabelled)
    assert labels_of(tmp_path)[1] == TEST_LABELS.tolist()
    assert "validation-00000-of-00001.parquet" in caplog.text


@pytest.mark.parametrize("bytes_type", [pa.binary_view(), pa.large_binary()], ids=str)
@pytest.mark.parametrize("binary", [False, True])
def test_images_of_newer_types_are_read(bytes_type, binary, tmp_path):
    true_format.write_parquet(tmp_path, bytes_type=bytes_type, binary=binary)
    assert prepare("parquet", tmp_path).info.num_train == 12


def test_columns_can_be_named_and_each_choice_has_a_copy_of_its_own(tmp_path):
    for name in ("train.parquet", "test.parquet"):
        true_format.write_shard(tmp_path / name, IMAGES, LABELS, image="photo", label="species")
    with pytest.raises(DataError, match=r"columns photo, species.*image_column"):
        prepare("parquet", tmp_path)
    assert labels_of(tmp_path, image_column="photo", label_column="species")[0] == LABELS.tolist()
    with pytest.raises(DataError, match="one named label"):
        prepare("parquet", tmp_path, cache=tmp_path / "cache", image_column="photo")
    with pytest.raises(DataError, match="digits, which has no columns"):
        prepare("digits", label_column="species")


def pipe(root):
    os.mkfifo(root / "train-0.parquet")


def device(root):
    (root / "train-0.parquet").symlink_to("/dev/zero")


def folder(root):
    (root / "train-0.parquet").mkdir()


def sparse(root):
    (root / "train-0.parquet").touch()
    os.truncate(root / "train-0.parquet", 2**43)


def many_announced(root):
    (root / "train-00000-of-99999999999.parquet").touch()


def large_label(root):
    true_format.write_shard(root / "train-0.parquet", IMAGES, LABELS + 10**9, image="image")


def many_rows(root):
    labels = pa.array(np.zeros(2**24 + 1, np.int8))
    pq.write_table(
        pa.table({"image": pa.nulls(len(labels), pa.binary()), "label": labels}), root / "train-0.parquet"
    )


def unpacked_bytes(root):
    rows = pa.array([bytes(2**26)] * 2, pa.binary())
    table = pa.table({"image": rows, "label": [0, 1]})
    pq.write_table(table, root / "train-0.parquet", use_dictionary=False, compression="zstd")


def repeated_text(root):
    texts = pa.DictionaryArray.from_arrays(
        np.zeros(2**21, np.int32), pa.array(["x" * 2**20])
    )  # 2 TB written out
    pq.write_table(
        pa.table({"image": pa.nulls(len(texts), pa.binary()), "label": texts}), root / "train-0.parquet"
    )


def many_columns(root):
    names = ["image", "label", *map(str, range(50_000))]
    pq.write_table(pa.table([[b"x"], *[[0]] * 50_001], names=names), root / "train-0.parquet")


def text_not_utf8(root):
    offsets, letters = pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    labels = pa.Array.from_buffers(pa.string(), 2, [None, offsets, letters])
    pq.write_table(pa.table({"image": [b"x", b"x"], "label": labels}), root / "train-0.parquet")


def many_names(root):
    names = [str(number) for number in range(2**16 + 1)]
    true_format.write_shard(root / "train-0.parquet", IMAGES, LABELS, image="image", names=names)


ABSURD = (
    pipe,
    device,
    folder,
    sparse,
    many_announced,
    large_label,
    many_rows,
    unpacked_bytes,
    repeated_text,
    many_names,
)


@pytest.mark.timeout(20)
def test_links_to_the_root_are_refused_before_all_are_followed(tmp_path):
    for number in range(300):
        (tmp_path / str(number)).symlink_to(".")
    with pytest.raises(DataError, match="folders"):
        prepare("parquet", tmp_path)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("spoil", ABSURD)
def test_absurd_files_are_refused_at_once(spoil, tmp_path):
    true_format.write_shard(tmp_path / "test.parquet", TEST_IMAGES, TEST_LABELS, image="image")
    spoil(tmp_path)
    with pytest.raises(DataError, match="train-0"):
        prepare("parquet", tmp_path)


@pytest.mark.parametrize(
    "metadata", [b"[" * 100_000, b"3", b'{"info": []}', b'{"info": {"features": {"label": {"names": 7}}}}']
)
def test_metadata_of_other_types_is_ignored(metadata, tmp_path):
    write(tmp_path)
    for path in tmp_path.glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)
    assert labels_of(tmp_path) == (LABELS.tolist(), TEST_LABELS.tolist())
