"""The table of architectures: builds and checks one by its name, ours, a library's or the user's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from zsharp.models.image_shape import ImageShape, check_min_side, check_patch_grid
from zsharp.models.library_names import is_library_name
from zsharp.names import did_you_mean
from zsharp.user_code import UserCodeError, accepted, is_reference, load_callable, told_as_theirs

# torch takes seconds to import, and a job's names are checked without it.
if TYPE_CHECKING:
    import torch
    from torch import nn

    from zsharp.models.libraries import Built


@dataclass(frozen=True)
class Architecture:
    """A row of the table."""

    name: str  # its name in job files
    family: Literal["resnet", "vgg", "vit"]  # the kind of network
    summary: str  # one line, with the number of parameters for 3x32x32 images and 10 classes
    # Takes an image shape and a number of classes, returns a model with fresh weights.
    build: "Callable[[ImageShape, int], nn.Module]"
    # Takes an image shape, raises ValueError where the architecture cannot take it.
    check: Callable[[ImageShape], None]


def build_model(name: str, image_shape: ImageShape, num_classes: int, **options: Any) -> "nn.Module":
    """Return the architecture `name` with fresh float32 weights, in training mode, on torch's default device.

    Weights are drawn from torch's global generator, so a seed fixes them. The model maps images
    `[batch, *image_shape]` to logits `[batch, num_classes]`; the control flow of ours depends on shapes only.

    Args:
        options: Those of `build`.

    Raises:
        ValueError: on an unknown name, an image shape that it cannot take, or fewer than two classes;
            `UserCodeError` if a function of the user's own or a library fails, or returns no model.

    Example:
        >>> import torch
        >>> build_model("resnet20", (3, 32, 32), 10)(torch.zeros(8, 3, 32, 32)).shape
        torch.Size([8, 10])
    """
    return build(name, image_shape, num_classes, **options).model


def build(
    name: str,
    image_shape: ImageShape,
    num_classes: int,
    *,
    arguments: Mapping[str, Any] = MappingProxyType({}),
    code: Sequence[str] = (),
    pretrained: bool = False,
) -> "Built":
    """As `build_model`, and tells which arguments were passed and which weights were loaded.

    Args:
        arguments: Passed to a function of the user's own or a library's model, as far as it takes them.
        code: Folders that `module:function` is looked up in.
        pretrained: Start from the weights that the architecture's library publishes.
    """
    from zsharp.models.libraries import Built, build_library_model, fetch_weights

    check_architecture(name, image_shape)
    if num_classes < 2:
        raise ValueError(
            f"architecture {name!r}: the number of classes must be at least 2, not {num_classes}"
        )
    if pretrained and not is_library_name(name):
        raise ValueError(f"architecture {name!r}: no weights are published for it; see init.weights")
    if is_library_name(name):
        weights = fetch_weights(name) if pretrained else None
        with told_as_theirs(name):
            return build_library_model(name, image_shape, num_classes, arguments, weights=weights)
    if not is_reference(name):
        return Built(ARCHITECTURES[name].build(image_shape, num_classes), frozenset())
    make = load_callable(name, code)
    passed = accepted(make, {"image_shape": image_shape, "num_classes": num_classes, **arguments}, name)
    with told_as_theirs(name, code):
        model = make(**passed)
    return Built(check_model(model, f"{name}: what it returned"), frozenset(passed) & frozenset(arguments))


def check_model(model: object, label: str) -> "nn.Module":
    """Returns the model; raises UserCodeError if it is none, or has nothing to train."""
    from torch import nn

    if not isinstance(model, nn.Module):
        raise UserCodeError(f"{label} is of type {type(model).__name__}; expected a torch.nn.Module")
    if not any(param.requires_grad for param in model.parameters()):
        raise UserCodeError(f"{label} has no parameters that need gradients; nothing could be trained")
    return model


def check_architecture(name: str, image_shape: ImageShape) -> None:
    """Check that the architecture `name` can take images of this shape, without building it.

    Whether a function of the user's own or a library's model takes them shows when it is built.

    Raises:
        ValueError: on an unknown name, or on a shape that it cannot take; the message says which it can.
    """
    if is_library_name(name):
        from zsharp.models.libraries import check_library_name

        check_library_name(name)
        return
    if is_reference(name):
        return
    if name not in ARCHITECTURES:
        hint = did_you_mean(name, ARCHITECTURES)
        raise ValueError(f"unknown architecture {name!r}; {hint}valid: {', '.join(ARCHITECTURES)}")
    ARCHITECTURES[name].check(image_shape)


def layout_of(name: str, model: "nn.Module | None" = None) -> "torch.memory_format":
    """`channels_last` for convolutional networks, which gain 1.1 to 2 times on CPUs; the default for others.

    Args:
        model: What a library's architecture was built as. A transformer has one convolution, in its stem. Functions of
            the user's own get the default, since views of theirs may depend on it.
    """
    import torch
    from torch import nn

    is_convolutional = name in ARCHITECTURES and ARCHITECTURES[name].family != "vit"
    if model is not None and is_library_name(name):
        is_convolutional = sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1
    return torch.channels_last if is_convolutional else torch.contiguous_format


def _build_by(
    module: str, function: str, image_shape: ImageShape, num_classes: int, **sizes: int
) -> "nn.Module":
    model: nn.Module = getattr(import_module(f"zsharp.models.{module}"), function)(
        image_shape, num_classes, **sizes
    )
    return model


def _cifar_resnet(depth: int, millions: str) -> Architecture:
    return Architecture(
        name=f"resnet{depth}",
        family="resnet",
        summary=f"ResNet-{depth} for CIFAR, 16/32/64 channels, option-A shortcuts, {millions} M parameters",
        build=partial(_build_by, "resnet", "build_resnet", blocks_per_stage=(depth - 2) // 6),
        # Two stages halve the image, so the last one still has a pixel to average.
        check=partial(check_min_side, f"resnet{depth}", min_side=4),
    )


def _vgg(depth: int, millions: str) -> Architecture:
    return Architecture(
        name=f"vgg{depth}_bn",
        family="vgg",
        summary=f"VGG-{depth} with batch normalisation and one linear layer, {millions} M parameters",
        build=partial(_build_by, "vgg", "build_vgg", depth=depth),
        check=partial(check_min_side, f"vgg{depth}_bn", min_side=32),  # five 2x2 poolings
    )


def _vit(
    name: str, millions: str, *, layers: int, patches: int, heads: int, embedding: int, mlp: int
) -> Architecture:
    return Architecture(
        name=name,
        family="vit",
        summary=(
            f"ViT, {layers} layers, {patches} patches a side, {heads} heads, embedding {embedding}, "
            f"MLP {mlp}, {millions} M parameters"
        ),
        build=partial(
            _build_by,
            "vit",
            "build_vit",
            num_layers=layers,
            patches_per_side=patches,
            num_heads=heads,
            embedding=embedding,
            mlp_width=mlp,
        ),
        check=partial(check_patch_grid, name, patches_per_side=patches),
    )


_RESNET18 = Architecture(
    name="resnet18",
    family="resnet",
    summary="ResNet-18, ImageNet widths with a 3x3 stride-1 stem and no max-pooling, 11.17 M parameters",
    build=partial(_build_by, "resnet", "build_resnet18"),
    check=partial(check_min_side, "resnet18", min_side=8),  # three stages halve the image
)

_ROWS = (
    _cifar_resnet(8, "0.08"),
    _cifar_resnet(20, "0.27"),
    _cifar_resnet(32, "0.46"),
    _cifar_resnet(44, "0.66"),
    _cifar_resnet(56, "0.85"),
    _cifar_resnet(110, "1.73"),
    _RESNET18,
    _vgg(11, "9.23"),
    _vgg(13, "9.42"),
    _vgg(16, "14.73"),
    _vgg(19, "20.04"),
    _vit("vit_tiny", "0.15", layers=4, patches=4, heads=4, embedding=64, mlp=128),
    _vit("vit_7_8_8_384", "6.27", layers=7, patches=8, heads=8, embedding=384, mlp=384),
    _vit("vit_7_8_12_768", "8.34", layers=7, patches=8, heads=12, embedding=384, mlp=768),
)

ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in _ROWS}
"""Every architecture by name, in the order of `tune-jobs list`."""
