"""Nested batches: what a task yields, moved, copied and counted tensor by tensor."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def map_tensors(change: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """Returns the batch with each of its tensors changed; tuples, lists and mappings keep their kind."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        items = {key: map_tensors(change, value) for key, value in batch.items()}
        return items if isinstance(batch, dict) else type(batch)(items)  # type: ignore[call-arg]
    if isinstance(batch, tuple | list):
        values = [map_tensors(change, value) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch


def leaves(batch: Any) -> Iterator[Any]:
    """Yields what is in a batch, in order: its tensors, and anything else that is no tuple, list or mapping."""
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, tuple | list):
        for value in batch:
            yield from leaves(value)
    else:
        yield batch


def to_device(batch: Any, device: torch.device) -> Any:
    """Returns the batch on a device; tensors that are there already are not copied."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def num_examples(batch: Any) -> int | None:
    """Returns the length of the first tensor with a dimension; None if there is none."""
    return next((len(leaf) for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), None)
