"""Architectures of other libraries: `timm/NAME` and `torchvision/NAME`."""

import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from zsharp.models.image_shape import ImageShape
from zsharp.models.weights import Loaded, load_state, read_weights
from zsharp.names import did_you_mean
from zsharp.user_code import UserCodeError

# Arguments with which the libraries would load weights by themselves, from anywhere; `init` does that.
_NOT_PASSED = frozenset(
    {"pretrained", "weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
)
_STALLED_S = 10
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


@dataclass(frozen=True)
class Built:
    """A library's model, and what became of what it was given."""

    model: nn.Module
    arguments: frozenset[str]  # the names of the optional arguments that the model takes
    loaded: Loaded | None = None  # which published weights it has; None without


@dataclass(frozen=True)
class WeightsInput:
    """The images that published weights were trained on."""

    size: tuple[int, int]  # height and width
    mean: tuple[float, ...]  # of each channel, of images in [0, 1]
    std: tuple[float, ...]


def check_library_name(name: str) -> None:
    """Raises UserCodeError if the library is not installed or has no such architecture."""
    library, _, inner = name.partition("/")
    names = _torchvision_names() if library == "torchvision" else _timm_names(with_tags="." in inner)
    if inner not in names:
        all_names = {
            "timm": "timm.list_models()",
            "torchvision": "torchvision.models.list_models(torchvision.models)",
        }
        raise UserCodeError(
            f"{library} has no model {inner!r}; {did_you_mean(inner, names)}"
            f"valid: one of the {len(names)} that {all_names[library]} lists"
        )


def build_library_model(
    name: str,
    image_shape: ImageShape,
    num_classes: int,
    arguments: Mapping[str, Any],
    *,
    weights: Path | None = None,
) -> Built:
    """Returns the model `name` for images of this shape; one that takes an image size is built for theirs.

    Args:
        arguments: Passed to the model as far as it takes them, except those that load weights.
        weights: What `fetch_weights` returned; loaded, except a head of another size.

    Raises:
        UserCodeError: If the model cannot take such images; whatever the library raises passes unchanged.
    """
    inner = name.partition("/")[2]
    build = _build_torchvision if name.startswith("torchvision/") else _build_timm
    passed = {key: value for key, value in arguments.items() if key not in _NOT_PASSED}
    return build(inner, image_shape, num_classes, passed, weights)


def fetch_weights(name: str) -> Path:
    """Returns the file of the weights that a library publishes, from the cache of the library or else from its address.

    Raises:
        UserCodeError: If there are no such weights, or they are neither there nor can be fetched.
    """
    library, _, inner = name.partition("/")
    if weights_input(name) is None:
        raise UserCodeError(f"{name}: {library} publishes no weights for it; remove init.pretrained")
    # Without a limit a download that stalls never ends.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED_S)
    try:
        if library == "torchvision":
            from torchvision import models

            return _from_address(models.get_model_weights(inner).DEFAULT.url)
        config = _timm().get_pretrained_cfg(inner)
        return _from_hub(config) if config.hf_hub_id else _from_address(config.url)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserCodeError(
            f"{name}: its weights are neither in the cache (TORCH_HOME, HF_HOME) nor can be fetched ({reason[0]}); "
            "put them there, or give their file as init.weights"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def weights_input(name: str) -> WeightsInput | None:
    """Returns which images the published weights of an architecture expect; None if there are no such weights."""
    library, _, inner = name.partition("/")
    if library == "torchvision":
        from torchvision import models

        weights = getattr(models.get_model_weights(inner), "DEFAULT", None)
        if weights is None:
            return None
        seen = weights.transforms()
        side = seen.crop_size[0]
        return WeightsInput((side, side), tuple(seen.mean), tuple(seen.std))
    config = _timm().get_pretrained_cfg(inner)
    if config is None or not config.has_weights:
        return None
    return WeightsInput(tuple(config.input_size[1:]), tuple(config.mean), tuple(config.std))


def _torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))


def _timm_names(*, with_tags: bool) -> list[str]:
    timm = _timm()
    return list(timm.list_pretrained() if with_tags else timm.list_models())


def _timm() -> Any:
    """Returns timm, whose import takes seconds."""
    try:
        import timm
    except ImportError:
        raise UserCodeError("timm is not installed; pip install 'zsharp-tune[timm]'") from None
    return timm


def _build_torchvision(
    name: str, image_shape: ImageShape, num_classes: int, arguments: dict[str, Any], weights: Path | None
) -> Built:
    from torchvision import models

    channels, height, width = image_shape
    ours: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Their auxiliary heads would make the output a tuple; these weights expect images that the model rescales.
        ours = {
            "aux_logits": False,
            "init_weights": weights is None,
            "transform_input": weights is not None and channels == 3,
        }
    if name.startswith("vit_"):
        if height != width:
            raise UserCodeError(f"takes square images, not {height} x {width}")
        ours = {"image_size": height}
    if name == "maxvit_t":
        ours = {"input_size": (height, width)}
    model, taken = _call_with_what_it_takes(
        lambda **optional: models.get_model(name, num_classes=num_classes, **ours | optional), arguments
    )
    if channels != 3:
        _replace_first_conv(model, channels)
    if weights is None:
        return Built(model, taken)
    state = read_weights(weights)
    if name.startswith("vit_"):
        state = models.vision_transformer.interpolate_embeddings(height, model.patch_size, state)
    return Built(model, taken, load_state(model, state))


def _replace_first_conv(model: nn.Module, channels: int) -> None:
    """Puts a fresh convolution of `channels` channels in the place of the one that takes RGB images."""
    for name, conv in model.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        fresh = nn.Conv2d(
            channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, fresh)
        return
    raise UserCodeError(f"takes images of 3 channels only, not {channels}")


def _build_timm(
    name: str, image_shape: ImageShape, num_classes: int, arguments: dict[str, Any], weights: Path | None
) -> Built:
    timm = _timm()
    channels, *size = image_shape
    needed: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    config = timm.get_pretrained_cfg(name)
    if weights is not None:
        # From the file, since timm asks the hub even for what is in the cache.
        overlay = {"file": str(weights), "custom_load": config.custom_load}
        needed |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    model, taken = _call_with_what_it_takes(
        lambda **optional: timm.create_model(name, **needed, **optional),
        {"img_size": tuple(size), **arguments},
    )
    return Built(model, taken & set(arguments), None if weights is None else _left_out(model, config))


def _left_out(model: nn.Module, config: Any) -> Loaded:
    """Which tensors timm left fresh: those of a head for another number of classes. It refuses any other."""
    heads = (config.classifier,) if isinstance(config.classifier, str) else tuple(config.classifier or ())
    if model.num_classes == config.num_classes:
        heads = ()
    state = model.state_dict()
    fresh = tuple(key for key in state if any(key.startswith(f"{head}.") for head in heads))
    return Loaded(len(state) - len(fresh), fresh)


def _from_hub(config: Any) -> Path:
    """Returns the file with a timm model's weights, from Hugging Face's cache or else from its hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = config.hf_hub_id.partition("@")
    plain = config.hf_hub_filename or "pytorch_model.bin"
    safe = Path(plain).with_suffix(".safetensors").name.replace("pytorch_model", "model")
    files = [plain] if config.custom_load else [*dict.fromkeys([safe, plain])]
    get = partial(hf_hub_download, repository, revision=revision or None, etag_timeout=_STALLED_S)
    for file in files:
        with suppress(LocalEntryNotFoundError):
            return Path(get(file, local_files_only=True))
    for file in files[:-1]:
        try:
            return Path(get(file))
        except LocalEntryNotFoundError:  # nothing can be reached
            raise
        except EntryNotFoundError:
            continue
    return Path(get(files[-1]))


def _from_address(address: str) -> Path:
    """Returns the file that torch's cache has, or gets, for an address."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(address).path).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        checksum = torch.hub.HASH_REGEX.search(file.name)
        torch.hub.download_url_to_file(address, str(file), checksum and checksum[1], progress=False)
    return file


def _call_with_what_it_takes(
    make: Callable[..., nn.Module], optional: Mapping[str, Any]
) -> tuple[nn.Module, frozenset[str]]:
    """Returns what `make` returns when called without the arguments that it refuses, and the names of the others.

    Signatures do not tell: the libraries' functions pass all that they are given on to a class.
    """
    rest = dict(optional)
    while True:
        try:
            return make(**rest), frozenset(rest)
        except TypeError as error:
            refused = _UNEXPECTED.search(str(error))
            if refused is None or refused[1] not in rest:
                raise
            del rest[refused[1]]
