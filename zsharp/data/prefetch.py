"""Rows of images on the host as batches on a device: a thread gathers and copies ahead of the training."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

_AHEAD = 3  # batches


def prefetched(images: Tensor, batches: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yields the images of each batch, in order.

    To a GPU they go through pinned memory, on a stream of their own, so that copies run beside the training.

    Args:
        images: uint8 [N, C, H, W] on the host; may be a memory map.
        batches: The rows of each batch, int64 [B] on the host.
        device: Where the batches are needed.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def gather(rows: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if stream is None:
            return images.index_select(0, rows), None
        # Torch hands pinned memory out again only when the copies from it are done.
        pinned = torch.empty((len(rows), *images.shape[1:]), dtype=images.dtype, pin_memory=True)
        torch.index_select(images, 0, rows, out=pinned)
        with torch.cuda.stream(stream):
            return pinned.to(device, non_blocking=True), stream.record_event()

    pool = ThreadPoolExecutor(1, "prefetch")
    pending: deque[Future[tuple[Tensor, torch.cuda.Event | None]]] = deque()
    try:
        for rows in batches:
            pending.append(pool.submit(gather, rows))
            if len(pending) > _AHEAD:
                yield _arrived(*pending.popleft().result())
        while pending:
            yield _arrived(*pending.popleft().result())
    finally:
        pool.shutdown(cancel_futures=True)


def _arrived(images: Tensor, copied: torch.cuda.Event | None) -> Tensor:
    """Has the current stream wait for the copy; the host waits for nothing."""
    if copied is not None:
        current = torch.cuda.current_stream(images.device)
        current.wait_event(copied)
        images.record_stream(current)  # made on the other stream, whose memory it is
    return images
