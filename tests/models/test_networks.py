"""What the networks look like inside: the CIFAR ResNet against a slow, obvious twin, VGG and ViT as configured."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zsharp.models import build_model


def _normalise(x, weights, prefix):
    """Batch normalisation with the batch's own statistics, written out."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean(dim=(0, 2, 3), keepdim=True)
    scale, shift = (weights[f"{prefix}.{key}"].view(1, -1, 1, 1) for key in ("weight", "bias"))
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def _option_a(x, out):
    """Identity shortcut, pixel by pixel: where the image shrinks, the pixels at even positions."""
    stride = 1 if x.shape[2:] == out.shape[2:] else 2
    shortcut = torch.zeros_like(out)
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            shortcut[:, : x.shape[1], row, column] = x[:, :, stride * row, stride * column]
    return shortcut


def _twin(weights, images, num_blocks):
    """Training-mode forward pass of He et al. 2015, sec. 4.2, from a state dict."""
    x = torch.clamp(_normalise(F.conv2d(images, weights["conv.weight"], padding=1), weights, "norm"), min=0)
    for block in range(3 * num_blocks):
        prefix = f"blocks.{block}"
        stride = 2 if block in (num_blocks, 2 * num_blocks) else 1
        out = F.conv2d(x, weights[f"{prefix}.conv1.weight"], stride=stride, padding=1)
        out = torch.clamp(_normalise(out, weights, f"{prefix}.norm1"), min=0)
        out = _normalise(
            F.conv2d(out, weights[f"{prefix}.conv2.weight"], padding=1), weights, f"{prefix}.norm2"
        )
        x = torch.clamp(out + _option_a(x, out), min=0)
    pooled = x.flatten(2).sum(dim=2) / (x.shape[2] * x.shape[3])
    return pooled @ weights["classifier.weight"].T + weights["classifier.bias"]


@pytest.mark.parametrize("image_shape", [(3, 16, 16), (1, 9, 7)])
@pytest.mark.parametrize(("name", "num_blocks"), [("resnet8", 1), ("resnet20", 3)])
def test_equals_its_slow_twin(name, num_blocks, image_shape):
    torch.manual_seed(0)
    model = build_model(name, image_shape, 10).double()
    for key, parameter in model.named_parameters():
        if "norm" in key:  # away from ones and zeros, where a swap would not show
            nn.init.uniform_(parameter, 0.5, 1.5)
    images = torch.randn(5, *image_shape, dtype=torch.float64)
    expected = _twin(model.state_dict(), images, num_blocks)
    torch.testing.assert_close(model(images), expected)


def test_convolutions_start_from_he_fan_out():
    model = build_model("resnet110", (3, 32, 32), 10)
    wide = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)][-20:]
    std = torch.cat([weight.flatten() for weight in wide]).std().item()
    assert std == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_resnet18_keeps_the_resolution_of_small_images():
    model = build_model("resnet18", (1, 32, 32), 10)
    sizes = []
    for stage in (model.layer1, model.layer4):
        stage.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    model(torch.randn(2, 1, 32, 32))
    assert sizes == [(64, 32, 32), (512, 4, 4)]


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
