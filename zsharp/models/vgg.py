"""VGG with batch normalisation and one linear layer, for small images."""

from collections import OrderedDict

from torch import nn

from zsharp.models.image_shape import ImageShape

_CONFIGURATIONS = {11: "A", 13: "B", 16: "D", 19: "E"}  # columns of table 1 of Simonyan & Zisserman 2014


def build_vgg(image_shape: ImageShape, num_classes: int, *, depth: int) -> nn.Module:
    """Return the convolutions of torchvision's `vgg{depth}_bn`, averaged to one pixel, and one linear layer.

    Initialised as in torchvision: He's normal (fan-out) for convolutions, a normal of standard deviation
    0.01 for the linear layer, zero biases. Built from torchvision's parts, because its `VGG` class
    would first draw 120 million values for the three linear layers of ImageNet's head.

    The convolutions keep their biases, as in torchvision. Batch normalisation removes any constant, so the
    gradients of these biases are rounding noise.
    """
    from torchvision.models.vgg import cfgs, make_layers  # takes over a second to import

    features: nn.Sequential = make_layers(cfgs[_CONFIGURATIONS[depth]], batch_norm=True)
    if image_shape[0] != 3:
        features[0] = nn.Conv2d(image_shape[0], 64, kernel_size=3, padding=1)
    for module in features:
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    classifier = nn.Linear(512, num_classes)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    return nn.Sequential(
        OrderedDict(
            features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=classifier
        )
    )
