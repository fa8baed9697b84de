"""Residual networks for small images: the CIFAR form, and ResNet-18 with ImageNet widths."""

import torch.nn.functional as F
from torch import Tensor, nn

from zsharp.models.image_shape import ImageShape

_WIDTHS = (16, 32, 64)


def build_resnet(image_shape: ImageShape, num_classes: int, *, blocks_per_stage: int) -> "CifarResNet":
    """Return a `CifarResNet` of depth `6 * blocks_per_stage + 2` with fresh weights.

    Height and width of the image do not matter, once two stages can halve them.
    """
    return CifarResNet(image_shape[0], num_classes, blocks_per_stage)


def build_resnet18(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Return torchvision's ResNet-18 with a 3x3 stride-1 first convolution and no max-pooling.

    Its shortcuts are 1x1 convolutions (option B), unlike those of `CifarResNet`.
    """
    from torchvision.models import resnet18  # takes over a second to import

    model: nn.Module = resnet18(weights=None, num_classes=num_classes)
    model.conv1 = _conv3x3(image_shape[0], 64)
    model.maxpool = nn.Identity()
    return model


class CifarResNet(nn.Module):
    """ResNet for small images, with option-A shortcuts and one linear layer after global average pooling.

    Convolutions start from He's normal initialisation (fan-out), the linear layer from torch's default.
    The new channels of a shortcut are appended after the old ones, so a copy of the input keeps its channels.

    References:
        He et al. 2015, "Deep residual learning for image recognition", sec. 4.2 (arXiv 1512.03385).
    """

    def __init__(self, in_channels: int, num_classes: int, blocks_per_stage: int) -> None:
        super().__init__()
        self.conv = _conv3x3(in_channels, _WIDTHS[0])
        self.norm = nn.BatchNorm2d(_WIDTHS[0])
        blocks: list[nn.Module] = []
        width_in = _WIDTHS[0]
        for stage, width in enumerate(_WIDTHS):
            for index in range(blocks_per_stage):
                blocks.append(ResidualBlock(width_in, width, stride=2 if stage > 0 and index == 0 else 1))
                width_in = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width_in, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[batch, num_classes]` for images `[batch, channels, height, width]`."""
        x = F.relu(self.norm(self.conv(images)), inplace=True)
        x = self.blocks(x)
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and an option-A shortcut: every `stride`-th pixel, zeros in new channels."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(width_in, width, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width)
        self.norm2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.new_channels = width - width_in

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, `[batch, width, ceil(height / stride), ceil(width / stride)]`."""
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(out))
        out += self._shortcut(x)
        return F.relu(out, inplace=True)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels > 0:
            x = F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return x


def _conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
