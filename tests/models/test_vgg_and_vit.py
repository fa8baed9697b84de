"""What the configured torchvision networks look like inside."""

import math

import pytest
import torch
from torch import nn

from zsharp.models import build_model


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_has_one_linear_layer_after_one_pixel(depth):
    with torch.device("meta"):
        model = build_model(f"vgg{depth}_bn", (3, 64, 64), 200)
    of = {
        kind: [m for m in model.modules() if isinstance(m, kind)]
        for kind in (nn.Conv2d, nn.MaxPool2d, nn.Linear)
    }
    assert [(layer.in_features, layer.out_features) for layer in of[nn.Linear]] == [(512, 200)]
    assert (len(of[nn.Conv2d]), len(of[nn.MaxPool2d])) == (depth - 3, 5)  # VGG has three linear layers
    assert not any(isinstance(module, nn.Dropout) for module in model.modules())


@pytest.mark.parametrize("channels", [1, 3])
def test_vgg_convolutions_start_from_he_fan_out(channels):
    torch.manual_seed(0)
    model = build_model("vgg11_bn", (channels, 32, 32), 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(
                (2 / (module.out_channels * 9)) ** 0.5, rel=0.1
            )
            assert not module.bias.any()


@pytest.mark.parametrize(("name", "heads", "mlp"), [("vit_7_8_8_384", 8, 384), ("vit_7_8_12_768", 12, 768)])
@pytest.mark.parametrize("side", [32, 64])
def test_vit_is_read_as_layers_patches_heads_mlp(name, heads, mlp, side):
    with torch.device("meta"):
        model = build_model(name, (3, side, side), 10)
    layers = list(model.encoder.layers)
    assert len(layers) == 7
    assert all(layer.self_attention.num_heads == heads for layer in layers)
    assert all(layer.mlp[0].out_features == mlp for layer in layers)
    assert model.conv_proj.kernel_size == model.conv_proj.stride == (side // 8, side // 8)
    assert model.encoder.pos_embedding.shape == (1, 8 * 8 + 1, 384)
    assert not any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_patch_embeddings_start_alike_for_any_number_of_channels(channels):
    torch.manual_seed(0)
    projection = build_model("vit_7_8_8_384", (channels, 32, 32), 10).conv_proj
    assert projection.in_channels == channels and not projection.bias.any()
    assert projection.weight.std().item() == pytest.approx(math.sqrt(1 / (channels * 4 * 4)), rel=0.05)


def test_a_vit_sees_positions_and_every_patch():
    torch.manual_seed(0)
    model = build_model("vit_tiny", (1, 8, 8), 10).eval()
    image = torch.randn(1, 1, 8, 8)
    logits = model(image)
    assert not torch.allclose(model(image.flip(-1)), logits, atol=1e-4)
    for row in range(0, 8, 2):
        for column in range(0, 8, 2):
            changed = image.clone()
            changed[..., row : row + 2, column : column + 2] += 1
            assert not torch.allclose(model(changed), logits, atol=1e-4)
