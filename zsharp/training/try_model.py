"""Tries a trial's model on two images before anything is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsharp.models import ARCHITECTURES, is_library_name
from zsharp.models.architectures import build
from zsharp.models.libraries import weights_input
from zsharp.models.weights import load_weights
from zsharp.training.build_optimizer import freeze
from zsharp.training.spec import TrialSpec
from zsharp.user_code import UserCodeError, load_callable, takes, told_as_theirs


@dataclass(frozen=True)
class ModelFacts:
    """What a model that could be built weighs."""

    num_parameters: int  # components of its parameters
    num_trained: int  # those that are not frozen
    num_stored: int  # those of its parameters and buffers
    arguments: frozenset[str]  # which of the arguments that trials have it takes
    notes: tuple[str, ...] = ()  # what users should know about its weights


def try_model(
    spec: TrialSpec,
    image_shape: tuple[int, int, int],
    num_classes: int,
    of_other_trials: Mapping[str, Any] = MappingProxyType({}),
) -> ModelFacts:
    """Builds a trial's model on the CPU and runs a batch of two images through both passes.

    Our own architectures are only counted, unless weights are loaded into them. The global generator of torch is left
    as it is.

    Args:
        of_other_trials: Arguments that the spec does not have, with examples: those with a condition, say.

    Raises:
        ValueError: If it cannot be built, or its weights do not fit; `UserCodeError` if it is no classifier of such
            images: its output is no tensor [2, num_classes] on the same device with a graph.
    """
    name, init = spec.architecture, spec.init
    is_counted = name in ARCHITECTURES and init.weights is None
    notes = []
    with torch.random.fork_rng(devices=[]), torch.device("meta" if is_counted else "cpu"):
        built = build(
            name, image_shape, num_classes, arguments=spec.model, code=spec.code, pretrained=init.pretrained
        )
        model, loaded = built.model, built.loaded
        if init.weights is not None:
            loaded = load_weights(model, init.weights)
        if loaded is not None:
            notes.append(f"{name}: {loaded}")
            notes += _other_size(name, image_shape)
        freeze(model, spec.train)
        if not is_counted:
            _try_batch(model, spec, image_shape, num_classes)
    params = list(model.parameters())
    return ModelFacts(
        sum(param.numel() for param in params),
        sum(param.numel() for param in params if param.requires_grad),
        sum(tensor.numel() for tensor in model.state_dict().values()),
        built.arguments | arguments_of(spec, image_shape, num_classes, of_other_trials),
        tuple(notes),
    )


def arguments_of(
    spec: TrialSpec, image_shape: tuple[int, int, int], num_classes: int, arguments: Mapping[str, Any]
) -> frozenset[str]:
    """Returns which of the arguments a trial's architecture takes; all of them where that cannot be told."""
    name = spec.architecture
    if name in ARCHITECTURES or not arguments:
        return frozenset()
    if not is_library_name(name):
        function = load_callable(name, spec.code)
        return frozenset(argument for argument in arguments if takes(function, argument))
    try:
        with torch.device("meta"):
            built = build(name, image_shape, num_classes, arguments={**spec.model, **arguments})
    except ValueError:  # together the examples make no model
        return frozenset(arguments)
    return built.arguments & frozenset(arguments)


def _other_size(name: str, image_shape: tuple[int, int, int]) -> list[str]:
    seen = weights_input(name) if is_library_name(name) else None
    if seen is None or seen.size == image_shape[1:]:
        return []
    size, own = (f"{height} x {width}" for height, width in (image_shape[1:], seen.size))
    return [f"{name}: its weights were trained on images of {own} pixels; those of the job have {size}"]


def _try_batch(
    model: nn.Module, spec: TrialSpec, image_shape: tuple[int, int, int], num_classes: int
) -> None:
    name, code, images = spec.architecture, spec.code, torch.randn(2, *image_shape)
    expected = f"expected a tensor of shape [2, {num_classes}] for 2 images and {num_classes} classes"
    model.train()
    with told_as_theirs(f"{name}: forward", code):
        logits: object = model(images)
    if not isinstance(logits, Tensor):
        raise UserCodeError(f"{name}: forward returned a {type(logits).__name__}; {expected}")
    if logits.shape != (2, num_classes):
        raise UserCodeError(f"{name}: forward returned a tensor of shape {list(logits.shape)}; {expected}")
    if logits.device != images.device:
        raise UserCodeError(
            f"{name}: forward returned a tensor on {logits.device} for images on {images.device}; "
            "keep it where its input is"
        )
    if not logits.requires_grad:
        raise UserCodeError(
            f"{name}: forward returned a tensor without a graph; compute it from the parameters, "
            "without .detach() or torch.no_grad()"
        )
    with told_as_theirs(f"{name}: backward", code):
        F.cross_entropy(logits.float(), torch.zeros(2, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
