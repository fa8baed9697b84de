"""The optimizer: ascend to w + e, take the gradient there, return to w exactly, take the base step."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from zsharp.optim import device_ascent, host_ascent, triton_ascent
from zsharp.optim.batch_norm import frozen_batch_norm
from zsharp.optim.checks import check_numbers, check_params
from zsharp.optim.layer import Layer, Observed
from zsharp.optim.methods import Rules
from zsharp.optim.radius import norms, total
from zsharp.optim.running_gradient import RunningGradients

Closure = Callable[[], Tensor]
_CLOSURE_HELP = (
    "step() needs a closure that zeroes the gradients, runs forward and backward and returns the loss; "
    "without one call first_step(zero_grad=True), a second forward and backward, "
    "then second_step(zero_grad=True)"
)
_CPU = torch.device("cpu")


@dataclass
class _Progress:
    """What changes from step to step.

    An object of its own, because `torch.compile` forgets what is assigned to attributes of an optimizer.
    """

    num_steps: int = 0
    moved: list[Tensor] = field(default_factory=list)
    last: Observed | None = None
    loss_increase: Tensor | None = None


class SharpnessAware(Optimizer):
    """Any (ascent, filter) pair around any base optimizer.

    `SAM`, `ASAM`, `FriendlySAM` and `ZSharp` name the usual ones, `make_optimizer` builds any of them.

    The parameter groups and the state are the base optimizer's own, so learning-rate schedulers, checkpoints
    and `add_param_group` work as they do without it. Each group has its own `rho`, `q_p`, `eta`, `sigma`,
    `lmbda` (floats, or 0-d tensors for rho and q_p) and `rules`. Parameters keep their storage; one copy of the
    weights, which they are restored from, is the only memory of their size kept between steps.

    Reductions: `rho=0` is the base optimizer, bit for bit; with a global norm, `q_p=0` or `filter="none"`
    is the ascent without a filter.

    With `maximize=True` (a base optimizer's setting) the perturbation goes down the objective: towards worse, as it
    does when minimizing. A first gradient that is not finite makes the whole perturbation NaN, so that the second
    gradient is NaN too and a `GradScaler` leaves out the step.

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
        ValueError: If a number is outside its range, or a parameter's memory has gaps or is another's too.
        TypeError: If a parameter is sharded (DTensor, FSDP), since its percentile would be that of a shard, or
            complex.
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
        self._generators: dict[torch.device, torch.Generator] = {}
        self._scratch: host_ascent.Scratch = {}
        self._backups: dict[Tensor, Tensor] = {}
        self._running = RunningGradients()
        self._progress = _Progress()

    @property
    def is_perturbed(self) -> bool:
        """Whether the weights are at w + e: within a closure, whether this is the second pass."""
        return bool(self._progress.moved)

    @property
    def last(self) -> Observed | None:
        """What the last ascent found."""
        return self._progress.last

    @property
    def last_loss_increase(self) -> Tensor | None:
        """loss(w + e) - loss(w) of the last `step` with two passes, a 0-d tensor."""
        return self._progress.loss_increase

    @property
    def is_ascent_due(self) -> bool:
        """Whether the next step takes two passes; always, unless `interval` or `start_step` say otherwise."""
        since = self._progress.num_steps - self._start_step
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
        self._check_at_rest("another first_step()")
        self._running.waiting.clear()
        if self.is_ascent_due:
            self._ascend(scaler)
        if zero_grad:
            self._drop_gradients()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """Returns the weights to w exactly, then lets the base optimizer step with the gradients at w + e.

        Args:
            zero_grad: Zero the gradients afterwards.
            scaler: Takes the base step through it: unscales once, and leaves everything as it was if a gradient
                overflowed. Call its `update` yourself, once a step. To clip, call its `unscale_` before, on
                `base_optimizer`.

        Raises:
            RuntimeError: If `unscale_` was called on this optimizer: the gradients would be divided twice.
        """
        self.restore()
        if scaler is not None and id(self) in getattr(scaler, "_per_optimizer_states", ()):
            raise RuntimeError(
                "scaler.unscale_() was called on this optimizer, whose steps the scaler takes with its base "
                "optimizer; valid: scaler.unscale_(optimizer.base_optimizer), before second_step()"
            )
        self._opt_called = True  # where schedulers look whether a step came before theirs
        if scaler is None:
            self.base_optimizer.step()
        else:
            settling = self.base_optimizer.register_step_pre_hook(self._settle)
            try:
                scaler.step(self.base_optimizer)
            finally:
                settling.remove()
        self._progress.num_steps += 1
        if zero_grad:
            self._drop_gradients()

    @torch.no_grad()
    def restore(self) -> None:
        """Returns the weights to w, bit for bit; does nothing if they are there."""
        moved = self._progress.moved
        if moved:
            torch._foreach_copy_(moved, [self._backups[param] for param in moved])
            self._progress.moved = []

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
                    self._progress.loss_increase = closure().detach() - loss
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
        check_numbers({**self.defaults, **param_group})
        params = param_group["params"]
        if not isinstance(params, set):  # torch refuses those
            # Read twice, and it may be a generator.
            params = param_group["params"] = [params] if isinstance(params, Tensor) else list(params)
            new = [entry[1] if isinstance(entry, tuple) else entry for entry in params]
            check_params(new, (param for group in self.param_groups for param in group["params"]))
        if not self._is_built:
            super().add_param_group(param_group)
        else:
            for name, default in self.defaults.items():
                param_group.setdefault(name, default)
            self.base_optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, Friendly-SAM's running gradient, the step and the random filter's generator.

        Raises:
            RuntimeError: While the weights are perturbed.
        """
        self._check_at_rest("saving")
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        state = self.base_optimizer.state_dict()
        order = [param for group in self.param_groups for param in group["params"]]
        running = self._running.values
        state["ascent"] = {
            "running": {i: running[param] for i, param in enumerate(order) if param in running},
            "generators": {
                str(device): generator.get_state() for device, generator in self._generators.items()
            },
            "num_steps": self._progress.num_steps,
        }
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            state = post_hook(self, state) or state
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned, or a plain base optimizer's state.

        Raises:
            RuntimeError: While the weights are perturbed: a later `restore` would undo what was loaded.
        """
        self._check_at_rest("loading the weights and this")
        state = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state = hook(self, state) or state
        ascent = state.pop("ascent", {"running": {}, "generators": {}, "num_steps": 0})
        settings = [{name: group[name] for name in _SETTINGS} for group in self.param_groups]
        self.base_optimizer.load_state_dict(state)
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        for group, own in zip(self.param_groups, settings, strict=True):
            for name, value in own.items():
                group.setdefault(name, value)
        order = [param for group in self.param_groups for param in group["params"]]
        self._running = RunningGradients(
            {order[i]: value.to(order[i].device).clone() for i, value in ascent["running"].items()}
        )
        for device, generator_state in ascent["generators"].items():
            self._generator(torch.device(device)).set_state(generator_state.cpu())
        self._progress.num_steps = ascent["num_steps"]
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        self._check_at_rest("copying")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in _CARRIED}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._scratch, self._backups = {}, {}

    def _check_at_rest(self, before: str) -> None:
        if self.is_perturbed:
            raise RuntimeError(f"the weights are perturbed: call second_step() or restore() before {before}")

    def _drop_gradients(self) -> None:
        """As `zero_grad` does, which `torch.compile` does not trace."""
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    def _settle(self, base_optimizer: Optimizer, args: object, kwargs: object) -> None:
        """The base optimizer takes its step: unless it will skip it, so does the running gradient."""
        self._running.settle(getattr(base_optimizer, "found_inf", None))

    def _ascend(self, scaler: GradScaler | None) -> None:
        layers = [layer for group in self.param_groups for layer in self._layers(group, scaler)]
        if not layers:
            return
        home = layers[0].param.device
        moving = [layer for layer in layers if not layer.is_skipped]
        num_components = max(1, sum(layer.param.numel() for layer in layers))
        gradients = [layer.param.grad for layer in layers if layer.param.grad is not None]
        if not moving:
            nothing = torch.zeros((), device=home)
            self._progress.last = Observed(
                nothing, torch.zeros(0, dtype=torch.int64), nothing, total(norms(gradients, home))
            )
            return
        devices = {layer.param.device for layer in moving}
        if _is_host(devices):
            length, counts, dense_norms = host_ascent.ascend(moving, self._scratch, self._generator(_CPU))
            kept = torch.tensor(counts)
        elif triton_ascent.takes(moving):
            length, kept, dense_norms = triton_ascent.ascend(moving, home)
        else:
            draws = {layer.param.device for layer in moving if layer.rules.filter == "random"}
            generators = {device: self._generator(device) for device in draws}
            length, kept, dense_norms = device_ascent.ascend(moving, home, generators)
        self._progress.moved = [layer.param for layer in moving]
        is_plain = len(moving) == len(layers) and all(layer.direction is layer.param.grad for layer in layers)
        if is_plain and not any(layer.is_adaptive for layer in layers):
            grad_norm = total(dense_norms)  # of the gradients themselves: no second pass over them
        else:
            grad_norm = total(norms(gradients, home))
        self._progress.last = Observed(length, kept, kept.sum() / num_components, grad_norm)

    def _layers(self, group: dict[str, Any], scaler: GradScaler | None) -> list[Layer]:
        rules = Rules(**group["rules"])
        rho = -group["rho"] if group.get("maximize") else group["rho"]
        layers = []
        for param in group["params"]:
            direction = param.grad
            if direction is None:
                continue
            if direction.is_sparse:
                raise RuntimeError("sparse gradients have no per-layer statistics: use dense embeddings")
            if rules.ascent == "friendly_sam":
                direction = self._running.direction(param, direction, group["sigma"], group["lmbda"], scaler)
            backup = self._backups.get(param)
            if backup is None or not _is_alike(backup, param):
                self._backups[param] = backup = torch.empty_like(param, requires_grad=False)
            layers.append(Layer(param, backup, direction, rules, rho, group["q_p"], group["eta"]))
        return layers

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


_SETTINGS = ("rho", "q_p", "eta", "sigma", "lmbda", "rules")
# By copies, beside the groups, the defaults and the state.
_CARRIED = (
    "base_optimizer",
    "_is_built",
    "_interval",
    "_start_step",
    "_seed",
    "_generators",
    "_progress",
    "_running",
)


def _is_host(devices: set[torch.device]) -> bool:
    """Whether numbers may be read: on the CPU that costs nothing, but a compiler cannot trace it."""
    return devices == {_CPU} and not torch.compiler.is_compiling()


def _is_alike(backup: Tensor, param: Tensor) -> bool:
    """Whether the parameter still has the type, device and memory layout that it had."""
    return (backup.dtype, backup.device, backup.stride()) == (param.dtype, param.device, param.stride())


def _unsynchronised(model: nn.Module | None, is_wanted: bool) -> AbstractContextManager[Any]:
    no_sync = getattr(model, "no_sync", None) if is_wanted else None
    return nullcontext() if no_sync is None else no_sync()


def _frozen(model: nn.Module | None) -> AbstractContextManager[Any]:
    return nullcontext() if model is None else frozen_batch_norm(model)
