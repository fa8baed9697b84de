"""Data that a function of the user's own makes: what it may return, when it runs again, and how faults are told."""

import sys
import textwrap

import numpy as np
import pytest
import torch

from zsharp.data import DataError, prepare
from zsharp.data.training_data import load_training_data
from zsharp.user_code import UserCodeError

HEAD = """
import numpy as np, torch
from PIL import Image
IMAGES = np.random.default_rng(0).integers(256, size=(6, 8, 10, 3), dtype=np.uint8)
LABELS = [0, 1, 0, 1, 0, 1]

class Items:
    def __init__(self, images, labels=LABELS):
        self.images, self.labels = images, labels
    def __len__(self):
        return len(self.images)
    def __getitem__(self, row):
        return self.images[row], self.labels[row]

PIL = [Image.fromarray(image) for image in IMAGES]
TENSORS = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
"""
IMAGES = np.random.default_rng(0).integers(256, size=(6, 8, 10, 3), dtype=np.uint8).transpose(0, 3, 1, 2)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Prepares data from the body of a function `load`."""
    monkeypatch.setenv("ZSHARP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # it is told from the second that a source changed in
    folder = tmp_path / "code"
    folder.mkdir()

    def prepared(body, signature="", head=HEAD, **settings):
        text = f"{head}\ndef load({signature}):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        (folder / "own_images.py").write_text(text)
        return prepare("own_images:load", code=[folder], **settings)

    yield prepared
    sys.modules.pop("own_images", None)


RETURNED = {
    "arrays": "return (IMAGES, np.array(LABELS)), (IMAGES[:2], LABELS[:2])",
    "tensors": "return (TENSORS, torch.tensor(LABELS)), (TENSORS[:2], LABELS[:2])",
    "PIL images": "return Items(PIL), Items(PIL[:2])",
    "data sets of tensors": "return Items(TENSORS), Items(TENSORS[:2])",
    "data sets of arrays": "return [Items(IMAGES), Items(IMAGES[:2])]",
    "lists of pairs": "return list(zip(PIL, LABELS)), list(zip(PIL, LABELS))[:2]",
    "torch's own": """
        from torch.utils.data import Subset, TensorDataset
        train = TensorDataset(TENSORS, torch.tensor(LABELS))
        return train, Subset(train, [0, 1])
    """,
    "names": "names = ['b' if n else 'a' for n in LABELS]; return Items(PIL, names), Items(PIL[:2], names)",
    "a dict": "return {'test': Items(PIL[:2]), 'train': Items(PIL)}",
}  # fmt: skip


@pytest.mark.parametrize("kind", RETURNED)
def test_images_and_labels_are_those_that_it_returns(own, kind):
    prepared = own(RETURNED[kind])
    info = prepared.info
    assert (info.name, info.image_shape, info.num_classes) == ("own_images:load", (3, 8, 10), 2)
    np.testing.assert_array_equal(prepared.train()[0], IMAGES)
    assert prepared.train()[1].tolist() == [0, 1] * 3
    np.testing.assert_array_equal(prepared.test()[0], IMAGES[:2])
    assert prepared.test()[1].tolist() == [0, 1]


def test_a_third_part_is_validated_on(own, tmp_path):
    own("return Items(PIL), Items(PIL[:2]), Items(PIL[:3])")
    data = load_training_data(prepare("own_images:load", code=[tmp_path / "code"]))
    assert (data.train_indices.tolist(), data.val_indices.tolist()) == ([*range(6)], [6, 7, 8])


def test_grey_sizes_and_many_channels(own):
    grey = own("return (IMAGES[..., 0], LABELS), (IMAGES[:2, ..., 0], LABELS[:2])")
    np.testing.assert_array_equal(grey.train()[0], IMAGES[:, :1])
    mixed = own("PIL[0] = PIL[0].convert('L').resize((30, 9)); return Items(PIL), Items(PIL)", image_size=6)
    assert mixed.info.image_shape == (3, 6, 6)
    many = own("return (np.repeat(IMAGES, 2, 3), LABELS), (np.repeat(IMAGES, 2, 3), LABELS)")
    assert many.info.image_shape == (6, 8, 10)


COUNTED = """
from pathlib import Path
calls = Path(__file__).with_name("calls")
calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
import extra
return (IMAGES, LABELS), (IMAGES[:size], LABELS[:size])
"""


def test_it_runs_again_only_for_other_code_or_arguments(own, tmp_path):
    extra, calls = tmp_path / "code/extra.py", tmp_path / "code/calls"
    extra.write_text("")
    state = torch.get_rng_state()
    for size in (2, 2, 3, 2):
        assert own(COUNTED, "size=4", arguments={"size": size}).info.num_test == size
    checksum = own(COUNTED, "size=4", arguments={"size": 2}).info.checksum
    assert calls.read_text() == "xx"
    extra.write_text("# what it imports is its code too")
    assert own(COUNTED, "size=4", arguments={"size": 2}).info.checksum == checksum  # other code, same pixels
    assert calls.read_text() == "xxx"
    assert own(COUNTED, "size=1").info.num_test == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_random_numbers_are_the_same_everywhere(own, tmp_path):
    body = "drawn = np.random.randint(256, size=(6, 4, 4)).astype('uint8'); return [(drawn, LABELS)] * 2"
    first = own(body).train()[0].copy()
    np.random.rand(3)
    np.testing.assert_array_equal(own(body, cache=tmp_path / "another machine").train()[0], first)


REFUSED = {
    "one part": ("return Items(PIL)", "", {}, "own_images:load"),
    "no data set": ("return 3, 4", "", {}, "int"),
    "a loader": ("return torch.utils.data.DataLoader(Items(PIL)), Items(PIL)", "", {}, "DataLoader"),
    "an empty one": ("return Items(PIL), Items([])", "", {}, "test is empty"),
    "floats": ("return Items(TENSORS / 255), Items(PIL)", "", {}, "train image 0.*uint8"),
    "channels first": ("return Items(IMAGES.transpose(0, 3, 1, 2)), Items(PIL)", "", {}, "image 0"),
    "no image": ("return Items([None] * 6), Items(PIL)", "", {}, "NoneType"),
    "no pair": ("return PIL, PIL", "", {}, "pair"),
    "labels that are floats": ("return Items(PIL, [0.0, 1.0] * 3), Items(PIL)", "", {}, "int"),
    "labels below 0": ("return Items(PIL, [0, 1, -1] * 2), Items(PIL)", "", {}, "-1"),
    "labels of two kinds": ("return Items(PIL), Items(PIL, 'aabbcc')", "", {}, "kind"),
    "a class without training": ("return Items(PIL, 'ababab'), Items(PIL, 'abcabc')", "", {}, "'c'"),
    "too few labels": ("return (IMAGES, LABELS[:5]), (IMAGES, LABELS)", "", {}, "5"),
    "two sizes": ("PIL[3] = PIL[3].resize((4, 4)); return Items(PIL), Items(PIL)", "", {}, "image 3.*image_size"),
    "a fault of theirs": ("return Items(PIL, LABELS[:4]), Items(PIL)", "", {}, r"image 4: IndexError.*own_images.py"),
    "a fault in it": ("return undefined", "", {}, r"NameError.*own_images.py, line"),
    "an argument it lacks": ("return 1", "a", {"arguments": {"a": 1, "b": 2}}, "'b'"),
    "an argument not given": ("return 1", "a", {}, "data.arguments"),
    "a root that it does not take": ("return 1", "", {"root": "x"}, "'root'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_told_and_nothing_is_left_behind(own, tmp_path, case):
    body, signature, settings, told = REFUSED[case]
    with pytest.raises((UserCodeError, DataError), match=told):
        own(body, signature, **settings)
    assert not (tmp_path / "cache").exists()


def test_only_functions_take_arguments(tmp_path):
    with pytest.raises(DataError, match="arguments"):
        prepare("digits", arguments={"a": 1})
    with pytest.raises(UserCodeError, match="no_such_module"):
        prepare("no_such_module:load", code=[tmp_path])
