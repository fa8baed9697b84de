"""Several processes that train one model: each takes its part of every batch, and their gradients are averaged."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from zsharp.optim.ascent.layer import is_sharded
from zsharp.training.nested import map_tensors, num_examples

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Processes:
    """Which of the processes this is; with more than one, `torch.distributed` is initialised.

    All of them draw the same random numbers, so that each knows the whole batch and takes its own part of it.
    """

    rank: int = 0
    size: int = 1

    def part(self, batch: Any) -> tuple[Any, float]:
        """Returns this process's examples of a batch, and the weight of its loss in the mean over processes.

        Tensors as long as the batch's first one are divided along their first dimension, others are left whole.

        Raises:
            ValueError: If there are fewer examples than processes.
        """
        if self.size == 1:
            return batch, 1.0
        num = num_examples(batch) or 0
        if num < self.size:
            raise ValueError(
                f"a batch of {num} examples for {self.size} processes; valid: at least one for each"
            )
        begin, end = self.rank * num // self.size, (self.rank + 1) * num // self.size

        def own(tensor: Tensor) -> Tensor:
            return tensor[begin:end] if tensor.ndim and len(tensor) == num else tensor

        return map_tensors(own, batch), (end - begin) * self.size / num

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum over processes."""
        if self.size == 1:
            return values
        from torch.distributed import all_reduce

        summed = values.clone()
        all_reduce(summed)
        return summed

    def average_(self, values: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over processes."""
        if self.size > 1:
            for value in values:
                value.copy_(self.sum(value) / self.size)

    def same(self, value: Any) -> Any:
        """Returns what the first process has; anything that can be pickled."""
        if self.size == 1:
            return value
        from torch.distributed import broadcast_object_list

        values = [value]
        broadcast_object_list(values)
        return values[0]


class Loss:
    """A task's loss, whose backward pass averages the gradients over processes.

    Args:
        may_leave_out: Whether a step may use only some of the parameters, which costs a search for them.
    """

    def __init__(
        self, loss: Callable[[Any], Tensor], model: nn.Module, processes: Processes, may_leave_out: bool
    ) -> None:
        self._loss, self._parallel = loss, None
        sharded = any(is_sharded(param) for param in model.parameters())
        if processes.size > 1 and not sharded:  # sharded models average by themselves
            self._parallel = nn.parallel.DistributedDataParallel(
                _LossModule(loss, model), broadcast_buffers=False, find_unused_parameters=may_leave_out
            )

    def __call__(self, batch: Any) -> Tensor:
        """Returns the mean loss of this process's examples."""
        loss: Tensor = self._loss(batch) if self._parallel is None else self._parallel(batch)
        return loss

    def alone(self) -> AbstractContextManager[Any]:
        """Inside, gradients are those of this process's examples; of a sharded model they are averaged all the same."""
        return nullcontext() if self._parallel is None else self._parallel.no_sync()


class _LossModule(nn.Module):
    """`DistributedDataParallel` wants a module; users' losses call their model themselves."""

    def __init__(self, loss: Callable[[Any], Tensor], model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Any) -> Tensor:
        return self._loss(batch)


def shard(model: nn.Module) -> None:
    """Shards a model's parameters over all processes (FSDP2), each block of a container by itself."""
    from torch.distributed.fsdp import fully_shard

    for param in model.parameters():
        param.data = param.data.contiguous()  # FSDP2 takes no other layout
    for module in model.modules():
        if isinstance(module, nn.Sequential | nn.ModuleList):
            for block in module:
                if any(True for _ in block.parameters()):
                    fully_shard(block)
    fully_shard(model)


def statistics_of(model: nn.Module) -> list[Tensor]:
    """Returns the running statistics of batch norm, which each process has of its own examples."""
    return [buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] in _STATISTICS]


def unsharded(state: Any) -> Any:
    """Returns a state with each sharded tensor gathered; all processes call it together."""
    return map_tensors(lambda tensor: tensor.full_tensor() if is_sharded(tensor) else tensor, state)  # type: ignore[attr-defined]


def gathered(part: Tensor, like: Any) -> Tensor:
    """Returns the whole tensor of which each process has the part that it has of a parameter."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    value: Tensor = DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    ).full_tensor()
    return value


def as_sharded(value: Tensor, like: Any) -> Tensor:
    """Returns a whole tensor as the shard that a parameter has of it; unchanged if the parameter is whole."""
    if not is_sharded(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    part: Tensor = distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
    return part


def sharded_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Returns an optimizer's state of whole tensors as one for its parameters, of which some may be sharded."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    if not any(is_sharded(param) for param in params):
        return state

    def for_param(i: Any, values: Any) -> Any:
        return map_tensors(lambda value: as_sharded(value, params[int(i)]), values)

    parts = {**state, "state": {i: for_param(i, values) for i, values in state["state"].items()}}
    if "ascent" in state:
        running = {i: for_param(i, value) for i, value in state["ascent"]["running"].items()}
        parts["ascent"] = {**state["ascent"], "running": running}
    return parts
