"""Vision transformers for small images, sized by the number of patches a side."""

import math

from torch import nn

from zsharp.models.image_shape import ImageShape


def build_vit(
    image_shape: ImageShape,
    num_classes: int,
    *,
    num_layers: int,
    patches_per_side: int,
    num_heads: int,
    embedding: int,
    mlp_width: int,
) -> nn.Module:
    """Return torchvision's `VisionTransformer` without dropout; a patch is `side / patches_per_side` pixels.

    What the names `vit_7_8_8_384` and `vit_7_8_12_768` mean: the ZSharp paper writes ViT-7/8/8-384 as
    layers/heads/patch/MLP in its prose, and never states an embedding width. Here they are 7 layers, 8
    patches a side (4x4 pixels of a 32x32 image), 8 or 12 heads, and an MLP of width 384 or 768, with an
    embedding of 384 as in the ViT-CIFAR code that the authors built on. Unlike that code, attention is scaled
    by the width of a head (not of the embedding) and the MLP has no activation after its second layer.

    Initialised as in torchvision, with two exceptions:
    - Position embeddings and class token start from a unit normal, as in the ViT-CIFAR code. torchvision's
      0.02 and 0 drown in patch embeddings of size 1, and small data sets then take long to show positions.
    - The head starts from a normal of standard deviation 0.02, not from zero, where the first gradient of
      every other tensor would be exactly zero, with nothing in it to filter or to ascend.

    References:
        Dosovitskiy et al. 2020 (arXiv 2010.11929); the ZSharp paper, arXiv 2505.02369.
    """
    from torchvision.models import VisionTransformer  # takes over a second to import

    channels, side, _ = image_shape
    patch = side // patches_per_side
    model: nn.Module = VisionTransformer(
        image_size=side,
        patch_size=patch,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=embedding,
        mlp_dim=mlp_width,
        num_classes=num_classes,
    )
    if channels != 3:  # torchvision's class takes colour images only
        model.conv_proj = _patch_projection(channels, embedding, patch)
    nn.init.normal_(model.get_parameter("encoder.pos_embedding"))
    nn.init.normal_(model.get_parameter("class_token"))
    nn.init.normal_(model.get_parameter("heads.head.weight"), std=0.02)
    return model


def _patch_projection(channels: int, embedding: int, patch: int) -> nn.Conv2d:
    projection = nn.Conv2d(channels, embedding, kernel_size=patch, stride=patch)
    assert projection.bias is not None
    nn.init.trunc_normal_(projection.weight, std=math.sqrt(1 / (channels * patch * patch)))
    nn.init.zeros_(projection.bias)
    return projection
