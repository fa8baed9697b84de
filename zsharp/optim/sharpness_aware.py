"""The optimizer: ascend to w + e, take the gradient there, return to w exactly, take the base step."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zsharp.optim.ascent import Layer, Perturbation, perturbation
from zsharp.optim.methods import Rules

Closure = Callable[[], Tensor]
_CLOSURE_HELP = (
    "step() needs a closure that zeroes the gradients, runs forward and backward and returns the loss; "
    "without one call first_step(zero_grad=True), a second forward and backward, "
    "then second_step(zero_grad=True)"
)


class SharpnessAware(Optimizer):
    """Any (ascent, filter) pair around any base optimizer.

    `SAM`, `ASAM`, `FriendlySAM` and `ZSharp` name the usual ones, `make_optimizer` builds any of them.

    The parameter groups and the state are the base optimizer's own, so learning-rate schedulers, checkpoints
    and `add_param_group` work as they do without it. Each group has its own `rho`, `q_p`, `eta`, `sigma`,
    `lmbda` (floats, or 0-d tensors for rho and q_p) and `rules`. Parameters keep their storage; the copy of
    the weights that `second_step` restores from is the only memory of their size that is kept between steps.

    Reductions: `rho=0` is the base optimizer, bit for bit; with a global norm, `q_p=0` or `filter="none"`
    is the ascent without a filter.

    Args:
        params: Parameters or groups, as for any `torch.optim` optimizer.
        base_optimizer: Its class, built on the same groups with `base_kwargs`.
        rules: The ascent and its filter; the default of groups that do not bring their own.
        rho: Radius of the perturbation in the units of the weights, >= 0.
        q_p: Percentile in [0, 1) of the filter's scores below which components are dropped.
        eta: ASAM's floor added to abs(w).
        sigma: Friendly-SAM's share of the running gradient that is subtracted.
        lmbda: Friendly-SAM's decay of the running gradient.
        seed: Seed of the random filter.
        base_kwargs: `lr`, `momentum`, `weight_decay`, ... of the base optimizer.

    Raises:
        ValueError: If a number is outside its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        base_optimizer: type[Optimizer],
        *,
        rules: Rules,
        rho: Tensor | float = 0.05,
        q_p: Tensor | float = 0.0,
        eta: float = 0.01,
        sigma: float = 1.0,
        lmbda: float = 0.9,
        seed: int = 0,
        **base_kwargs: Any,
    ) -> None:
        defaults = {
            "rho": rho,
            "q_p": q_p,
            "eta": eta,
            "sigma": sigma,
            "lmbda": lmbda,
            "rules": rules.__dict__.copy(),
        }
        self._is_built = False
        super().__init__(params, defaults)
        self.base_optimizer = base_optimizer(self.param_groups, **base_kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults = {**self.base_optimizer.defaults, **self.defaults}
        self._is_built = True
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}
        self._backups: dict[Tensor, Tensor] = {}
        self._running: dict[Tensor, Tensor] = {}
        self._moved: list[Tensor] = []
        self.last: Perturbation | None = None

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Moves the weights from w to w + e, using the gradients at w.

        Raises:
            RuntimeError: If the weights are perturbed already.
        """
        if self._moved:
            raise RuntimeError("the weights are perturbed already: call second_step() or restore() first")
        layers = [layer for group in self.param_groups for layer in self._layers(group)]
        if layers:
            self.last = perturbation(layers, self._generator(layers[0].param.device))
            pairs = [
                (layer.param, step)
                for layer, step in zip(layers, self.last.steps, strict=True)
                if step is not None
            ]
            if pairs:
                params, steps = [param for param, _ in pairs], [step for _, step in pairs]
                for param in params:
                    if param not in self._backups:
                        self._backups[param] = torch.empty_like(param, requires_grad=False)
                torch._foreach_copy_([self._backups[param] for param in params], params)
                self._moved = params
                torch._foreach_add_(params, steps)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Returns the weights to w exactly, then lets the base optimizer step with the gradients at w + e."""
        self.restore()
        self.base_optimizer.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Returns the weights to w, bit for bit; does nothing if they are there."""
        if self._moved:
            torch._foreach_copy_(self._moved, [self._backups[param] for param in self._moved])
            self._moved = []

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Runs both passes and the base optimizer's step.

        Args:
            closure: Zeroes the gradients, runs forward and backward, returns the loss. Called twice.

        Returns:
            The loss at w, detached.

        Raises:
            RuntimeError: If there is no closure; the message says what to do.
        """
        if closure is None:
            raise RuntimeError(_CLOSURE_HELP)
        with torch.enable_grad():
            loss: Tensor = closure().detach()
        self.first_step(zero_grad=True)
        try:
            with torch.enable_grad():
                closure()
        except BaseException:
            self.restore()
            raise
        self.second_step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to this and the base optimizer; missing settings take their defaults."""
        _check(param_group, self.defaults)
        if not self._is_built:
            super().add_param_group(param_group)
            return
        for name, default in self.defaults.items():
            param_group.setdefault(name, default)
        self.base_optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, plus Friendly-SAM's running gradient and the random filter's generator.

        Raises:
            RuntimeError: While the weights are perturbed.
        """
        if self._moved:
            raise RuntimeError("the weights are perturbed: call second_step() or restore() before saving")
        state = self.base_optimizer.state_dict()
        order = [param for group in self.param_groups for param in group["params"]]
        state["ascent"] = {
            "running": {i: self._running[param] for i, param in enumerate(order) if param in self._running},
            "generators": {
                str(device): generator.get_state() for device, generator in self._generators.items()
            },
        }
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned, or a plain base optimizer's state."""
        state = dict(state_dict)
        ascent = state.pop("ascent", {"running": {}, "generators": {}})
        settings = [{name: group[name] for name in _SETTINGS} for group in self.param_groups]
        self.base_optimizer.load_state_dict(state)
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        for group, own in zip(self.param_groups, settings, strict=True):
            for name, value in own.items():
                group.setdefault(name, value)
        order = [param for group in self.param_groups for param in group["params"]]
        self._running = {
            order[i]: value.to(order[i].device).clone() for i, value in ascent["running"].items()
        }
        for device, generator_state in ascent["generators"].items():
            self._generator(torch.device(device)).set_state(generator_state.cpu())

    def _layers(self, group: dict[str, Any]) -> list[Layer]:
        rules = Rules(**group["rules"])
        layers = []
        for param in group["params"]:
            direction = param.grad
            if direction is None:
                continue
            if direction.is_sparse:
                raise RuntimeError("sparse gradients have no per-layer statistics: use dense embeddings")
            if rules.ascent == "friendly_sam":
                direction = self._friendly(param, direction, group)
            layers.append(Layer(param, direction, rules, group["rho"], group["q_p"], group["eta"]))
        return layers

    def _friendly(self, param: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
        """Subtracts the running gradient of the steps before; the first step has none and uses all of g.

        Kept apart from `state`: Adam takes a state that is not empty for its own.
        """
        if param not in self._running:
            self._running[param] = grad.clone()
            return grad
        running = self._running[param]
        direction: Tensor = grad - group["sigma"] * running
        running.lerp_(grad, 1 - group["lmbda"])
        return direction

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


_SETTINGS = ("rho", "q_p", "eta", "sigma", "lmbda", "rules")
_RANGES: dict[str, tuple[float, float]] = {
    "rho": (0, torch.inf),
    "q_p": (0, 1),
    "eta": (0, torch.inf),
    "lmbda": (0, 1),
}


def _check(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    for name, (low, high) in _RANGES.items():
        value = float(group.get(name, defaults[name]))
        if not low <= value < high:
            raise ValueError(f"{name} is {value}; valid: {low} <= {name} < {high}")


@contextmanager
def frozen_batch_norm(model: torch.nn.Module) -> Iterator[None]:
    """Within it, batch-norm layers in training mode use batch statistics but update none of theirs.

    Put it around the second forward pass: the running statistics (and `num_batches_tracked`) then see each
    batch once, at w. Covers every `_BatchNorm`, SyncBatchNorm and `momentum=None` included.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
