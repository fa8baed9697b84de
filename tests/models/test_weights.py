"""Weights from files: what is read, what is left fresh, and what is refused."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zsharp.models.weights import file_checksum, load_weights
from zsharp.user_code import UserCodeError


def network(num_classes=3):
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, num_classes))


HEAD = ("2.weight", "2.bias")
WRITE = {  # file name -> how a state dict is written to it
    "a.safetensors": save_file,
    "a.pt": torch.save,
    "checkpoint.pth": lambda state, file: torch.save({"epoch": 3, "state_dict": state}, file),
    "model.ckpt": lambda state, file: torch.save({"model": state}, file),
    "ddp.pt": lambda state, file: torch.save({f"module.{key}": state[key] for key in state}, file),
    "compiled.pt": lambda state, file: torch.save(
        {f"_orig_mod.module.{key}": state[key] for key in state}, file
    ),
}


@pytest.mark.parametrize("name", WRITE)
def test_a_head_of_another_size_is_left_fresh(tmp_path, name):
    state = network(7).state_dict()
    WRITE[name]({**state, "extra": torch.ones(2)}, tmp_path / name)
    model = network()
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    loaded = load_weights(model, tmp_path / name)
    assert (loaded.left_fresh, loaded.missing, loaded.num_loaded) == (HEAD, (), len(state) - 2)
    assert [key.rpartition(".")[2] for key in loaded.unexpected] == ["extra"]
    assert all(word in str(loaded) for word in (*HEAD, "extra"))
    for key, value in model.state_dict().items():
        assert torch.equal(value, (fresh if key in HEAD else state)[key]), key


def test_what_the_file_lacks_is_named(tmp_path):
    state = network().state_dict()
    del state["0.bias"]
    torch.save(state, tmp_path / "a.pt")
    assert load_weights(network(), tmp_path / "a.pt").missing == ("0.bias",)


class _Harmful:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "not readable as weights"),
        (b"garbage" * 100, "not readable as weights"),
        ({"state_dict": _Harmful()}, "not readable as weights"),
        ([torch.ones(2)], "holds a list"),
        ({}, "holds a dict"),
        ({"epoch": 3}, "holds no tensors but epoch"),
        ({"conv.weight": torch.ones(2)}, "none of its 1 tensors fits.*conv.weight.*0.weight"),
        # Counters have the same shape in every model.
        ({"1.num_batches_tracked": torch.tensor(3)}, "none of its 1 tensors fits"),
    ],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_files_that_are_refused(tmp_path, content, words, suffix):
    file = tmp_path / f"weights.{suffix}"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None and suffix == "pt":
        torch.save(content, file)
    elif content is not None:
        pytest.skip("safetensors holds tensors only")
    with pytest.raises(UserCodeError, match=f"weights.{suffix}: .*{words}"):
        load_weights(network(), file)


def test_a_checksum_is_of_the_content(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(b"weights")
    assert file_checksum(tmp_path / "a") == file_checksum(tmp_path / "b")
    with pytest.raises(UserCodeError, match="cannot be read"):
        file_checksum(tmp_path / "c")
