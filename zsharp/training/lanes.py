"""Several runs in one process that take their steps in turn, each bit for bit as if it were alone."""

import random
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from zsharp.training.epoch_row import EpochRow
from zsharp.training.training import Training


class Lanes:
    """The runs that share a process and its device.

    Each has what it would have alone: the global generators of torch, NumPy and Python as it left them and, on a GPU,
    a stream and CUDA graphs of its own. So steps of different runs overlap on a GPU, where one launch of a small
    network leaves most of it idle; on a CPU they only take turns. Runs may differ in everything but the device, and
    join and leave at any time. Not measured on a GPU.

    What belongs to the process is shared: the memory that reports name is all that the process has taken, their
    seconds have the others' steps in them, and an error that breaks the CUDA context ends all runs.

    Example:
        >>> import torch
        >>> from zsharp.training import Training, TrainSpec, TrialSpec
        >>> from zsharp.training.lanes import Lanes
        >>> lanes = Lanes(torch.device("cpu"))
        >>> for seed in (0, 1):
        ...     train = TrainSpec(epochs=1, batch_size=512, seed=seed)
        ...     spec = TrialSpec("resnet8", "zsharp", {"lr": 0.01}, train=train, device="cpu")
        ...     lane = lanes.add(lambda spec=spec: Training(spec))
        >>> [row["epoch"] for lane, row in lanes.run()]
        [1, 1]

    Args:
        device: Where all of them train.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._running: list[Lane] = []

    def add(self, make: Callable[[], Training]) -> "Lane":
        """Returns a lane with the run that `make` builds, and maybe loads; what that raises passes unchanged."""
        lane = Lane(make, self._device)
        self._running.append(lane)
        return lane

    def stop(self, lane: "Lane") -> None:
        """Ends a run wherever it is; its memory is free once nobody refers to the lane."""
        if lane in self._running:
            self._running.remove(lane)

    def run(self) -> Iterator[tuple["Lane", EpochRow | Exception]]:
        """Takes a step of each lane in turn until all have ended.

        Yields:
            each epoch's row as it ends, or what a run raised, with its lane. A run ends after its last epoch, and if
            it diverges or raises; the caller may add, stop and save lanes in between.
        """
        while self._running:
            for lane in list(self._running):
                if lane not in self._running:  # the caller has stopped it
                    continue
                outcome = lane.advance()
                if outcome is None:
                    continue
                if isinstance(outcome, Exception) or outcome["diverged"] or lane.training.is_finished:
                    self._running.remove(lane)
                yield lane, outcome


class Lane:
    """One run among others; `Lanes.add` makes it.

    Attributes:
        training: The run. Call it only `inside`.
    """

    def __init__(self, make: Callable[[], Training], device: torch.device) -> None:
        self._host = _host_generators()
        self._cuda = _Cuda(device) if device.type == "cuda" else None
        self._steps: Generator[None, None, EpochRow] | None = None
        with self.inside():
            self.training = make()
        assert self.training.device == device

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Inside, the process's generators and stream are the lane's; `training.save` needs them, for example."""
        outside = _host_generators()
        _set_host_generators(self._host)
        current: AbstractContextManager[None] = nullcontext() if self._cuda is None else self._cuda.current()
        try:
            with current:
                yield
        finally:
            self._host = _host_generators()
            _set_host_generators(outside)

    def advance(self) -> EpochRow | Exception | None:
        """Takes one step; returns the row at the end of an epoch, what the run raised, or None."""
        with self.inside():
            if self._steps is None:
                self._steps = self.training.epoch_in_steps()
            try:
                next(self._steps)
            except StopIteration as end:
                self._steps = None
                row: EpochRow = end.value
                return row
            except Exception as error:  # whatever code of the user's own raises
                return error
        return None


class _Cuda:
    """A stream, and a default generator whose state the lane's graphs alone read and advance."""

    def __init__(self, device: torch.device) -> None:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        self._default = torch.cuda.default_generators[device.index or 0]
        # Another state object, not other numbers in the same: graphs that replay at once would share those.
        self._own = self._default.clone_state()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))  # which may have made the data

    @contextmanager
    def current(self) -> Iterator[None]:
        outside = self._default.graphsafe_get_state()
        self._default.graphsafe_set_state(self._own)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            self._own = self._default.graphsafe_get_state()
            self._default.graphsafe_set_state(outside)


def _host_generators() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_host_generators(states: tuple[Any, Any, torch.Tensor]) -> None:
    python, numpy, own = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(own)
