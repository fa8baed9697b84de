"""Any image data set in Hugging Face's Parquet layouts: files of `train` and of `test` (or `validation`)."""

import itertools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np

from zsharp.data.checks import check_labels
from zsharp.data.decode import decode_images
from zsharp.data.errors import data_error, parsing
from zsharp.data.limits import MAX_CLASSES, MAX_IMAGE_BYTES, MAX_IMAGES, MAX_TEXT_BYTES, check_count
from zsharp.data.shards import TEST_SPLITS, find_shards
from zsharp.data.source import Decoded, Labels, Source, SourceFiles, Split

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "fine_label", "labels")
_MAX_LABEL_BYTES = 1000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Shard:
    path: Path
    reader: Any
    image_column: str
    label_column: str
    labels: Any  # integers, or text in a dictionary
    names: tuple[str, ...]  # the class names in its metadata, empty if there are none


def _find(source: Source, root: Path) -> SourceFiles:
    train, test = _shard_paths(source, root)
    return SourceFiles(root, (*train, *test))


def _shard_paths(source: Source, root: Path) -> tuple[list[Path], list[Path]]:
    """Returns the files of the training and the test split; a test split without labels is passed over."""
    shards = find_shards(source, root)
    candidates = [split for split in TEST_SPLITS if split in shards]
    for split in candidates[:-1]:
        if _has_labels(source, shards[split]):
            return shards["train"], shards[split]
    return shards["train"], shards[candidates[-1]]


def _has_labels(source: Source, paths: list[Path]) -> bool:
    """Whether any label is set; those of competitions are left out, null or -1."""
    for path in paths:
        reader = _reader(path)
        names = _label_columns(source)
        column = next((name for name in names if name in reader.schema_arrow.names), None)
        if column is None:
            continue
        labels = _read_labels(path, reader, column)
        if any(label is not None and label != -1 for label in labels.unique().to_pylist()):
            return True
    return False


def _read(source: Source, root: Path) -> Decoded:
    train_paths, test_paths = _shard_paths(source, root)
    if not test_paths[0].name.startswith("test") and test_paths[0].parent.name != "test":
        _logger.warning("%s: no test split with labels; %s is the test set", root, test_paths[0].name)
    first = _open(train_paths[0], _image_columns(source), _label_columns(source))
    # All files are read by the columns of the first one, or `label` might mean two things.
    columns = (first.image_column,), (first.label_column,)
    train = [first, *(_open(path, *columns) for path in train_paths[1:])]
    test = [_open(path, *columns) for path in test_paths]
    for shards in (train, test):
        check_count(sum(len(shard.labels) for shard in shards), MAX_IMAGES, shards[0].path, "images")
    classes = _classes(train)
    if _is_text(first):
        for shard in (*train, *test):
            if not (_is_text(shard) or shard.names):
                raise data_error(shard.path, "found labels of integers", f"text, as in {first.path.name}")
    train_split, train_grey = _decode(train, classes, source.image_size)
    test_split, test_grey = _decode(test, classes, source.image_size)
    if train_grey and test_grey:
        train_split, test_split = (
            Split(np.ascontiguousarray(split.images[:, :1]), split.labels, split.where)
            for split in (train_split, test_split)
        )
    return Decoded(train_split, test_split, len(classes))


def _image_columns(source: Source) -> tuple[str, ...]:
    return _IMAGE_COLUMNS if source.image_column is None else (source.image_column,)


def _label_columns(source: Source) -> tuple[str, ...]:
    return _LABEL_COLUMNS if source.label_column is None else (source.label_column,)


def _open(path: Path, image_columns: tuple[str, ...], label_columns: tuple[str, ...]) -> _Shard:
    reader = _reader(path)
    schema = reader.schema_arrow
    image_column = _column(path, schema.names, image_columns, "image_column")
    label_column = _column(path, schema.names, label_columns, "label_column")
    _check_images(path, reader, image_column)
    labels = _read_labels(path, reader, label_column)
    if labels.null_count:
        raise data_error(path, f"found {labels.null_count} rows without {label_column}", "one label an image")
    names = _class_names(path, schema.metadata, label_column)
    return _Shard(path, reader, image_column, label_column, labels, names)


def _reader(path: Path) -> Any:
    import pyarrow.parquet as pq

    with parsing(path, "a complete Parquet file"):
        reader = pq.ParquetFile(path)
        check_count(reader.metadata.num_rows, MAX_IMAGES, path, "rows")
        names = reader.schema_arrow.names
    for name, following in itertools.pairwise(sorted(names)):
        if name == following:
            raise data_error(path, f"found two columns {name}", "columns of different names")
    return reader


def _column(path: Path, present: list[str], names: tuple[str, ...], setting: str) -> str:
    for name in names:
        if name in present:
            return name
    problem = f"found columns {', '.join(present[:50]) or 'none'}"
    raise data_error(path, problem, f"one named {' or '.join(names)}, or its name in data.{setting}")


def _check_images(path: Path, reader: Any, column: str) -> None:
    """Refuses columns that hold no images, and images that would be absurdly large once unpacked."""
    import pyarrow as pa

    image_type = reader.schema_arrow.field(column).type
    if pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0:
        image_type = image_type.field("bytes").type
    if pa.types.is_dictionary(image_type):
        image_type = image_type.value_type
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    if not any(is_kind(image_type) for is_kind in kinds):
        raise data_error(path, f"found column {column} of type {image_type}", "binary or struct{bytes, path}")
    for number in range(reader.num_row_groups):
        group = reader.metadata.row_group(number)
        unpacked = _unpacked_bytes(group, column)
        if unpacked > max(1, group.num_rows) * MAX_IMAGE_BYTES:
            problem = f"found {group.num_rows} images of {unpacked:,} bytes in row group {number}"
            raise data_error(path, problem, f"at most {MAX_IMAGE_BYTES:,} bytes an image")


def _unpacked_bytes(group: Any, column: str) -> int:
    """Returns how many bytes a column of a row group has before its compression."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    return sum(
        chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column
    )


def _read_labels(path: Path, reader: Any, column: str) -> Any:
    """Returns the labels as a `ChunkedArray` of integers, or of text in a dictionary."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups = [reader.metadata.row_group(number) for number in range(reader.num_row_groups)]
    unpacked, num_rows = sum(_unpacked_bytes(group, column) for group in groups), reader.metadata.num_rows
    if unpacked > MAX_TEXT_BYTES + num_rows * _MAX_LABEL_BYTES:
        problem = f"found {num_rows} labels of {unpacked:,} bytes"
        raise data_error(path, problem, f"at most {_MAX_LABEL_BYTES:,} bytes a label")
    with parsing(path, "a complete Parquet file"):
        # Text stays in a dictionary: a file of kilobytes can repeat a long text in millions of rows.
        labels = pq.ParquetFile(path, read_dictionary=[column]).read([column])[column]
        kind = labels.type.value_type if pa.types.is_dictionary(labels.type) else labels.type
    if pa.types.is_boolean(kind):
        return labels.cast(pa.uint8())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        with parsing(path, "text in UTF-8"):
            labels.validate(full=True)
        return labels
    if not pa.types.is_integer(kind):
        raise data_error(path, f"found column {column} of type {kind}", "integers, text or booleans")
    return labels.cast(kind)


def _class_names(path: Path, metadata: dict[bytes, bytes] | None, label_column: str) -> tuple[str, ...]:
    """Returns the class names in the `datasets` library's metadata."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label_column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    check_count(len(names), MAX_CLASSES, path, "class names")
    return tuple(names)


def _is_text(shard: _Shard) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_dictionary(shard.labels.type))


def _classes(train: list[_Shard]) -> tuple[str | int, ...]:
    """Returns the classes in the order of their labels: names where there are any, else numbers."""
    if _is_text(train[0]):
        present = {name for shard in train if _is_text(shard) for name in shard.labels.unique().to_pylist()}
        check_count(len(present), MAX_CLASSES, train[0].path, "different labels")
        return tuple(sorted(present))
    for shard in train:
        if shard.names:
            return shard.names
    largest, path = max((_largest(shard), shard.path) for shard in train)
    check_count(largest + 1, MAX_CLASSES, path, "classes, as the largest label says")
    return tuple(range(largest + 1))


def _largest(shard: _Shard) -> int:
    return -1 if _is_text(shard) else max(shard.labels.unique().to_pylist(), default=-1)


def _class_labels(shard: _Shard, classes: tuple[str | int, ...]) -> Labels:
    """Returns positions in `classes`; a file whose metadata lists other names, or another order, is translated."""
    is_named = bool(classes) and isinstance(classes[0], str)
    if _is_text(shard):
        if not is_named:
            raise data_error(shard.path, f"found {shard.label_column} of text", "integers, as in other files")
        encoded = shard.labels.combine_chunks()
        own: tuple[str | int, ...] = tuple(encoded.dictionary.to_pylist())
        labels = np.asarray(encoded.indices, dtype=np.int64)
    else:
        own = shard.names if shard.names and is_named else classes
        labels = check_labels(shard.labels.to_numpy(), len(own), shard.path)
    if own == classes:
        return labels
    for names in (own, classes):
        if len(set(names)) < len(names):
            problem = "found class names in another order than in other files, one of them twice"
            raise data_error(shard.path, problem, "each class once")
    position = {name: label for label, name in enumerate(classes)}
    for label in np.unique(labels):
        if own[label] not in position:
            problem = f"found class {str(own[label])[:80]!r}, which the training files lack"
            raise data_error(shard.path, problem, "the same classes in all files")
    translated = np.array([position.get(name, -1) for name in own], dtype=np.int64)
    result: Labels = translated[labels]
    return result


def _decode(shards: list[_Shard], classes: tuple[str | int, ...], size: int | None) -> tuple[Split, bool]:
    """Decodes the images of a split as RGB, and tells whether all of them are grey."""
    labels = np.concatenate([_class_labels(shard, classes) for shard in shards])
    images, all_grey = decode_images(_encoded(shards), len(labels), size)
    return Split(images, labels, str(shards[0].path)), all_grey


def _encoded(shards: list[_Shard]) -> Iterator[tuple[str, bytes]]:
    for shard in shards:
        row = 0
        # Few at a time: a file of kilobytes can repeat a large image, which each row gets a copy of.
        batches = shard.reader.iter_batches(batch_size=16, columns=[shard.image_column])
        while True:
            with parsing(shard.path, "a complete Parquet file"):
                batch = next(batches, None)
            if batch is None:
                break
            for value in map(methodcaller("as_py"), batch.column(0)):
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
    obtain="train-*.parquet and test-*.parquet (or validation-*.parquet) in the data root or a folder below it",
    has_columns=True,
)
