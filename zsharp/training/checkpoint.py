"""Checkpoints on disk: written atomically, read without unpickling, tied to their spec."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor

from zsharp.atomic import atomic_write
from zsharp.settings import flat
from zsharp.training.spec import TrialSpec

_VERSION = 1
_LATER = {
    "": ("model", "task"),
    "data": ("image_column", "label_column", "image_size", "arguments"),
    "train": ("freeze", "lr_scale", "loop", "sync_ascent"),
}


def write_checkpoint(path: Path, spec: TrialSpec, state: dict[str, Any]) -> None:
    """Writes `state` (tensors, numbers, strings, lists and dicts of them) to `path`, atomically.

    Raises:
        OSError: If the file cannot be written; the one that was there is still there.
    """
    try:
        with atomic_write(path) as unfinished, unfinished.open("wb") as file:
            torch.save({"version": _VERSION, "spec": _identity(spec), "state": state}, file)
    except RuntimeError as error:
        cause = error.__context__  # torch.save turns whatever stops it into wrong positions in the file
        if isinstance(cause, OSError):
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        if cause is not None and not isinstance(cause, Exception):  # an interrupt
            raise cause from error
        raise


def read_checkpoint(path: Path, spec: TrialSpec, device: torch.device) -> dict[str, Any]:
    """Returns the state written for `spec`, its tensors on `device`.

    Raises:
        ValueError: If the file is missing, damaged, of another version or of another spec.
    """
    if path.exists() and not path.is_file():  # a pipe or a device, which may never end
        raise ValueError(f"{path}: not a readable checkpoint (not a file)")
    try:
        with ZipFile(path) as file:  # torch.load does not look at the checksums that torch.save wrote
            if damaged := file.testzip():
                raise BadZipFile(f"wrong checksum of {damaged}")
        content = torch.load(path, map_location=device, weights_only=True)
        version, identity, state = int(content["version"]), content["spec"], content["state"]
        there = dict(flat(json.loads(identity)))
        if not isinstance(state, dict):
            raise TypeError(type(state).__name__)
    except Exception as error:  # torch.load raises a different type for every kind of damage
        detail = error.strerror if isinstance(error, OSError) else "damaged, or not a checkpoint of ours"
        raise ValueError(f"{path}: not a readable checkpoint ({type(error).__name__}: {detail})") from error
    if version != _VERSION:
        raise ValueError(f"{path}: checkpoint version {version}; valid: {_VERSION}")
    if identity != _identity(spec):
        raise ValueError(f"{path}: checkpoint of another trial ({_differences(there, _identity(spec))})")
    return state


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The global generators that layers such as dropout draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Puts back what `rng_state` returned."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _identity(spec: TrialSpec) -> str:
    """What the numbers of a run depend on; where its data lie is not part of it."""
    params = {name: float(value) for name, value in spec.params.items()}
    fields = asdict(replace(spec, params=params))
    if spec.train.schedule == "constant":
        del fields["train"]["epochs"]  # no epoch depends on how many follow: more of them continue the run
    del fields["device"], fields["data"]["root"], fields["data"]["download"], fields["data"]["on_device"]
    del fields["code"], fields["metric"], fields["train"]["sharding"]
    if fields["train"]["compile"] == "false":
        del fields["train"]["compile"]
    # Settings that version 0.1 did not have are left out as long as they have no effect.
    for section, names in _LATER.items():
        for name in names:
            if not (fields[section] if section else fields)[name]:
                del (fields[section] if section else fields)[name]
    if not any(fields["init"].values()):
        del fields["init"]
    if spec.task is not None or spec.train.loop is not None:
        del fields["data"]
    return json.dumps(fields, sort_keys=True)


def _differences(old: dict[str, Any], here: str) -> str:
    new = dict(flat(json.loads(here)))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} is {old.get(name)!r} there and {new.get(name)!r} here" for name in names)
