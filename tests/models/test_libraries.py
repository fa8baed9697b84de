"""Architectures of timm and torchvision: built for the data, checked by name, with the weights that they publish."""

import sys

import pytest
import torch

from zsharp.models import build_model, check_architecture, layout_of
from zsharp.models.architectures import build
from zsharp.models.libraries import weights_input
from zsharp.user_code import UserCodeError


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "taken"),
    [
        ("timm/resnet10t", (1, 32, 40), {"drop_rate": 0.5, "width": 3, "pretrained": True}, {"drop_rate"}),
        ("timm/vit_tiny_patch16_224", (3, 32, 48), {"depth": 2, "embed_dim": 48}, {"depth", "embed_dim"}),
        ("torchvision/squeezenet1_1", (4, 64, 64), {"dropout": 0.0, "depth": 2}, {"dropout"}),
        (
            "torchvision/googlenet",
            (3, 32, 32),
            {"weights": "DEFAULT", "pretrained": True},
            set(),
        ),  # has heads whose outputs make a tuple
        ("torchvision/vit_b_16", (1, 32, 32), {"dropout": 0.0, "size": 1}, {"dropout"}),
    ],
)
def test_models_follow_the_data_and_take_their_arguments(name, shape, arguments, taken):
    with torch.device("meta"):  # shapes are all that matters
        built = build(name, shape, 7, arguments=arguments)
        logits = built.model(torch.empty(2, *shape))
    assert logits.shape == (2, 7)
    assert built.arguments == taken and built.loaded is None


def test_convolutions_lie_as_they_are_fastest():
    with torch.device("meta"):
        models = {
            name: build_model(name, (3, 32, 32), 7)
            for name in ("timm/resnet10t", "timm/vit_tiny_patch16_224")
        }
    assert [layout_of(name, model) for name, model in models.items()] == [
        torch.channels_last,
        torch.contiguous_format,
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm/convnext_ato", "did you mean convnext_atto"),
        ("timm/convnext_atto.d2_in", "did you mean convnext_atto.d2_in1k"),
        ("torchvision/ResNet-18", "did you mean resnet18"),
        ("torchvision/fcn_resnet50", "torchvision has no model"),  # segments images
        ("timm/", "timm has no model"),
        ("torchvision/vit_b_16", "square"),
        ("torchvision/maxvit_t", "torchvision/maxvit_t: ValueError: "),  # whose windows do not fit
    ],
)
def test_names_and_shapes_that_it_cannot_take(name, words):
    with pytest.raises(UserCodeError, match=words):
        build_model(name, (3, 40, 32), 10)


def test_without_timm_a_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserCodeError, match=r"pip install 'zsharp-tune\[timm\]'"):
        check_architecture("timm/resnet18", (3, 32, 32))
    check_architecture("torchvision/resnet18", (3, 32, 32))


def is_loaded(model, state):
    """Returns the names of the tensors that are as in a state dict."""
    return {key for key, value in model.state_dict().items() if torch.equal(value, state[key])}


def test_pretrained_weights_of_torchvision_come_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy"):  # nothing listens there
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    name = "torchvision/squeezenet1_1"
    with pytest.raises(UserCodeError, match=r"(?s)neither in the cache.*init\.weights"):
        build(name, (3, 32, 32), 10, pretrained=True)
    state = build_model(name, (3, 32, 32), 1000).state_dict()
    torch.save(state, tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    built = build(name, (3, 32, 32), 10, pretrained=True)
    head = ("classifier.1.weight", "classifier.1.bias")
    assert built.loaded.left_fresh == head
    assert not built.loaded.missing + built.loaded.unexpected
    assert {key for key in state if key not in head} == is_loaded(
        built.model, {**state, **{key: built.model.state_dict()[key] + 1 for key in head}}
    )
    assert weights_input(name).size == (224, 224)
    gray = build(name, (1, 32, 32), 1000, pretrained=True)
    assert gray.loaded.left_fresh == ("features.0.weight",)


def test_pretrained_weights_of_timm_come_from_the_hubs_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants
    from safetensors.torch import save_file

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--resnet10t.c3_in1k"
    for part in ("refs", "snapshots/0"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text("0")
    state = build_model("timm/resnet10t", (3, 32, 32), 1000).state_dict()
    save_file(state, folder / "snapshots" / "0" / "model.safetensors")
    built = build("timm/resnet10t", (3, 32, 32), 10, pretrained=True)
    assert built.loaded.left_fresh == ("fc.weight", "fc.bias")
    assert torch.equal(built.model.state_dict()["layer4.0.conv1.weight"], state["layer4.0.conv1.weight"])
    gray = build("timm/resnet10t", (1, 32, 32), 1000, pretrained=True)
    assert gray.loaded.left_fresh == ()
    expected = state["conv1.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(gray.model.state_dict()["conv1.0.weight"], expected)
    assert weights_input("timm/resnet10t").mean == pytest.approx((0.485, 0.456, 0.406))


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_18x2", "resnet8", "nets:mixer"])
def test_weights_that_nobody_publishes(name):
    with pytest.raises(ValueError, match=r"publish|no model"):
        build_model(name, (3, 32, 32), 10, pretrained=True)
