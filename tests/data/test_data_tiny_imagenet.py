"""Tiny ImageNet as people's disks hold it: sorted, linked, with strays among its files."""

import os
import zipfile

import numpy as np
import pytest
import true_format

from zsharp.data import DataError, prepare

TINY = "tiny-imagenet-200"
WNID = true_format.WNIDS[1]


def stray_folders(root):
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "notes"):
        for split in ("train", "val"):
            (root / TINY / split / name / "images").mkdir(parents=True)
    (root / TINY / "train" / "@eaDir" / "images" / "x.JPEG").write_bytes(b"thumbnail")


def stray_files(root):
    for folder in (f"train/{WNID}/images", "val/images", f"train/{WNID}"):
        (root / TINY / folder / "._x.JPEG").write_bytes(b"\0\5\x16\7")
        (root / TINY / folder / ".DS_Store").write_bytes(b"Bud1")
        (root / TINY / folder / "@eaDir").mkdir()


def linked(path):
    def link(root):
        inside = root / TINY / path
        inside.rename(root / "elsewhere")
        inside.symlink_to(root / "elsewhere")

    return link


HABITS = {
    "stray folders": stray_folders,
    "stray files": stray_files,
    "a linked class": linked(f"train/{WNID}"),
    "linked images": linked(f"train/{WNID}/images"),
    "a linked image": linked(f"train/{WNID}/images/{WNID}_0.JPEG"),
    "a linked split": linked("train"),
    "linked validation images": linked("val/images"),
    "a circle of links": lambda root: (root / TINY / "train" / WNID / "again").symlink_to(root),
}


@pytest.mark.parametrize("habit", HABITS)
def test_strays_are_passed_over_and_links_are_read(habit, tmp_path):
    true_format.write_tiny_imagenet(tmp_path)
    whole = prepare("tiny_imagenet", tmp_path, cache=tmp_path / "before")
    HABITS[habit](tmp_path)
    prepared = prepare("tiny_imagenet", tmp_path, cache=tmp_path / "after")
    for before, after in zip(
        (*whole.train(), *whole.test()), (*prepared.train(), *prepared.test()), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    if not habit.startswith("linked"):
        assert prepared.info.checksum == whole.info.checksum


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["images", ""])
def test_a_sorted_val_folder_has_the_labels_of_its_folders(below, packed, tmp_path):
    true_format.write_tiny_imagenet(tmp_path)
    unsorted = prepare("tiny_imagenet", tmp_path, cache=tmp_path / "before").test()
    labels = true_format.sort_val(tmp_path, below)
    if packed:
        true_format.zip_tiny_imagenet(tmp_path)
    images, found = prepare("tiny_imagenet", tmp_path, cache=tmp_path / "after").test()
    assert found.tolist() == labels
    order = np.argsort(unsorted[1], kind="stable")
    np.testing.assert_array_equal(images, unsorted[0][order])


def test_a_class_that_a_sorted_val_folder_lacks_is_named(tmp_path):
    true_format.write_tiny_imagenet(tmp_path)
    true_format.sort_val(tmp_path)
    (tmp_path / TINY / "val" / WNID).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"val/{WNID}"):
        prepare("tiny_imagenet", tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "name", ["wnids.txt", "val/val_annotations.txt", f"train/{WNID}/images/{WNID}_0.JPEG"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_what_is_no_file_of_reasonable_size_is_refused(kind, name, tmp_path):
    true_format.write_tiny_imagenet(tmp_path)
    path = tmp_path / TINY / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 2**40)
    with pytest.raises(DataError):
        prepare("tiny_imagenet", tmp_path)


def test_members_of_a_zip_file_are_bounded_and_unique(tmp_path):
    true_format.write_tiny_imagenet(tmp_path)
    true_format.zip_tiny_imagenet(tmp_path)
    member = f"{TINY}/train/{WNID}/images/{WNID}_0.JPEG"
    packed = tmp_path / f"{TINY}.zip"
    small = packed.read_bytes()
    with zipfile.ZipFile(packed, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(member, b"again")
    with pytest.raises(DataError, match="twice"):
        prepare("tiny_imagenet", tmp_path)
    packed.write_bytes(small)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member.replace("_0.", "_9."), bytes(2**26 + 1))
    with pytest.raises(DataError, match=r"_9\.JPEG: found 67,108,865 bytes"):
        prepare("tiny_imagenet", tmp_path)
    directory = small.rindex(b"PK\5\6") + 12
    packed.write_bytes(small[:directory] + (2**32 - 2).to_bytes(4, "little") + small[directory + 4 :])
    with pytest.raises(DataError, match="of names"):
        prepare("tiny_imagenet", tmp_path)
    huge, decoy = (
        (2**32 - 2).to_bytes(4, "little"),
        b"PK\5\6",
    )  # in the record itself, at its numbers of disks
    packed.write_bytes(small[:-18] + decoy + small[-14:-10] + huge + small[-6:])
    with pytest.raises(DataError, match="of names"):
        prepare("tiny_imagenet", tmp_path)
    packed.write_bytes(small)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_BZIP2) as archive:
        archive.writestr(member.replace("_0.", "_9."), b"unpacked without bounds")
    with pytest.raises(DataError, match=r"_9\.JPEG: found compression 12"):
        prepare("tiny_imagenet", tmp_path)
