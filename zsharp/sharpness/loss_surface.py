"""Evaluates the loss on fixed batches, its gradient and its Hessian as functions of the weights."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

LossFunction = Callable[[Tensor, Tensor], Tensor]
ParamFilter = Callable[[str, nn.Parameter], bool]


class LossSurface:
    """L(w) = mean loss over all examples of `batches`, where w are chosen parameters as one flat vector.

    Works on a copy of the model as it is now: your model keeps its weights, mode and gradients. Every evaluation
    is the same function of w: the model's own randomness (dropout in mode `train`) restarts from `seed`, buffers
    start from the model's, and batch norm in mode `train` normalises by each batch without updating its running
    statistics. Attention uses its plain implementation, the only one with second derivatives. Nothing is cast:
    loss and gradients have the weights' dtype; sums over batches are taken in float64.

    Example:
        >>> import torch
        >>> from zsharp.sharpness import LossSurface, worst_case
        >>> model, batch = torch.nn.Linear(3, 2), (torch.eye(3), torch.tensor([0, 1, 0]))
        >>> surface = LossSurface(model, [batch], torch.nn.functional.cross_entropy)
        >>> worst_case(surface, rho=0.05).increase > 0
        True

    Args:
        model: Maps inputs to outputs; must support `copy.deepcopy`.
        batches: (inputs, targets) on the model's device, examples along the first axis of both.
        loss_function: Maps (outputs, targets) to the mean over the examples, 0-d.
        mode: `eval`, or `train` (dropout on, batch norm by each batch).
        param_filter: Maps (name, parameter) to whether it is part of w. Default: those that require gradients.
        seed: Seed of the model's own randomness.

    Attributes:
        num_examples: Number of examples in all batches.
        weights: w, shape [d], detached.

    Raises:
        ValueError: If there is no example or no parameter, or the mode is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[tuple[Tensor, Tensor]],
        loss_function: LossFunction,
        *,
        mode: Literal["eval", "train"] = "eval",
        param_filter: ParamFilter | None = None,
        seed: int = 0,
    ) -> None:
        if mode not in ("eval", "train"):
            raise ValueError(f"mode is {mode!r}; valid: 'eval', 'train'")
        is_chosen = param_filter or (lambda name, param: param.requires_grad)
        names = [name for name, param in model.named_parameters() if is_chosen(name, param)]
        if not names:
            raise ValueError("param_filter leaves no parameter of the model; valid: at least one")
        self.batches = [(inputs, targets) for inputs, targets in batches if len(targets)]
        self.num_examples = sum(len(targets) for _, targets in self.batches)
        if not self.num_examples:
            raise ValueError("batches have no example; valid: at least one")
        self.loss_function = loss_function
        self.model = copy.deepcopy(model).requires_grad_(False).train(mode == "train")
        params = dict(self.model.named_parameters())
        self.params = {name: params[name] for name in names}
        self.weights = torch.cat([param.flatten() for param in self.params.values()])
        self._seed = seed

    def loss(self, offset: Tensor | None = None) -> float:
        """Returns L(w + offset), or L(w) without an offset. Costs one forward pass over all batches.

        Raises:
            ValueError: If the loss function returns anything but a 0-d tensor.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.weights.device)
        with torch.no_grad(), self.evaluating():
            moved = self._moved(offset)
            for share, batch in self._shares():
                total += share * self._batch_loss(moved, batch).double()
        return total.item()

    def loss_and_gradient(self, offset: Tensor | None = None) -> tuple[float, Tensor]:
        """Returns L and its gradient [d] at w + offset. Costs one gradient evaluation (forward and backward).

        Raises:
            ValueError: If the loss function returns anything but a 0-d tensor.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.weights.device)
        gradient = torch.zeros_like(self.weights, dtype=torch.float64)
        with torch.enable_grad(), self.evaluating():
            moved = {name: value.detach().requires_grad_() for name, value in self._moved(offset).items()}
            for share, batch in self._shares():
                loss = self._batch_loss(moved, batch)
                total += share * loss.detach().double()
                gradient += share * _gradient(loss, moved)
        return total.item(), gradient.to(self.weights.dtype)

    def hessian_product(self, vector: Tensor) -> Tensor:
        """Returns Hv for v [d], H the Hessian of L at w. Takes as long as three to four gradient evaluations.

        Raises:
            ValueError: If the loss function returns anything but a 0-d tensor.
        """
        image = torch.zeros_like(self.weights, dtype=torch.float64)
        with torch.enable_grad(), self.evaluating():
            moved = {name: param.detach().requires_grad_() for name, param in self.params.items()}
            for share, batch in self._shares():
                gradient = _gradient(self._batch_loss(moved, batch), moved, create_graph=True)
                image += share * _gradient(torch.dot(gradient, vector), moved)
        return image.to(self.weights.dtype)

    def restricted_to(self, batch: tuple[Tensor, Tensor]) -> "LossSurface":
        """Returns the same surface on other examples; both share one copy of the model."""
        other = copy.copy(self)
        other.batches, other.num_examples = [batch], len(batch[1])
        return other

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Returns views of a vector [d] in the shapes of the parameters, by name."""
        parts = torch.split(vector, [param.numel() for param in self.params.values()])
        return {
            name: part.view(param.shape)
            for (name, param), part in zip(self.params.items(), parts, strict=True)
        }

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Restarts the model's randomness from the seed and lets its passes be differentiated twice."""
        devices = [self.weights.device.index] if self.weights.is_cuda else []
        fast_path = torch.backends.mha.get_fastpath_enabled()
        with torch.random.fork_rng(devices), sdpa_kernel(SDPBackend.MATH):
            torch.default_generator.manual_seed(self._seed)  # torch.manual_seed would also reseed every GPU
            for index in devices:
                torch.cuda.default_generators[index].manual_seed(self._seed)
            torch.backends.mha.set_fastpath_enabled(False)  # it rounds differently from a pass with gradients
            try:
                yield
            finally:
                torch.backends.mha.set_fastpath_enabled(fast_path)

    def _moved(self, offset: Tensor | None) -> dict[str, Tensor]:
        if offset is None:
            return dict(self.params)
        offsets = self.split(offset)
        return {name: param + offsets[name] for name, param in self.params.items()}

    def _shares(self) -> Iterator[tuple[float, tuple[Tensor, Tensor]]]:
        for batch in self.batches:
            yield len(batch[1]) / self.num_examples, batch

    def _batch_loss(self, moved: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        # Copies, because a pass in mode `train` writes to them.
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        outputs = torch.func.functional_call(self.model, moved | buffers, (inputs,))
        loss = self.loss_function(outputs, targets)
        if loss.dim():
            raise ValueError(
                f"loss_function returned shape {tuple(loss.shape)}; expected a 0-d tensor, the mean over examples"
            )
        return loss


def _gradient(value: Tensor, inputs: dict[str, Tensor], create_graph: bool = False) -> Tensor:
    leaves = list(inputs.values())
    if not value.requires_grad:  # it depends on none of them
        return torch.cat([torch.zeros_like(leaf).flatten() for leaf in leaves])
    parts = torch.autograd.grad(value, leaves, create_graph=create_graph, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def normal_vector(surface: LossSurface, generator: torch.Generator) -> Tensor:
    """Returns a standard normal vector [d], drawn on the CPU so that a seed means the same on every device."""
    drawn = torch.randn(len(surface.weights), generator=generator, dtype=surface.weights.dtype)
    return drawn.to(surface.weights.device)
