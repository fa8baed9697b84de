"""A data set is decoded once a machine, whole or not at all, and again when its files change."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import true_format

from zsharp.data import DataError, prepare
from zsharp.data.cache import locked

REPOSITORY = Path(__file__).parents[2]


def identity(prepared):
    """Tells one decoded copy from another, even one with the same content."""
    statuses = [path.stat() for path in sorted(prepared.folder.glob("*"))]
    assert len(statuses) == 5
    return [(status.st_ino, status.st_mtime_ns) for status in statuses]


def shift_time(path, seconds):
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + int(seconds * 1e9)))


def python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY, text=True
    )


@pytest.mark.timeout(20)
def test_second_call_neither_reads_nor_decodes_nor_waits_for_one_that_does(tmp_path):
    true_format.write_parquet(tmp_path)
    first = prepare("parquet", tmp_path)
    before = identity(first)
    for shard in tmp_path.glob("*.parquet"):  # whoever reads these now will see
        times = shard.stat()
        shard.write_bytes(bytes(times.st_size))
        os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    with locked(first.folder.parent, "parquet"):
        second = prepare("parquet", tmp_path)
    assert second == first and identity(second) == before
    shift_time(shard, 1)
    with pytest.raises(DataError):
        prepare("parquet", tmp_path)


@pytest.mark.parametrize("name", ["parquet", "tiny_imagenet"])
def test_changed_file_is_decoded_anew_and_the_old_copy_stays(name, tmp_path):
    if name == "parquet":
        true_format.write_parquet(tmp_path)
        first = prepare(name, tmp_path)
        changed = tmp_path / "train-00001-of-00002.parquet"
        true_format.write_shard(changed, *true_format.draw(77, 6, (3, 8, 8), 3))
    else:
        true_format.write_tiny_imagenet(tmp_path)
        first = prepare(name, tmp_path)
        changed = next((tmp_path / "tiny-imagenet-200" / "train").rglob("*_1.JPEG"))
        changed.write_bytes(true_format.encode(np.zeros((3, 16, 16), np.uint8), "JPEG"))
    shift_time(changed, 1)
    before = np.array(first.train()[0])
    second = prepare(name, tmp_path)
    differ = (second.train()[0] != before).any((1, 2, 3))
    assert differ.sum() == (6 if name == "parquet" else 1)
    assert second.info.checksum != first.info.checksum
    np.testing.assert_array_equal(first.train()[0], before)


def test_touched_or_moved_files_of_the_same_content_are_not_decoded_again(tmp_path):
    cache = tmp_path / "cache"
    true_format.write_parquet(tmp_path / "here")
    first = prepare("parquet", tmp_path / "here", cache=cache)
    before = identity(first)
    shift_time(tmp_path / "here" / "train-00001-of-00002.parquet", 5)
    assert identity(prepare("parquet", tmp_path / "here", cache=cache)) == before
    (tmp_path / "here").rename(tmp_path / "there")
    assert identity(prepare("parquet", tmp_path / "there", cache=cache)) == before


@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, path.stat().st_size - 1), os.unlink])
def test_damaged_copy_is_rebuilt(name, damage, tmp_path):
    expected = true_format.write_parquet(tmp_path)
    first = prepare("parquet", tmp_path)
    path = first.folder / name
    with path.open("rb"):  # so that the inode cannot be used again
        inode = path.stat().st_ino
        damage(path)
        second = prepare("parquet", tmp_path)
        assert second == first and path.stat().st_ino != inode
    np.testing.assert_array_equal(second.train()[0], expected.train[0])
    np.testing.assert_array_equal(second.test()[1], expected.test[1])
    assert not list((tmp_path / ".zsharp_cache").glob(".*"))


# The digits with noise for pixels: scikit-learn takes seconds to import, and these tests are about writing.
NOISE = """
import dataclasses, logging, os, signal, sys, time
from pathlib import Path
import numpy as np
from zsharp.data import DATASETS, cache, prepare
from zsharp.data.source import Decoded, Split
noise = np.random.default_rng(0).integers(256, size=(1500, 1, 8, 8), dtype=np.uint8)
split = Split(noise, np.arange(1500) % 10, "noise")
read = lambda source, root: Decoded(split, split, 10)
DATASETS["digits"] = dataclasses.replace(DATASETS["digits"], read=read)
"""


def test_kill_in_the_middle_of_writing_leaves_nothing_that_is_used(tmp_path):
    code = """
written = []
def die_at_the_second_file(descriptor):
    written.append(descriptor)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
cache.os.fsync = die_at_the_second_file
prepare("digits", cache=sys.argv[1])
"""
    process = python(NOISE + code, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    leftovers = list(tmp_path.glob(".digits-*.tmp"))
    assert len(leftovers) == 1 and (leftovers[0] / "train_images.npy").stat().st_size > 90_000
    assert not list(tmp_path.glob("digits-*"))
    prepared = prepare("digits", cache=tmp_path)
    assert len(prepared.train()[1]) == 1438 and len(prepared.test()[0]) == 359
    assert not list(tmp_path.glob(".*"))


def test_two_processes_at_once_decode_once(tmp_path):
    code = """
logging.basicConfig(level=logging.INFO, format="%(message)s")
folder, me = Path(sys.argv[1]), sys.argv[2]
(folder / f"ready{me}").touch()
while not (folder / "ready0").exists() or not (folder / "ready1").exists():
    time.sleep(0.001)
prepared = prepare("digits", cache=folder / "cache")
print(prepared.folder, prepared.train()[0].sum())
"""
    processes = [python(NOISE + code, tmp_path, number) for number in range(2)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0] != ""
    assert sum(errors.count("decoded to") for _, errors in results) == 1


def test_train_opens_no_file_of_the_test_split(tmp_path):
    true_format.write_parquet(tmp_path)
    prepared = prepare("parquet", tmp_path)
    for path in prepared.folder.glob("test_*"):
        path.unlink()
    assert prepared.train()[0].shape == (12, 3, 8, 8)
    with pytest.raises(FileNotFoundError):
        prepared.test()


def test_where_copies_go(tmp_path, monkeypatch):
    root = tmp_path / "root"
    true_format.write_parquet(root)
    monkeypatch.delenv("ZSHARP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))

    def folder(name="parquet", root=root, **cache):
        return prepare(name, root, **cache).folder.parent

    assert folder() == root / ".zsharp_cache"
    assert folder("digits") == tmp_path / "xdg" / "zsharp"
    monkeypatch.setenv("ZSHARP_CACHE", str(tmp_path / "environment"))
    assert folder() == tmp_path / "environment"
    assert folder(root="~/root", cache="~/given") == tmp_path / "given"


def empty_images(cache):
    (meta,) = cache.glob("*/meta.json")
    text = meta.read_text()
    meta.write_text(text.replace('"train_images.npy": ', '"train_images.npy": 0, "was": '))
    return meta.with_name("train_images.npy")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("content", [None, b"[" * 100_000])
@pytest.mark.parametrize("name", ["index/*.json", "*/meta.json", "*/train_images.npy"])
def test_a_cache_with_pipes_or_rubbish_in_it_is_made_again(name, content, tmp_path):
    true_format.write_parquet(tmp_path)
    cache = prepare("parquet", tmp_path).folder.parent
    path = empty_images(cache) if name.endswith(".npy") else next(cache.glob(name))
    path.unlink()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    assert len(prepare("parquet", tmp_path).train()[0])


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_the_lock_is_refused(tmp_path):
    true_format.write_parquet(tmp_path)
    (tmp_path / ".zsharp_cache").mkdir()
    os.mkfifo(tmp_path / ".zsharp_cache" / "parquet.lock")
    with pytest.raises(DataError, match="zsharp_cache"):
        prepare("parquet", tmp_path)
