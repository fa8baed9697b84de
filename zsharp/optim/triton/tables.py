"""Tables on the device that tell a kernel where many tensors are in memory, kept from call to call."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from itertools import accumulate
from operator import or_

import torch
from torch import Tensor

# The most chunks of one tensor. More would not fill a large GPU better (132 multiprocessors, a few programs each),
# and a program that adds up a tensor's chunks holds as many numbers.
MAX_CHUNKS = 2048
MAX_TABLES = 64
# From this length on, counts need 64 bits.
WIDE = 2**31

_Key = tuple[object, ...]
_tables: OrderedDict[_Key, Tensor] = OrderedDict()
_captured: dict[_Key, Tensor] = {}
_room: "_Room | None" = None


@dataclass(frozen=True)
class Tables:
    """Where tensors of one dtype are in memory and how they are cut into chunks; layouts in `kernels.py`."""

    pointers: Tensor  # int64 `[num_tensors]` on the device
    tensors: Tensor  # int64 `[4 * num_tensors]`, likewise
    chunks: Tensor  # int64 `[3 * num_chunks]`, likewise
    align: int  # power of two, at most 16, that divides all addresses
    count_dtype: torch.dtype  # an integer type that holds any tensor's number of elements

    @property
    def num_tensors(self) -> int:
        """Number of tensors."""
        return self.pointers.numel()

    @property
    def num_chunks(self) -> int:
        """Number of chunks, at least one a tensor."""
        return self.chunks.numel() // 3


def tables(values: Sequence[Tensor], rows: Sequence[int], block: int) -> Tables:
    """Returns the tables of `values`, building them on the first call with these.

    Args:
        values: Tensors with dense memory, of one dtype on one device.
        rows: The row that each tensor's results are written to.
        block: Chunks start at multiples of it.

    Raises:
        RuntimeError: If a CUDA graph is being captured and the tables do not exist.
    """
    device = values[0].device
    # Lists, and no generators: outside of a CUDA graph the host is what an ascent waits for.
    lengths = tuple([value.numel() for value in values])
    pointers = tuple([value.data_ptr() for value in values])
    any_bits = reduce(or_, pointers, 16)
    flat = _on_device(("layout", lengths, tuple(rows), block), device, lambda: _layout(lengths, rows, block))
    return Tables(
        _on_device(("pointers", pointers), device, lambda: list(pointers)),
        flat[: 4 * len(values)],
        flat[4 * len(values) :],
        align=any_bits & -any_bits,
        count_dtype=torch.int32 if max(lengths) < WIDE else torch.int64,
    )


@dataclass
class _Room:
    """Memory outside a graph's own, which its other tensors would reuse, and the numbers to put there."""

    memory: Tensor
    values: list[int] = field(default_factory=list)

    def take(self, values: list[int]) -> Tensor:
        start, stop = len(self.values), len(self.values) + len(values)
        if stop > len(self.memory):
            raise RuntimeError(
                f"tables of a CUDA graph: there is room for {len(self.memory)} numbers, {stop} are needed"
            )
        self.values += values
        return self.memory[start:stop]


@contextmanager
def filled_after_capture(device: torch.device, room: int = 2**20) -> Iterator[Tensor]:
    """Captures a CUDA graph inside; the tables it needs are filled when the capture ends.

    Outside it, a capture needs gradients that keep their addresses, and its tables stay for the life of the process.
    Inside, gradients may be made in the graph, anew at every step, which saves adding them to zeros.

    Args:
        device: Where the graph runs.
        room: How many numbers all tables of the graph may have; a tensor needs ten, and three for each 4096 elements.

    Yields:
        The memory of the tables. Keep it as long as the graph.
    """
    global _room
    assert _room is None
    _room = _Room(torch.empty(room, dtype=torch.int64, device=device))
    try:
        yield _room.memory
        _room.memory[: len(_room.values)].copy_(torch.tensor(_room.values, dtype=torch.int64))
    finally:
        _room = None


def dense(value: Tensor) -> Tensor:
    """Returns the tensor, copied if its elements do not fill their memory without gaps or overlap.

    The order of its dimensions in memory does not matter.
    """
    return value if value.is_contiguous() or _is_dense(value.shape, value.stride()) else value.contiguous()


@lru_cache(maxsize=1024)
def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def positions_by_dtype(values: Sequence[Tensor]) -> dict[torch.dtype, list[int]]:
    """Returns the positions of the tensors of each dtype."""
    by_dtype: dict[torch.dtype, list[int]] = {}
    for i, value in enumerate(values):
        by_dtype.setdefault(value.dtype, []).append(i)
    return by_dtype


def launching_on(device: torch.device) -> AbstractContextManager[object]:
    """Makes `device` the current one, where Triton launches kernels; does nothing on the CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _layout(lengths: Sequence[int], rows: Sequence[int], block: int) -> list[int]:
    """Returns the rows of both tables, `tensors` and then `chunks`, one after the other."""
    num_blocks = sum(-(-length // block) for length in lengths)
    step = block * max(1, -(-num_blocks // MAX_CHUNKS))
    spans = [
        [(tensor, start, min(start + step, length)) for start in range(0, length, step)] or [(tensor, 0, 0)]
        for tensor, length in enumerate(lengths)
    ]
    firsts = accumulate((len(span) for span in spans), initial=0)
    flat: list[int] = []
    for length, row, first, span in zip(lengths, rows, firsts, spans, strict=False):
        flat += (length, row, first, len(span))
    for span in spans:
        for chunk in span:
            flat += chunk
    return flat


def _on_device(key: _Key, device: torch.device, build: Callable[[], list[int]]) -> Tensor:
    """Returns the int64 table called `key`, copied to the device without waiting for it."""
    key = (*key, device)
    if device.type != "cuda":
        return torch.tensor(build(), dtype=torch.int64, device=device)
    if _room is not None and torch.cuda.is_current_stream_capturing():
        return _room.take(build())
    if key in _captured:
        return _captured[key]
    # A table belongs to the stream that copied it: another may run ahead of the copy. A capture begins after
    # all copies, and may use any.
    by_stream = (*key, torch.cuda.current_stream(device).cuda_stream)
    if torch.cuda.is_current_stream_capturing():
        same = [table for other, table in _tables.items() if other[:-1] == key]
        if not same:
            raise RuntimeError(
                "percentile cutoffs in a CUDA graph: these gradients were not seen before the capture; call "
                "once before it, with gradients that keep their addresses (zero_grad(set_to_none=False))"
            )
        return _captured.setdefault(key, same[0])
    if by_stream not in _tables:
        staged = torch.tensor(build(), dtype=torch.int64).pin_memory()
        _tables[by_stream] = staged.to(device, non_blocking=True)
        while len(_tables) > MAX_TABLES:
            _tables.popitem(last=False)
    _tables.move_to_end(by_stream)
    return _tables[by_stream]
