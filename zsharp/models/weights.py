"""Loads weights from a file or a state dict into a model, and says which did not fit."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsharp.user_code import UserCodeError

_WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every key


@dataclass(frozen=True)
class Loaded:
    """What became of the tensors of a state dict. Its text is one line that names all that did not fit."""

    num_loaded: int
    left_fresh: tuple[str, ...] = ()  # of another shape
    missing: tuple[str, ...] = ()  # in the model only
    unexpected: tuple[str, ...] = ()  # in the state dict only

    def __str__(self) -> str:
        parts = [f"{self.num_loaded} tensors loaded"]
        for text, keys in (
            ("left fresh, since their shapes differ", self.left_fresh),
            ("left fresh, since the weights lack them", self.missing),
            ("not used, since the model lacks them", self.unexpected),
        ):
            if keys:
                parts.append(f"{text}: {', '.join(keys)}")
        return "; ".join(parts)


def load_weights(model: nn.Module, file: str | Path) -> Loaded:
    """Loads a file of weights into a model, as far as names and shapes agree; the rest keeps its fresh weights.

    Args:
        file: In safetensors' format (`.safetensors`), or a state dict that `torch.save` wrote, also below
            `state_dict` or `model`.

    Raises:
        UserCodeError: If the file cannot be read, or nothing in it fits.
    """
    path = Path(file).expanduser()
    try:
        return load_state(model, read_weights(path))
    except UserCodeError as error:
        raise UserCodeError(f"{path}: {error}") from error


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> Loaded:
    """Loads a state dict into a model, as far as names and shapes agree.

    Raises:
        UserCodeError: If nothing in it fits.
    """
    own = model.state_dict()
    given = {_unwrapped(key, own): value for key, value in state.items()}
    fitting = {key: value for key, value in given.items() if key in own and value.shape == own[key].shape}
    if not any(value.ndim for value in fitting.values()):  # batch norm's counters fit any model
        raise UserCodeError(
            f"none of its {len(given)} tensors fits the model; it has, for example, "
            f"{', '.join(list(state)[:3]) or 'nothing'}, the model {', '.join(list(own)[:3])}"
        )
    model.load_state_dict(fitting, strict=False)
    return Loaded(
        len(fitting),
        tuple(key for key in own if key in given and key not in fitting),
        tuple(key for key in own if key not in given),
        tuple(key for key in given if key not in own),
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file of weights by name, on the CPU.

    Raises:
        UserCodeError: If it cannot be read, or holds none.
    """
    if not path.is_file():
        raise UserCodeError("no such file; expected safetensors, or a state dict that torch saved")
    try:
        content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_plain(path)
    except UserCodeError:
        raise
    except Exception as error:  # each library raises a different type for every kind of damage
        text = str(error).strip().splitlines()
        raise UserCodeError(
            f"not readable as weights ({type(error).__name__}: {text[0] if text else 'damaged'}); "
            "expected safetensors, or a state dict that torch saved"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise UserCodeError(f"holds a {type(content).__name__}; expected a state dict")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserCodeError(f"holds no tensors but {', '.join(map(str, list(content)[:5]))}")
    return tensors


def file_checksum(file: str | Path) -> str:
    """Returns the SHA-256 of a file.

    Raises:
        UserCodeError: If it cannot be read.
    """
    try:
        with Path(file).expanduser().open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise UserCodeError(f"{file}: cannot be read: {getattr(error, 'strerror', error)}") from error


def _unwrapped(key: str, own: Mapping[str, Tensor]) -> str:
    """Returns a key without what wrappers put before it."""
    while key not in own and (prefix := next(filter(key.startswith, _WRAPPERS), None)):
        key = key.removeprefix(prefix)
    return key


def _load_plain(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserCodeError("safetensors is not installed; pip install safetensors") from None
    return load_file(path)
