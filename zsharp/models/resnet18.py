"""ResNet-18 with a stem for small images."""

from torch import nn

from zsharp.models.image_shape import ImageShape

MIN_SIDE = 8  # three stages halve the image


def build_resnet18(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 with a 3x3 stride-1 first convolution and no max-pooling.

    Its shortcuts are 1x1 convolutions (option B), unlike those of the CIFAR ResNets.
    """
    from torchvision.models import resnet18  # takes over a second to import

    model: nn.Module = resnet18(weights=None, num_classes=num_classes)
    stem = nn.Conv2d(image_shape[0], 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = stem
    model.maxpool = nn.Identity()
    return model
