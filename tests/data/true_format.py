"""Writes tiny data sets in the exact on-disk formats of the real ones, and knows what must be read from them."""

import gzip
import hashlib
import io
import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat


@dataclass
class Expected:
    """The arrays that were written, uint8 [N, C, H, W] and int64 [N]."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def draw(seed, num, shape, num_classes):
    generator = np.random.default_rng(seed)
    images = generator.integers(256, size=(num, *shape), dtype=np.uint8)
    return images, np.arange(num, dtype=np.int64) % num_classes


def md5_of(root, relatives):
    """Returns the checksums that stand for the official ones, computed with hashlib, not with our code."""
    return {relative: hashlib.md5((root / relative).read_bytes()).hexdigest() for relative in relatives}


def write_cifar(root, name="cifar10", num=20):
    """Writes the official batches as Python 2 pickled them."""
    num_classes, folder, batches, test, meta, key = {
        "cifar10": (
            10, "cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "labels",
        ),
        "cifar100": (100, "cifar-100-python", ["train"], "test", "meta", "fine_labels"),
    }[name]  # fmt: skip
    (root / folder).mkdir(parents=True)
    parts = []
    for seed, batch in enumerate([*batches, test]):
        images, labels = draw(seed, num, (3, 32, 32), num_classes)
        write_cifar_batch(root / folder / batch, images, labels, key)
        parts.append((images, labels))
    names = {key.replace("labels", "label_names"): [f"class{i}" for i in range(num_classes)]}
    (root / folder / meta).write_bytes(python2_pickle(names | {"num_vis": 3072}))
    return Expected(tuple(np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True)), parts[-1])


def write_cifar_batch(path, images, labels, key="labels"):
    content = {
        "batch_label": "testing batch 1 of 1",
        key: [int(label) for label in labels],
        "data": images.reshape(len(images), -1),
        "filenames": [f"image_{i}.png" for i in range(len(images))],
    }
    path.write_bytes(python2_pickle(content))


def python2_pickle(value):
    """Pickles a dict of numbers, strings, lists and one uint8 matrix as cPickle of Python 2 did for CIFAR."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value):
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(part) for item in value.items() for part in item) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(_python2(part) for part in value) + b"e"
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    rows, columns = value.shape
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = _python2(rows) + _python2(columns) + b"\x86"
    content = b"T" + struct.pack("<i", value.size) + value.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return array + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def write_svhn(root, num=20):
    root.mkdir(parents=True, exist_ok=True)
    parts = []
    for seed, split in enumerate(("train", "test")):
        images, labels = draw(seed, num, (3, 32, 32), 10)
        write_svhn_file(root / f"{split}_32x32.mat", images, labels)
        parts.append((images, labels))
    return Expected(*parts)


def write_svhn_file(path, images, labels):
    official = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]  # the digit 0 has the label 10
    savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": official}, do_compression=True)


def write_fashion_mnist(root, num=20):
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    parts = []
    for seed, prefix in enumerate(("train", "t10k")):
        images, labels = draw(seed, num, (1, 28, 28), 10)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images[:, 0])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels.astype(np.uint8))
        parts.append((images, labels))
    return Expected(*parts)


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def encode(image, form="PNG"):
    """Encodes uint8 [C, H, W]; one channel makes a grey file."""
    buffer = io.BytesIO()
    array = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


WNIDS = ("n02124075", "n01443537", "n04067472")  # not in alphabetical order, as in the real file


def write_tiny_imagenet(root, num=4, side=16):
    """Writes the unpacked folder; images are JPEG, so they are expected as Pillow decodes them."""
    folder = root / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (folder / "words.txt").write_text("".join(f"{wnid}\tthing, object\n" for wnid in WNIDS))
    (folder / "test" / "images" / "test_0.JPEG").write_bytes(b"has no public label")
    train, train_labels = [], []
    for label, wnid in enumerate(WNIDS):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        pixels, _ = draw(label, num, (3, side, side), 2)
        for i, image in enumerate(pixels):
            grey = image[:1] if (label, i) == (1, 2) else image
            train.append(_write_jpeg(images / f"{wnid}_{i}.JPEG", grey))
            train_labels.append(label)
        boxes = "".join(f"{wnid}_{i}.JPEG\t0\t0\t15\t15\n" for i in range(num))
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
    test, test_labels, lines = [], [], []
    for i, image in enumerate(draw(9, 5, (3, side, side), 2)[0]):
        test.append(_write_jpeg(folder / "val" / "images" / f"val_{i}.JPEG", image))
        test_labels.append((i * 2) % 3)
        lines.append(f"val_{i}.JPEG\t{WNIDS[test_labels[-1]]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return Expected(
        (np.stack(train), np.array(train_labels, dtype=np.int64)),
        (np.stack(test), np.array(test_labels, dtype=np.int64)),
    )


def sort_val(root, below="images"):
    """Moves the validation images into a folder of each class, as many scripts do; returns their labels in order."""
    val = root / "tiny-imagenet-200" / "val"
    lines = (val / "val_annotations.txt").read_text().splitlines()
    class_of = dict(line.split("\t")[:2] for line in lines)
    for name, wnid in class_of.items():
        (val / wnid / below).mkdir(parents=True, exist_ok=True)
        (val / "images" / name).rename(val / wnid / below / name)
    (val / "val_annotations.txt").unlink()
    (val / "images").rmdir()
    return sorted(WNIDS.index(wnid) for wnid in class_of.values())


def _write_jpeg(path, image):
    path.write_bytes(encode(image, "JPEG"))
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


def zip_tiny_imagenet(root):
    """Packs the folder as the official zip file has it and removes it."""
    folder = root / "tiny-imagenet-200"
    with zipfile.ZipFile(root / "tiny-imagenet-200.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(root))
    folder.rename(root / "elsewhere")


def write_parquet(root, num=12, shape=(3, 8, 8), num_classes=3, test="test", **columns):
    """Writes two training shards and one test shard as the `datasets` library does."""
    root.mkdir(parents=True, exist_ok=True)
    images, labels = draw(0, num, shape, num_classes)
    half = num // 2
    write_shard(root / "train-00000-of-00002.parquet", images[:half], labels[:half], **columns)
    write_shard(root / "train-00001-of-00002.parquet", images[half:], labels[half:], **columns)
    test_images, test_labels = draw(1, num // 2, shape, num_classes)
    write_shard(root / f"{test}-00000-of-00001.parquet", test_images, test_labels, **columns)
    return Expected((images, labels), (test_images, test_labels))


def write_shard(
    path: Path,
    images,
    labels,
    image="img",
    label="label",
    binary=False,
    names=None,
    form="PNG",
    bytes_type=None,
):
    encoded = [content if isinstance(content, bytes | None) else encode(content, form) for content in images]
    bytes_type = bytes_type or pa.binary()
    if binary:
        column = pa.array(encoded, bytes_type)
    else:
        struct_type = pa.struct({"bytes": bytes_type, "path": pa.string()})
        rows = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(encoded)]
        column = pa.array(rows, struct_type)
    columns = {image: column}
    if labels is not None:
        columns[label] = labels if isinstance(labels, pa.Array) else pa.array(labels, pa.int64())
    table = pa.table(columns)
    if names:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    # pyarrow cannot slice views inside structs, which it would have to for several row groups
    pq.write_table(table, path, row_group_size=None if pa.types.is_binary_view(bytes_type) else 4)
