"""The optimizer: ascend to w + e, take the gradient there, return to w exactly, take the base step."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from zsharp.optim.ascent import ascent
from zsharp.optim.ascent.backups import Backups
from zsharp.optim.ascent.host_filter import Scratch
from zsharp.optim.ascent.layer import Observed
from zsharp.optim.batch_norm import frozen_batch_norm
from zsharp.optim.checks import (
    check_base,
    check_base_class,
    check_group,
    check_model,
    check_momentum,
    check_params,
    check_removed,
    check_scaler,
    check_settings,
    checked_loss,
    params_or_groups,
)
from zsharp.optim.methods import ONE_PASS, Rules
from zsharp.optim.state import Progress, scaled_step

Closure = Callable[[], Tensor]

_CLOSURE_HELP = (
    "step() needs a closure that zeroes the gradients, runs forward and backward and returns the loss; "
    "without one call first_step(zero_grad=True), a second forward and backward, "
    "then second_step(zero_grad=True)"
)
_PROGRESS = "ascent_progress"  # in the first group of a saved state
# What copies and pickles carry beside the groups, the defaults and the state.
_CARRIED = ("base_optimizer", "_is_built", "_interval", "_start_step", "_settings", "_progress")


class SharpnessAware(Optimizer):
    """Any ascent with any filter around any base optimizer.

    `SAM`, `ASAM`, `FriendlySAM` and `ZSharp` name the usual combinations, `make_optimizer` builds all of them.

    The parameter groups and the state are the base optimizer's own, so learning-rate schedulers, checkpoints
    and `add_param_group` work as they do without it. Each group has its own `rho`, `q_p`, `eta`, `sigma`,
    `lmbda` (floats, or 0-d tensors for rho and q_p), `ascent`, `filter`, `threshold`, `norm` and `one_dim` (names, see
    `Rules`). Parameters keep their storage. One copy of the weights, to restore them, is kept between steps.

    Special cases: `rho=0` is the base optimizer, bit for bit; with a global norm, `q_p=0` or `filter="none"`
    is the ascent without a filter.

    `msam` and `stale_sam` know e before the gradient: a step moves to w + e first and takes one gradient there.

    Parameters may be sharded by `torch.distributed.fsdp.fully_shard`: norms, means and percentiles are those of whole
    tensors, and all processes ascend along the averaged gradient.

    With `maximize=True` (a base optimizer's setting) the perturbation goes down the objective: towards worse, as
    when minimizing. A first gradient that is not finite makes the whole perturbation NaN, so that the second
    gradient is NaN too and a `GradScaler` skips the step.

    After the first of the two passes `last` holds what the ascent found. After `step`, `last_loss_increase` holds
    loss(w + e) - loss(w). Both stay on the device.

    Args:
        params: Parameters or groups, as for any `torch.optim` optimizer.
        base_optimizer: Its class, built on the same groups with `base_kwargs`.
        rules: The ascent and its filter, for groups that do not set their own.
        rho: Radius of the perturbation in the units of the weights, >= 0.
        q_p: Percentile in [0, 1) of the filter's scores below which components are dropped.
        eta: Added to abs(w) by ASAM, so that weights of zero move too.
        sigma: Share of the running gradient that Friendly-SAM subtracts.
        lmbda: Decay of Friendly-SAM's running gradient.
        interval: Ascend every so many steps; all other steps are the base optimizer's.
        start_step: Number of steps before the first ascent.
        seed: Seed of the random filter.
        base_kwargs: `lr`, `momentum`, `weight_decay`, ... of the base optimizer.

    Raises:
        ValueError: If a setting is not valid, the base optimizer has one of the same name, or a parameter's memory
            has gaps or overlaps another's.
        TypeError: If an argument is of the wrong type, the base optimizer's steps need a closure, or a parameter is
            complex, or sharded otherwise than `fully_shard` (FSDP2) does.
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
        check_base_class(base_optimizer)
        whole_numbers = {"interval": interval, "start_step": start_step, "seed": seed}
        for name, number in whole_numbers.items():
            if not isinstance(number, int):
                raise TypeError(f"{name} is {number!r}; valid: a whole number")
        if interval < 1 or start_step < 0:
            raise ValueError(
                f"interval is {interval}, start_step {start_step}; valid: at least 1, at least 0"
            )
        numbers = {"rho": rho, "q_p": q_p, "eta": eta, "sigma": sigma, "lmbda": lmbda}
        defaults = {**numbers, **asdict(rules)}
        check_settings(defaults)
        check_removed(base_kwargs)
        self._is_built = False
        super().__init__(params_or_groups(params), defaults)
        self.base_optimizer = base_optimizer(self.param_groups, **base_kwargs)
        check_base(self.base_optimizer, defaults)
        for group in self.base_optimizer.param_groups:
            check_momentum(group)
        self._share()
        self.defaults = {**self.base_optimizer.defaults, **defaults}
        self._is_built = True
        self._interval, self._start_step = interval, start_step
        self._settings = tuple(defaults)
        self._scratch: Scratch = {}
        self._backups = Backups()
        self._progress = Progress(seed)

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
        """loss(w + e) - loss(w) of the last `step` that ran two passes, a 0-d tensor."""
        return self._progress.loss_increase

    @property
    def num_steps(self) -> int:
        """Steps taken. Set it after replaying a CUDA graph: Python does not see those steps."""
        return self._progress.num_steps

    @num_steps.setter
    def num_steps(self, num_steps: int) -> None:
        self._progress.num_steps = num_steps

    @property
    def generators(self) -> list[torch.Generator]:
        """The random filter's generators; register them with a CUDA graph that captures steps."""
        groups = [group for group in self.param_groups if group["filter"] == "random"]
        devices = dict.fromkeys(param.device for group in groups for param in group["params"])
        return [self._progress.generator(device) for device in devices]

    @property
    def running_gradients(self) -> list[Tensor]:
        """The gradients that Friendly-SAM and `stale_sam` remember, to be averaged in place where processes differ."""
        return list(self._progress.running.values.values())

    @property
    def is_ascent_due(self) -> bool:
        """Whether the next step ascends; always, unless `interval` or `start_step` say otherwise."""
        since_start = self._progress.num_steps - self._start_step
        return since_start >= 0 and since_start % self._interval == 0

    @property
    def is_one_pass(self) -> bool:
        """Whether a step takes one gradient, at w + e: call `first_step` before it, not after one at w."""
        ascents = {group["ascent"] for group in self.param_groups} - {"none"}
        return bool(ascents) and ascents <= set(ONE_PASS)

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
                accumulate, and returns the loss. Called twice, or once where no ascent is due or `is_one_pass`.
            model: Its batch-norm statistics are left alone in the second pass. If it is a
                `DistributedDataParallel`, each process ascends along its own gradients (m-sharpness).
            scaler: If the closure scales its loss; see `second_step`.
            sync_ascent: Average the gradients of the first pass over processes too.

        Returns:
            The loss at w, detached; with `is_one_pass` the loss at w + e, the only one.

        Raises:
            RuntimeError: If there is no closure; the message says what to do.
            TypeError: If the closure does not return the loss.
        """
        if closure is None:
            if self._is_initialised_by_others():
                self.base_optimizer.step()
                return torch.zeros(())
            raise RuntimeError(_CLOSURE_HELP)
        check_model(model)
        is_due = self.is_ascent_due
        if is_due and self.is_one_pass:
            loss = self._ascended(closure)
            self.second_step(scaler=scaler)
            return loss
        with torch.enable_grad(), _unsynchronised(model) if is_due and not sync_ascent else nullcontext():
            loss = checked_loss(closure)
        if is_due:
            self._progress.loss_increase = self._ascended(closure, model, scaler) - loss
        self.second_step(scaler=scaler)
        return loss

    @torch.no_grad()
    def step_groups(self, closures: Sequence[Closure], *, model: nn.Module | None = None) -> Tensor:
        """Takes one step on several groups of examples, each with its own ascent (m-sharpness).

        The descent gradient is the mean of those at the groups' own perturbed points: what as many processes
        under `DistributedDataParallel` would compute.

        Args:
            closures: One for each group, as for `step`.
            model: As for `step`; batch norm sees each group once.

        Returns:
            The mean of the losses at w, detached.
        """
        sums: dict[Tensor, Tensor] = {}
        losses = []
        is_due = self.is_ascent_due
        for closure in closures:
            if is_due and self.is_one_pass:
                losses.append(self._ascended(closure))
            else:
                with torch.enable_grad():
                    losses.append(checked_loss(closure))
                if is_due:
                    self._ascended(closure, model)
            self.restore()
            for param in self._params():
                if param.grad is not None:
                    # A copy, because the next closure writes into `grad`.
                    sums[param] = param.grad.clone() if param not in sums else sums[param].add_(param.grad)
        for param, gradient in sums.items():
            param.grad = gradient.div_(len(closures))
        self.second_step()
        return torch.stack(losses).mean()

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """Moves the weights from w to w + e, using the gradients at w; does nothing where no ascent is due.

        With `is_one_pass` no gradients are needed: call this first, then forward and backward once.

        Args:
            zero_grad: Zero the gradients afterwards.
            scaler: The scaler of the loss. Only Friendly-SAM needs it: the other perturbations do not depend on
                the scale of the gradients.

        Raises:
            RuntimeError: If the weights are perturbed already.
        """
        self._check_at_rest("another first_step()")
        self._progress.running.waiting.clear()
        if self.is_ascent_due:
            ascent.ascend(self.param_groups, self.state, self._progress, self._backups, self._scratch, scaler)
        if zero_grad:
            self._drop_gradients()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """Returns the weights to w exactly, then lets the base optimizer step with the gradients at w + e.

        Args:
            zero_grad: Zero the gradients afterwards.
            scaler: Takes the base step through it: unscales once, and changes nothing if a gradient
                overflowed. Call its `update` yourself, once a step. To clip, call its `unscale_` before, on
                `base_optimizer`.

        Raises:
            RuntimeError: If `unscale_` was called on this optimizer: the gradients would be divided twice.
        """
        self.restore()
        if scaler is not None:
            check_scaler(scaler, self)
        for group in self.param_groups:
            if group["ascent"] == "stale_sam":
                for param in group["params"]:
                    if param.grad is not None:
                        self._progress.running.remember(param, param.grad, scaler)
        self._opt_called = True  # schedulers look here whether a step came before theirs
        if scaler is None:
            self.base_optimizer.step()
        else:
            scaled_step(self.base_optimizer, scaler, self._progress.running)
        self._progress.num_steps += 1
        if zero_grad:
            self._drop_gradients()

    @torch.no_grad()
    def restore(self) -> None:
        """Returns the weights to w, bit for bit; does nothing if they are there."""
        if self._progress.moved:
            self._backups.restore(self._progress.moved)
            self._progress.moved = []

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to this and the base optimizer; missing settings take their defaults."""
        check_group(param_group)
        check_settings({**self.defaults, **param_group})
        params = param_group["params"]
        if not isinstance(params, set):  # torch refuses sets, with its own message
            # A list, because it is read twice and may be a generator.
            params = param_group["params"] = [params] if isinstance(params, Tensor) else list(params)
            new = [entry[1] if isinstance(entry, tuple) else entry for entry in params]
            check_params(new, self._params())
        if not self._is_built:
            super().add_param_group(param_group)
        else:
            check_momentum({**self.defaults, **param_group})
            for name, default in self.defaults.items():
                param_group.setdefault(name, default)
            self.base_optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Returns the base optimizer's state with one more entry, `ascent`.

        That entry holds the gradients that Friendly-SAM and `stale_sam` remember, the random filter's generators and
        the number of steps.

        Raises:
            RuntimeError: While the weights are perturbed.
        """
        self._check_at_rest("saving")
        # This method replaces torch's, which would run the wrapper's hooks.
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        state = self.base_optimizer.state_dict()
        progress = state["ascent"] = self._progress.state_dict(self._params())
        # torch.distributed.checkpoint keeps only the state of parameters and their groups, with names as keys.
        running = {str(i): gradient for i, gradient in progress["running"].items()}
        state["param_groups"][0][_PROGRESS] = {**progress, "running": running}
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            state = post_hook(self, state) or state
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned, or a plain base optimizer's state.

        Settings that the state lacks are kept; progress that it lacks is reset.

        Raises:
            RuntimeError: While the weights are perturbed: a later `restore` would undo what was loaded.
        """
        self._check_at_rest("loading the weights and this")
        state = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state = hook(self, state) or state
        groups = [dict(group) for group in state["param_groups"]]
        in_groups = [group.pop(_PROGRESS, {}) for group in groups]
        state["param_groups"] = groups
        progress = state.pop("ascent", None) or (in_groups[0] if in_groups else {})
        before = [{name: group[name] for name in self._settings} for group in self.param_groups]
        self.base_optimizer.load_state_dict(state)
        self._share()
        for group, settings in zip(self.param_groups, before, strict=True):
            for name, value in settings.items():
                group.setdefault(name, value)
        self._progress.load_state_dict(progress, self._params())
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        self._check_at_rest("copying")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in _CARRIED}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._scratch, self._backups = {}, Backups()

    def _ascended(
        self, closure: Closure, model: nn.Module | None = None, scaler: GradScaler | None = None
    ) -> Tensor:
        """Moves to w + e and returns the loss there, detached; batch norm of a model does not count the batch again."""
        self.first_step(zero_grad=True, scaler=scaler)
        try:
            with torch.enable_grad(), nullcontext() if model is None else frozen_batch_norm(model):
                return checked_loss(closure)
        except BaseException:
            self.restore()  # or the caller would go on with w + e
            raise

    def _is_initialised_by_others(self) -> bool:
        """Whether this step is one of `torch.distributed.checkpoint`, which only wants the state to be there.

        It sets learning rates and gradients to zero, so that the weights stay.
        """
        gradients = [param.grad for param in self._params() if param.grad is not None]
        is_still = all(group.get("lr", 0) == 0 for group in self.param_groups)
        if not gradients or not is_still or any(bool(gradient.any()) for gradient in gradients):
            return False
        if any(group["ascent"] in ("friendly_sam", "stale_sam") for group in self.param_groups):
            self._progress.running.make_room(self._params())
        for device in {param.device for param in self._params()}:
            self._progress.generator(device)
        return True

    def _share(self) -> None:
        """Uses the base optimizer's groups and state: the same objects, so that neither side goes stale."""
        self.param_groups, self.state = self.base_optimizer.param_groups, self.base_optimizer.state

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def _check_at_rest(self, before: str) -> None:
        if self.is_perturbed:
            raise RuntimeError(f"the weights are perturbed: call second_step() or restore() before {before}")

    def _drop_gradients(self) -> None:
        """Does what `zero_grad` does; `torch.compile` cannot trace that."""
        for param in self._params():
            param.grad = None


def _unsynchronised(model: nn.Module | None) -> AbstractContextManager[Any]:
    """Keeps `DistributedDataParallel` from averaging gradients; other models have no `no_sync`."""
    no_sync = getattr(model, "no_sync", None)
    return nullcontext() if no_sync is None else no_sync()
