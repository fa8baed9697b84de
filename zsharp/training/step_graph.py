"""A training step as one CUDA graph: the host launches one thing a step, not a thousand."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import torch
from torch import Generator, Tensor

from zsharp.optim.triton.tables import filled_after_capture
from zsharp.training.checkpoint import rng_state, set_rng_state
from zsharp.training.nested import leaves, map_tensors

# Kernels are compiled and libraries initialised, which a capture does not allow.
_WARM_UP = 2


class CannotReplayError(RuntimeError):
    """A step that no graph holds.

    Attributes:
        is_final: Whether no other batch could be replayed either.
    """

    def __init__(self, message: str, *, is_final: bool) -> None:
        super().__init__(message)
        self.is_final = is_final


class StepGraph:
    """One step, captured once and replayed for each batch.

    Everything that a step reads and writes must exist and stay at its address: weights, optimizer state, running
    sums. If one of them is replaced, capture again. The step's own memory belongs to the graph and is freed with it.

    Args:
        step: Takes a learning rate (0-d) and a batch; waits for nothing and keeps to one stream.
        batch: Nested tensors on a CUDA device, to warm up with; later batches have the same shapes.
        rate: Its learning rate, 0-d.
        generators: What the step draws from, apart from the default generator.
        unchanged: Makes a context that undoes the warm-up steps, generators included.

    Raises:
        CannotReplayError: If the step cannot be captured: it waits for the device, say.
    """

    def __init__(
        self,
        step: Callable[[Tensor, Any], None],
        batch: Any,
        rate: Tensor,
        generators: Sequence[Generator],
        unchanged: Callable[[Sequence[Generator]], AbstractContextManager[None]],
    ) -> None:
        self._batch = map_tensors(Tensor.clone, batch)
        self._rate = rate.clone()
        device = rate.device
        current, stream = torch.cuda.current_stream(device), _side_stream(device)
        with unchanged(generators):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    step(self._rate, self._batch)
            current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)
        # Another thread of the process may use the device meanwhile.
        captured = torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local")
        try:
            with filled_after_capture(device) as self._tables, captured:
                step(self._rate, self._batch)
        except RuntimeError as error:
            raise CannotReplayError(str(error).partition("\n")[0], is_final=True) from error

    def run(self, batch: Any, rate: Tensor) -> None:
        """Takes one step on a batch at a rate.

        Raises:
            CannotReplayError: If the batch differs from the captured one in its structure or shapes.
        """
        copy_batch(self._batch, batch)
        self._rate.copy_(rate)
        self._graph.replay()


def copy_batch(target: Any, source: Any) -> None:
    """Copies the tensors of a batch into those of another of the same structure.

    Raises:
        CannotReplayError: If structure, shapes, types or anything that is no tensor differ; nothing was copied.
    """
    pairs = list(zip_longest(leaves(target), leaves(source)))
    for there, here in pairs:
        if isinstance(there, Tensor) and isinstance(here, Tensor):
            if there.shape != here.shape or there.dtype != here.dtype:
                message = f"a batch has a tensor {list(here.shape)}, the captured one {list(there.shape)}"
                raise CannotReplayError(message, is_final=False)
        elif type(there) is not type(here) or there != here:
            message = f"a batch has {here!r} where the captured one has {there!r}"
            raise CannotReplayError(message, is_final=False)
    for there, here in pairs:
        if isinstance(there, Tensor):
            there.copy_(here, non_blocking=True)


@contextmanager
def unchanged(
    state: Callable[[], object], generators: Sequence[Generator], device: torch.device
) -> Iterator[None]:
    """Undoes, when it ends, what steps within it changed: tensors get their old values back, in their old memory.

    Args:
        state: Returns nested dicts and lists with the very tensors on `device` that a step changes; a step must
            not create further ones.
        generators: What a step draws from, apart from the global generators.
    """
    own_states = [generator.get_state() for generator in generators]
    global_states = rng_state(device)
    before = {keys: tensor.clone() for keys, tensor in _tensors(state(), device)}
    yield
    for keys, tensor in _tensors(state(), device):
        tensor.copy_(before[keys])
    for generator, own_state in zip(generators, own_states, strict=True):
        generator.set_state(own_state)
    set_rng_state(global_states, device)


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps work memory (67 MB were seen) for each stream that it has been used on."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _tensors(
    state: object, device: torch.device, keys: tuple[object, ...] = ()
) -> Iterator[tuple[object, Tensor]]:
    if isinstance(state, Tensor):
        if state.device == device:
            yield keys, state.detach()
    elif isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in items:
            yield from _tensors(value, device, (*keys, key))
