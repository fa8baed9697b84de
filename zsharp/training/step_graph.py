"""A training step as one CUDA graph: the host launches one thing a step, not a thousand."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache

import torch
from torch import Generator, Tensor

from zsharp.optim.triton.tables import filled_after_capture
from zsharp.training.checkpoint import rng_state, set_rng_state

# Kernels are compiled and libraries initialised, which a capture does not allow.
_WARM_UP = 2


class StepGraph:
    """One step, captured once and replayed for each batch of an epoch.

    Everything that a step reads and writes must exist and stay at its address: weights, optimizer state, running
    sums. If one of them is replaced, capture again. The step's own memory belongs to the graph and is freed with it.

    Args:
        step: Takes a learning rate (0-d) and the rows of a batch [B]; waits for nothing and keeps to one stream.
        max_steps: Most steps of an epoch.
        rows: int64 [B] on a CUDA device, a batch to warm up with.
        rate: Its learning rate, 0-d.
        generators: What the step draws from, apart from the default generator.
        unchanged: Makes a context that undoes the warm-up steps, generators included.

    Raises:
        RuntimeError: If the step cannot be captured: it waits for the device, say.
    """

    def __init__(
        self,
        step: Callable[[Tensor, Tensor], None],
        max_steps: int,
        rows: Tensor,
        rate: Tensor,
        generators: Sequence[Generator],
        unchanged: Callable[[Sequence[Generator]], AbstractContextManager[None]],
    ) -> None:
        self._order = rows.repeat(max_steps, 1)
        self._rates = rate.repeat(max_steps)
        self._position = torch.zeros(1, dtype=torch.int64, device=rows.device)

        def next_step() -> None:
            rate, rows = (table.index_select(0, self._position)[0] for table in (self._rates, self._order))
            step(rate, rows)
            self._position.add_(1).clamp_(max=max_steps - 1)

        current, stream = torch.cuda.current_stream(rows.device), _side_stream(rows.device)
        with unchanged(generators):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    next_step()
            current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)
        # Another thread of the process may use the device meanwhile.
        captured = torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local")
        with filled_after_capture(rows.device) as self._tables, captured:
            next_step()

    def run(self, order: Tensor, rates: Tensor) -> None:
        """Takes one step for each row of `order`, at the rate beside it."""
        self._order[: len(order)].copy_(order)
        self._rates[: len(order)].copy_(rates)
        self._position.zero_()
        for _ in range(len(order)):
            self._graph.replay()


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
