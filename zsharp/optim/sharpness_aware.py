"""The optimizer: ascend to w + e, take the gradient there, return to w exactly, take the base step."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from zsharp.optim import device_ascent, host_ascent
from zsharp.optim.batch_norm import frozen_batch_norm
from zsharp.optim.layer import Layer, Observed
from zsharp.optim.methods import Rules
from zsharp.optim.radius import norms, total

Closure = Callable[[], Tensor]
_CLOSURE_HELP = (
    "step() needs a closure that zeroes the gradients, runs forward and backward and returns the loss; "
    "without one call first_step(zero_grad=True), a second forward and backward, "
    "then second_step(zero_grad=True)"
)
_CPU = torch.device("cpu")


class SharpnessAware(Optimizer):
    """Any (ascent, filter) pair around any base optimizer.

    `SAM`, `ASAM`, `FriendlySAM` and `ZSharp` name the usual ones, `make_optimizer` builds any of them.

    The parameter groups and the state are the base optimizer's own, so learning-rate schedulers, checkpoints
    and `add_param_group` work as they do without it. Each group has its own `rho`, `q_p`, `eta`, `sigma`,
    `lmbda` (floats, or 0-d tensors for rho and q_p) and `rules`. Parameters keep their storage; one copy of the
    weights, which they are restored from, is the only memory of their size kept between steps.

    Reductions: `rho=0` is the base optimizer, bit for bit; with a global norm, `q_p=0` or `filter="none"`
    is the ascent without a filter.

    After the first of the two passes `last` holds what the ascent found, after `step` `last_loss_increase` holds
    loss(w + e) - loss(w); both stay on the device.

    Args:
        params: Parameters or groups, as for any `torch.optim` optimizer.
        base_optimizer: Its class, built on the same groups with `base_kwargs`.
        rules: The ascent and its filter; the default of groups that do not bring their own.
        rho: Radius of the perturbation in the units of the weights, >= 0.
        q_p: Percentile in [0, 1) of the filter's scores below which components are dropped.
        eta: ASAM's floor added to abs(w).
        sigma: Friendly-SAM's share of the running gradient that is subtracted.
        lmbda: Friendly-SAM's decay of the running gradient.
        interval: Ascend at every so many steps; the others are the base optimizer's.
        start_step: Number of steps before the first ascent.
        seed: Seed of the random filter.
        base_kwargs: `lr`, `momentum`, `weight_decay`, ... of the base optimizer.

    Raises:
        ValueError: If a number is outside its range.
        TypeError: If a parameter is sharded (DTensor, FSDP): its percentile would be that of a shard.
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
        interval: int = 1,
        start_step: int = 0,
        seed: int = 0,
        **base_kwargs: Any,
    ) -> None:
        if interval < 1 or start_step < 0:
            raise ValueError(
                f"interval is {interval}, start_step {start_step}; valid: at least 1, at least 0"
            )
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
        self._interval, self._start_step, self._seed = interval, start_step, seed
        self._num_steps = 0
        self._generators: dict[torch.device, torch.Generator] = {}
        self._scratch: host_ascent.Scratch = {}
        self._backups: dict[Tensor, Tensor] = {}
        self._running: dict[Tensor, Tensor] = {}
        self._moved: list[Tensor] = []
        self.last: Observed | None = None
        self.last_loss_increase: Tensor | None = None

    @property
    def is_ascent_due(self) -> bool:
        """Whether the next step takes two passes; always, unless `interval` or `start_step` say otherwise."""
        since = self._num_steps - self._start_step
        return since >= 0 and since % self._interval == 0

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """Moves the weights from w to w + e, using the gradients at w; does nothing where no ascent is due.

        Args:
            zero_grad: Zero the gradients afterwards.
            scaler: The scaler the loss was scaled with. Only Friendly-SAM needs it: for the others e does not
                depend on the scale of the gradients.

        Raises:
            RuntimeError: If the weights are perturbed already.
        """
        if self._moved:
            raise RuntimeError("the weights are perturbed already: call second_step() or restore() first")
        if self.is_ascent_due:
            self._ascend(scaler)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """Returns the weights to w exactly, then lets the base optimizer step with the gradients at w + e.

        Args:
            zero_grad: Zero the gradients afterwards.
            scaler: Takes the base step through it: unscales once, and leaves the weights at w if a gradient
                overflowed. Call its `update` yourself, once a step.
        """
        self.restore()
        if scaler is None:
            self.base_optimizer.step()
        else:
            scaler.step(self.base_optimizer)
        self._num_steps += 1
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Returns the weights to w, bit for bit; does nothing if they are there."""
        if self._moved:
            torch._foreach_copy_(self._moved, [self._backups[param] for param in self._moved])
            self._moved = []

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Closure | None = None,
        *,
        model: nn.Module | None = None,
        scaler: GradScaler | None = None,
        sync_ascent: bool = False,
    ) -> Tensor:
        """Runs both passes and the base optimizer's step.

        Args:
            closure: Zeroes the gradients, runs forward and backward over one batch, or over several that
                accumulate, and returns the loss. Called twice, once where no ascent is due.
            model: Its batch-norm statistics are left alone in the second pass. If it is a
                `DistributedDataParallel`, each process ascends along its own gradients (m-sharpness).
            scaler: If the closure scales its loss; see `second_step`.
            sync_ascent: Average the gradients of the first pass over processes too.

        Returns:
            The loss at w, detached.

        Raises:
            RuntimeError: If there is no closure; the message says what to do.
        """
        if closure is None:
            raise RuntimeError(_CLOSURE_HELP)
        is_due = self.is_ascent_due
        with torch.enable_grad(), _unsynchronised(model, is_due and not sync_ascent):
            loss = closure().detach()
        if is_due:
            self.first_step(zero_grad=True, scaler=scaler)
            try:
                with torch.enable_grad(), _frozen(model):
                    self.last_loss_increase = closure().detach() - loss
            except BaseException:
                self.restore()
                raise
        self.second_step(scaler=scaler)
        return loss

    @torch.no_grad()
    def step_groups(self, closures: Sequence[Closure], *, model: nn.Module | None = None) -> Tensor:
        """One step on several groups of examples, each with an ascent of its own (m-sharpness).

        The descent gradient is the mean of those at the groups' own perturbed points: what as many processes
        under `DistributedDataParallel` compute, in one.

        Args:
            closures: One for each group, as for `step`.
            model: As for `step`; batch norm sees each group once.

        Returns:
            The mean of the losses at w, detached.
        """
        params = [param for group in self.param_groups for param in group["params"]]
        sums: dict[Tensor, Tensor] = {}
        losses = []
        for closure in closures:
            with torch.enable_grad():
                losses.append(closure().detach())
            if self.is_ascent_due:
                self.first_step(zero_grad=True)
                try:
                    with torch.enable_grad(), _frozen(model):
                        closure()
                finally:
                    self.restore()
            for param in params:
                if param.grad is not None:
                    sums[param] = param.grad.clone() if param not in sums else sums[param].add_(param.grad)
        for param, gradient in sums.items():
            param.grad = gradient.div_(len(closures))
        self.second_step()
        return torch.stack(losses).mean()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to this and the base optimizer; missing settings take their defaults."""
        _check_numbers(param_group, self.defaults)
        if not self._is_built:
            super().add_param_group(param_group)
        else:
            for name, default in self.defaults.items():
                param_group.setdefault(name, default)
            self.base_optimizer.add_param_group(param_group)
        _check_params(param_group["params"])

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, Friendly-SAM's running gradient, the step and the random filter's generator.

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
            "num_steps": self._num_steps,
        }
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned, or a plain base optimizer's state."""
        state = dict(state_dict)
        ascent = state.pop("ascent", {"running": {}, "generators": {}, "num_steps": 0})
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
        self._num_steps = ascent["num_steps"]

    def _ascend(self, scaler: GradScaler | None) -> None:
        layers = [layer for group in self.param_groups for layer in self._layers(group, scaler)]
        if not layers:
            return
        home = layers[0].param.device
        moving = [layer for layer in layers if not layer.is_skipped]
        num_components = sum(layer.param.numel() for layer in layers)
        gradients = [layer.param.grad for layer in layers if layer.param.grad is not None]
        if not moving:
            nothing = torch.zeros((), device=home)
            self.last = Observed(
                nothing, torch.zeros(0, dtype=torch.int64), nothing, total(norms(gradients, home))
            )
            return
        self._moved = [layer.param for layer in moving]
        devices = {layer.param.device for layer in moving}
        if _is_host(devices):
            length, counts, dense_norms = host_ascent.ascend(moving, self._scratch, self._generator(_CPU))
            kept = torch.tensor(counts)
        else:
            generators = {device: self._generator(device) for device in devices}
            length, kept, dense_norms = device_ascent.ascend(moving, home, generators)
        is_plain = len(moving) == len(layers) and all(layer.direction is layer.param.grad for layer in layers)
        if is_plain and not any(layer.is_adaptive for layer in layers):
            grad_norm = total(dense_norms)  # of the gradients themselves: no second pass over them
        else:
            grad_norm = total(norms(gradients, home))
        self.last = Observed(length, kept, kept.sum() / num_components, grad_norm)

    def _layers(self, group: dict[str, Any], scaler: GradScaler | None) -> list[Layer]:
        rules = Rules(**group["rules"])
        layers = []
        for param in group["params"]:
            direction = param.grad
            if direction is None:
                continue
            if direction.is_sparse:
                raise RuntimeError("sparse gradients have no per-layer statistics: use dense embeddings")
            if rules.ascent == "friendly_sam":
                direction = self._friendly(param, direction, group, scaler)
            if param not in self._backups:
                self._backups[param] = torch.empty_like(param, requires_grad=False)
            backup = self._backups[param]
            layers.append(Layer(param, backup, direction, rules, group["rho"], group["q_p"], group["eta"]))
        return layers

    def _friendly(
        self, param: Tensor, grad: Tensor, group: dict[str, Any], scaler: GradScaler | None
    ) -> Tensor:
        """Subtracts the running gradient of the steps before; the first step has none and uses all of g.

        Kept apart from `state`: Adam takes a state that is not empty for its own. A gradient that is not finite
        leaves no trace in it.
        """
        if scaler is not None:
            grad = grad / scaler.scale(torch.ones((), device=grad.device))
        if param not in self._running:
            self._running[param] = torch.nan_to_num(grad, 0.0, 0.0, 0.0)
            return grad
        running = self._running[param]
        direction: Tensor = grad - group["sigma"] * running
        is_finite = torch.isfinite(grad.sum())
        running.lerp_(torch.where(is_finite, grad, running), 1 - group["lmbda"])
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


def _check_numbers(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    for name, (low, high) in _RANGES.items():
        value = float(group.get(name, defaults[name]))
        if not low <= value < high:
            raise ValueError(f"{name} is {value}; valid: {low} <= {name} < {high}")


def _check_params(params: Iterable[Tensor]) -> None:
    for param in params:
        # By name: importing torch.distributed for this would cost every user half a second.
        kinds = {kind.__name__ for kind in type(param).__mro__}
        if kinds & {"DTensor", "FlatParameter"} or type(getattr(param, "data", param)).__name__ == "DTensor":
            raise TypeError(
                "a parameter is sharded (DTensor or FSDP): its mean and percentile would be those of one shard; "
                "valid: whole tensors, such as under DistributedDataParallel"
            )


def _is_host(devices: set[torch.device]) -> bool:
    """Whether numbers may be read: on the CPU that costs nothing, but a compiler cannot trace it."""
    return devices == {_CPU} and not torch.compiler.is_compiling()


def _unsynchronised(model: nn.Module | None, is_wanted: bool) -> AbstractContextManager[Any]:
    no_sync = getattr(model, "no_sync", None) if is_wanted else None
    return nullcontext() if no_sync is None else no_sync()


def _frozen(model: nn.Module | None) -> AbstractContextManager[Any]:
    return nullcontext() if model is None else frozen_batch_norm(model)
