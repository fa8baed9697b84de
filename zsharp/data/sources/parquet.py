"""Any image data set in Hugging Face's Parquet layout: train-*.parquet and test-*.parquet (or validation-*)."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zsharp.data.checks import check_labels, missing
from zsharp.data.decode import decode_images
from zsharp.data.errors import data_error, parsing
from zsharp.data.source import Decoded, Labels, Source, SourceFiles, Split

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "fine_label", "labels")
_TEST_SPLITS = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class _Shard:
    """An opened file: its checked columns, its labels, and the number of class names in its metadata (0: none)."""

    path: Path
    reader: Any
    image_column: str
    labels: Labels
    num_named: int


def _find(source: Source, root: Path) -> SourceFiles:
    train, test = _shard_paths(source, root)
    return SourceFiles(root, (*train, *test))


def _shard_paths(source: Source, root: Path) -> tuple[list[Path], list[Path]]:
    # Repositories on the hub have their files in `data`.
    folder = root if any(root.glob("train-*.parquet")) else root / "data"
    train = sorted(folder.glob("train-*.parquet"))
    if not train:
        raise missing(source, root / "train-*.parquet")
    for split in _TEST_SPLITS:
        if test := sorted(folder.glob(f"{split}-*.parquet")):
            break
    else:
        raise missing(source, folder / "test-*.parquet")
    for paths in (train, test):
        for path in _all_shards(paths[0]):
            if path not in paths:
                raise missing(source, path)
    return train, test


def _all_shards(shard: Path) -> list[Path]:
    """Returns the files that belong with this one by its name: train-00001-of-00003 has two siblings."""
    parts = re.fullmatch(r"(.*-)(\d+)-of-(\d+)", shard.stem)
    if parts is None:
        return [shard]
    prefix, number, count = parts.groups()
    names = (f"{prefix}{index:0{len(number)}}-of-{count}.parquet" for index in range(int(count)))
    return [shard.with_name(name) for name in names]


def _read(source: Source, root: Path) -> Decoded:
    train_paths, test_paths = _shard_paths(source, root)
    train, test = [_open(path) for path in train_paths], [_open(path) for path in test_paths]
    largest = max((int(shard.labels.max()) for shard in train if shard.labels.size), default=-1)
    num_classes = train[0].num_named or largest + 1
    train_split, train_grey = _decode(train, num_classes)
    test_split, test_grey = _decode(test, num_classes)
    if train_grey and test_grey:
        train_split, test_split = (
            Split(np.ascontiguousarray(split.images[:, :1]), split.labels, split.where)
            for split in (train_split, test_split)
        )
    return Decoded(train_split, test_split, num_classes)


def _open(path: Path) -> _Shard:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with parsing(path, "a complete Parquet file"):
        reader = pq.ParquetFile(path)
        schema = reader.schema_arrow
    image_column = _column(path, schema.names, _IMAGE_COLUMNS)
    label_column = _column(path, schema.names, _LABEL_COLUMNS)
    image_type, label_type = schema.field(image_column).type, schema.field(label_column).type
    if pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0:
        image_type = image_type.field("bytes").type
    if not (pa.types.is_binary(image_type) or pa.types.is_large_binary(image_type)):
        raise data_error(
            path, f"found column {image_column} of type {image_type}", "binary or struct{bytes, path}"
        )
    if not pa.types.is_integer(label_type):
        raise data_error(path, f"found column {label_column} of type {label_type}", "integers")
    with parsing(path, "a complete Parquet file"):
        column = reader.read([label_column])[label_column]
    if column.null_count:
        raise data_error(path, f"found {column.null_count} rows without {label_column}", "one label an image")
    return _Shard(path, reader, image_column, column.to_numpy(), _num_named(schema.metadata, label_column))


def _column(path: Path, present: list[str], names: tuple[str, ...]) -> str:
    for name in names:
        if name in present:
            return name
    raise data_error(path, f"found columns {', '.join(present) or 'none'}", f"one named {' or '.join(names)}")


def _num_named(metadata: dict[bytes, bytes] | None, label_column: str) -> int:
    """Returns how many class names the `datasets` library's metadata lists, 0 if there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return len(features[label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return 0


def _decode(shards: list[_Shard], num_classes: int) -> tuple[Split, bool]:
    """Decodes the images of a split as RGB, and tells whether all of them are grey."""
    labels = np.concatenate([check_labels(shard.labels, num_classes, shard.path) for shard in shards])
    images, all_grey = decode_images(_encoded(shards), len(labels))
    return Split(images, labels, str(shards[0].path)), all_grey


def _encoded(shards: list[_Shard]) -> Iterator[tuple[str, bytes]]:
    for shard in shards:
        row = 0
        batches = shard.reader.iter_batches(batch_size=1024, columns=[shard.image_column])
        while True:
            with parsing(shard.path, "a complete Parquet file"):
                batch = next(batches, None)
            if batch is None:
                break
            for value in batch.column(0).to_pylist():
                where = f"{shard.path}, row {row}"
                content = value.get("bytes") if isinstance(value, dict) else value
                if content is None:
                    raise data_error(where, "found no image bytes", "the image itself, not just its path")
                yield where, content
                row += 1


PARQUET = Source(
    name="parquet",
    summary="any folder of images in Hugging Face's Parquet layout: train-*.parquet and test-*.parquet",
    flip=True,
    find=_find,
    read=_read,
    obtain="train-*.parquet and test-*.parquet (or validation-*.parquet) in the data root or its folder data",
)
