"""Steps that leave no trace: what they change gets its old values back, in its old place."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from zsharp.training.checkpoint import rng_state, set_rng_state


@contextmanager
def unchanged(
    state: Callable[[], object], generators: Sequence[Generator], device: torch.device
) -> Iterator[None]:
    """Puts back, when it ends, what was done within it.

    Args:
        state: Returns nested dicts and lists with the tensors on `device` that a step changes, themselves; a step
            makes no further ones.
        generators: Those that a step draws from, beside the global ones.
        device: Where steps run.
    """
    states = [generator.get_state() for generator in generators]
    of_device = rng_state(device)
    before = {place: tensor.clone() for place, tensor in _tensors(state(), device)}
    yield
    for place, tensor in _tensors(state(), device):
        tensor.copy_(before[place])
    for generator, one in zip(generators, states, strict=True):
        generator.set_state(one)
    set_rng_state(of_device, device)


def _tensors(
    state: object, device: torch.device, place: tuple[object, ...] = ()
) -> Iterator[tuple[object, Tensor]]:
    if isinstance(state, Tensor):
        if state.device == device:
            yield place, state.detach()
    elif isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in items:
            yield from _tensors(value, device, (*place, key))
