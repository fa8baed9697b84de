"""One training run as an object that advances an epoch at a time."""

import copy
import logging
import math
import os
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zsharp.data import prepare
from zsharp.data.training_data import TrainingData, load_training_data
from zsharp.models import ARCHITECTURES
from zsharp.models.weights import Loaded, file_checksum, load_weights
from zsharp.optim import SharpnessAware, find_method, frozen_batch_norm
from zsharp.optim.ascent.layer import local_part
from zsharp.training.build_optimizer import DEFAULT_LR, build_optimizer, freeze
from zsharp.training.cast_weights import CastWeights
from zsharp.training.checkpoint import read_checkpoint, rng_state, set_rng_state, write_checkpoint
from zsharp.training.compile import check_compiler, compile_model, compiles
from zsharp.training.deterministic import repeatable
from zsharp.training.device import choose_device, device_name
from zsharp.training.epoch_row import MEASURES, EpochRow, metric_of
from zsharp.training.image_classification import ImageClassification
from zsharp.training.nested import num_examples, to_device
from zsharp.training.peak_memory import peak_memory_bytes, reset_peak_memory
from zsharp.training.precision import uses_bf16
from zsharp.training.processes import (
    Loss,
    Processes,
    as_sharded,
    gathered,
    shard,
    sharded_state,
    statistics_of,
    unsharded,
)
from zsharp.training.schedule import learning_rate_factors
from zsharp.training.spec import TrialSpec, check_spec
from zsharp.training.step_graph import CannotReplayError, StepGraph, unchanged
from zsharp.training.task import Batch, Task, as_numbers, build_task, check_loss
from zsharp.user_code import UserCodeError, load_callable

_logger = logging.getLogger(__name__)

_ALONE = Processes()

_OBSERVED = ("loss", "grad_norm", "perturbation_norm", "kept_fraction")
"""What is averaged over the steps of an epoch, before the task's own metrics."""

_TOTALS = ("gradient_evaluations", "num_examples", "train_s", "wall_s")
"""What a checkpoint counts over the epochs of a run."""

_WARM_UP_STEPS = 3  # the first makes the optimizer's state, the second may capture a CUDA graph


class Training:
    """A run of `spec`, from its first step or from a checkpoint.

    Deterministic in the spec on one CPU thread, and on one GPU: all randomness comes from generators seeded by
    `train.seed`. Inside a step nothing is read back from the device, shapes are static, and lr, rho and q_p are
    0-d tensors on the device; on a GPU it is captured in a CUDA graph where the task allows that.

    Args:
        data: The training set on the spec's device, for a spec without a task; loaded if not given.
        task: The class or function that makes the task, instead of the one that `spec.task` names.
        processes: Which of the processes that train this run together this is. All build, train, save, load and test at
            the same time; each returns the same rows, and the first one writes files.
        use_graph: Whether steps on a GPU are replayed from a CUDA graph; None asks ZSHARP_CUDA_GRAPHS, 1 unless set.

    Attributes:
        task: What is trained.
        epoch: Epochs trained.
        last_report: The last epoch's row, also after `load`; None before the first.
        loaded: What became of the tensors of the file `init.weights`; None without one.

    Raises:
        ValueError: If the spec does not fit the data, or names something unknown; `UserCodeError` if code of the
            user's own cannot be used.
    """

    def __init__(
        self,
        spec: TrialSpec,
        data: TrainingData | None = None,
        *,
        task: Callable[..., Any] | None = None,
        processes: Processes = _ALONE,
        use_graph: bool | None = None,
    ) -> None:
        self._started = time.perf_counter()
        check_spec(spec)
        train = spec.train
        self.spec = spec
        self.device = choose_device(spec.device)
        self.method = find_method(spec.method)
        self._make_task = task
        self._processes = processes
        reset_peak_memory(self.device)

        self._seed_host(0)
        torch.manual_seed(train.seed)
        self.task = self._build_task(data)
        self._label = spec.task or spec.architecture
        is_built_in = isinstance(self.task, ImageClassification)
        image_shape = self.data.info.image_shape if is_built_in else None
        self._bf16 = uses_bf16(train.precision, self.device, image_shape, spec.architecture)
        self.model = self.task.model
        # What checkpoints belong to: a weight file by its content, wherever it lies.
        self._identity = spec
        self.loaded: Loaded | None = None
        if spec.init.weights is not None:
            self.loaded = load_weights(self.model, spec.init.weights)
            checksum = file_checksum(spec.init.weights)
            self._identity = replace(spec, init=replace(spec.init, weights=checksum))
        self._is_compiled = compiles(
            train, self.task.steps_per_epoch, self.method.gradient_evaluations_per_step
        )
        self._identity = _with_compile(self._identity, self._is_compiled)
        if self._is_compiled:
            check_compiler()
            compile_model(self.model)
        freeze(self.model, train)
        self._is_sharded = processes.size > 1 and train.sharding == "full"
        if self._is_sharded:
            shard(self.model)
        # Code of the user's own may read weights that are float32 there; the compiler fuses casts by itself.
        casts_at_once = self._bf16 and is_built_in and spec.architecture in ARCHITECTURES
        if casts_at_once and processes.size == 1 and not self._is_compiled:
            self._cast_weights: Callable[[], AbstractContextManager[None]] = CastWeights(self.model)
        else:
            self._cast_weights = nullcontext
        self._loss = Loss(self.task.loss, self.model, processes, may_leave_out=not is_built_in)
        self.optimizer = build_optimizer(self.model, spec, self.device)
        self._params = [param for param in self.model.parameters() if param.requires_grad]
        # Of sharded parameters, this process's part.
        self._average = [weights.clone() for weights in self._weights()] if train.ema_decay else []
        steps_per_epoch = self.task.steps_per_epoch
        factors = learning_rate_factors(
            train.schedule, train.epochs * steps_per_epoch, steps_per_epoch, train.warmup
        )
        self._rates = factors * spec.params.get("lr", DEFAULT_LR)
        # A table on the device, so that setting the rate of a step needs no copy from the host.
        self._device_rates = self._rates.float().to(self.device)
        self._metric_names: tuple[str, ...] | None = None  # of the task, known after its first loss
        # Summed on the device, always in this memory, and read by the host once an epoch.
        self._sums = torch.zeros(len(_OBSERVED), dtype=torch.float64, device=self.device)
        if use_graph is None:
            use_graph = os.environ.get("ZSHARP_CUDA_GRAPHS", "1") != "0"
        is_allowed = getattr(self.task, "runs_on_device", True)
        is_allowed = is_allowed and processes.size == 1
        self._use_graph = use_graph and self.device.type == "cuda" and is_allowed
        self._graph: StepGraph | None = None
        self.epoch = 0
        self.last_report: EpochRow | None = None
        self._gradient_evaluations = 0
        self._num_examples = 0
        self._train_s = 0.0
        self._wall_s_before = 0.0

    def _build_task(self, data: TrainingData | None) -> Task:
        spec = self.spec
        if self._make_task is None and spec.task is None:
            if data is None:
                prepared = prepare(**spec.data.source, code=spec.code)
                data = load_training_data(prepared, **spec.data.split, device=self.device)
            return ImageClassification(spec, data, self._processes)
        make = self._make_task or load_callable(spec.task or "", spec.code)
        task = build_task(make, spec, self.device)
        task.model.to(self.device)
        return task

    @property
    def data(self) -> TrainingData:
        """The training set.

        Raises:
            AttributeError: If the task is the user's own.
        """
        if not isinstance(self.task, ImageClassification):
            raise AttributeError(f"a run of the task {self._label} has no data set of ours")
        return self.task.data

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its full number of epochs."""
        return self.epoch >= self.spec.train.epochs

    @property
    def precision(self) -> str:
        """Number format of the forward pass: `bf16` or `fp32`."""
        return "bf16" if self._bf16 else "fp32"

    @property
    def num_parameters(self) -> int:
        """Number of trained components."""
        return sum(param.numel() for param in self._params)

    def run_epoch(self) -> EpochRow:
        """Trains one epoch, validates, and returns what was measured.

        Raises:
            UserCodeError: If the user's task does not do what tasks do; what it raises itself passes unchanged.
        """
        steps = self.epoch_in_steps()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                row: EpochRow = end.value
                return row

    def epoch_in_steps(self) -> Generator[None, None, EpochRow]:
        """Does what `run_epoch` does, but yields after each step, so that others can take theirs in between.

        In between, the global generators have to stay as they are: see `zsharp.training.lanes`.
        """
        assert not self.is_finished
        started = time.perf_counter()
        num_steps = self.task.steps_per_epoch
        self._seed_host(self.epoch + 1)
        self._to_train_mode()
        self._sums.zero_()
        with repeatable(self.device):
            batches = self.task.batches(self.epoch)
        yield from self._take_steps(batches, self._device_rates[self.epoch * num_steps :][:num_steps])
        names = (*_OBSERVED, *(self._metric_names or ()))
        sums = self._processes.sum(self._sums) / self._processes.size
        means = dict(zip(names, (sums / num_steps).tolist(), strict=True))
        self._agree()
        epoch_s = time.perf_counter() - started
        self.epoch += 1
        self._train_s += epoch_s
        self._gradient_evaluations += num_steps * self.method.gradient_evaluations_per_step
        measured: dict[str, float] = self.validate()
        is_sharp = isinstance(self.optimizer, SharpnessAware)
        row: EpochRow = {
            "epoch": self.epoch,
            "train_loss": means["loss"],
            "train_accuracy": means.get("accuracy"),
            "val_loss": measured.get("val_loss"),
            "val_accuracy": measured.get("val_accuracy"),
            "lr": float(self._rates[self.epoch * num_steps - 1]),
            "grad_norm": means["grad_norm"],
            "perturbation_norm": means["perturbation_norm"] if is_sharp else None,
            "kept_fraction": means["kept_fraction"] if is_sharp else None,
            "epoch_s": epoch_s,
            "gradient_evaluations": self._gradient_evaluations,
            "train_s": self._train_s,
            "wall_s": self._wall_s_before + time.perf_counter() - self._started,
            "images_per_s": self._num_examples / self._train_s,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "num_parameters": self.num_parameters,
            "device": device_name(self.device),
            "diverged": 0,
            "metrics": {name: value for name, value in measured.items() if name not in MEASURES},
        }
        if metric_of(row, self.spec.metric) is None and not isinstance(self.task, ImageClassification):
            raise UserCodeError(
                f"{self._label}: the job's metric is {self.spec.metric!r}, which neither `validate` nor "
                "`train_metrics` returned"
            )
        row["diverged"] = int(not self._is_sound(row))
        self.last_report = self._processes.same(row)
        return self.last_report

    def _agree(self) -> None:
        """Averages what each process has of its own examples: batch norm's statistics, Friendly-SAM's gradients.

        All processes are then in one state, which a checkpoint holds and any number of them can go on from.
        """
        running = self.optimizer.running_gradients if isinstance(self.optimizer, SharpnessAware) else []
        self._processes.average_([*statistics_of(self.model), *([] if self._is_sharded else running)])

    def _weights(self) -> list[Tensor]:
        return [local_part(param.detach()) for param in self._params]

    def _is_sound(self, row: EpochRow) -> bool:
        """Whether the losses and the metric are finite; the last step shows in the validation or in the weights."""
        if row["val_loss"] is None and not row["metrics"]:
            after = float(unsharded(nn.utils.get_total_norm(self._params)))
        else:
            after = sum(
                value for value in (row["val_loss"], metric_of(row, self.spec.metric)) if value is not None
            )
        return math.isfinite(row["train_loss"] + after)

    def take_first_step(self) -> None:
        """Takes one step of the first epoch, to see whether it can be taken; the run cannot be used afterwards."""
        self._to_train_mode()
        batch = next(iter(self.task.batches(0)), _NO_BATCH)
        if batch is _NO_BATCH:
            raise self._wrong_number("0")
        with repeatable(self.device):
            self._take_step(self._device_rates[0], to_device(batch, self.device))

    def time_steps(self, limit_s: float) -> float:
        """Returns the seconds of a step, the mean of those after the first few; the run is of no use afterwards.

        Args:
            limit_s: How long to take steps; two are taken in any case, unless they take many times as long.
        """
        enough = 2 * _WARM_UP_STEPS if self.device.type == "cuda" else 2
        seconds: list[float] = []
        batches: Iterator[Batch] = iter(())
        started_s = time.perf_counter()
        self._to_train_mode()
        with repeatable(self.device):
            while True:
                started = time.perf_counter()
                batch = next(batches, _NO_BATCH)
                if batch is _NO_BATCH:
                    batches = iter(self.task.batches(0))
                    batch = next(batches, _NO_BATCH)
                if batch is _NO_BATCH:
                    raise self._wrong_number("0")
                self._take_step(self._device_rates[0], to_device(batch, self.device))
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                seconds.append(time.perf_counter() - started)
                taken_s = time.perf_counter() - started_s
                if taken_s > limit_s * (1 if len(seconds) >= enough else 4):
                    break
        later = seconds[_WARM_UP_STEPS:] or seconds[-1:]
        return sum(later) / len(later)

    def validate(self) -> dict[str, float]:
        """Returns what the task measures on its validation data, with averaged weights if `ema_decay` is set.

        Raises:
            UserCodeError: If what the user's task returns is no mapping of names to numbers, or lacks the metric.
        """
        with self._evaluating():
            measured = self.task.validate()
        if isinstance(self.task, ImageClassification):
            return dict(measured)
        numbers = as_numbers(measured, f"{self._label}: validate")
        if self.spec.metric not in numbers and not self.spec.metric.startswith("train_"):
            raise UserCodeError(
                f"{self._label}: validate returned {', '.join(numbers) or 'nothing'}; the job's metric is "
                f"{self.spec.metric!r}, so return that too, or set `metric`"
            )
        return numbers

    def test(self) -> dict[str, float] | None:
        """Returns what the task measures on its test data; None if it has none. A search must not call this."""
        if not hasattr(self.task, "test"):
            return None
        with self._evaluating():
            measured = self.task.test()
        return as_numbers(measured, f"{self._label}: test")

    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Returns the mean cross-entropy and the accuracy on uint8 images [N, C, H, W] and labels [N].

        Uses the averaged weights if `ema_decay` is set, and batch norm's running statistics.
        """
        assert isinstance(self.task, ImageClassification)
        with self._evaluating():
            return self.task.evaluate(images, labels)

    def validated_model(self) -> nn.Module:
        """Returns a copy of the model in eval mode, with the weights that `validate` uses."""
        with self._evaluating():
            return copy.deepcopy(self.model)

    def save(self, path: Path) -> None:
        """Writes everything that the rest of the run depends on, atomically."""
        state = {
            "task": self.task.state_dict() if hasattr(self.task, "state_dict") else {},
            "model": unsharded(dict(self.model.state_dict())),
            "optimizer": unsharded(self.optimizer.state_dict()),
            "average": [gathered(value, p) for value, p in zip(self._average, self._params, strict=False)],
            "rng": rng_state(self.device),
            "epoch": self.epoch,
            "last_report": self.last_report,
            "gradient_evaluations": self._gradient_evaluations,
            "num_examples": self._num_examples,
            "train_s": self._train_s,
            "wall_s": self._wall_s_before + time.perf_counter() - self._started,
        }
        if self._processes.rank == 0:
            write_checkpoint(path, self._identity, state)

    def load(self, path: Path, trunk: TrialSpec | None = None) -> None:
        """Continues from what `save` wrote; on one device the rest is bit-identical to an uninterrupted run.

        For a task of the user's own that holds as far as its state is in its model, in its `state_dict`, in the
        generators of torch, NumPy and Python, or follows from (seed, epoch).

        Args:
            trunk: The run that wrote the file, if it is another one, which trained with the base optimizer. This one
                takes its weights, its base optimizer's state, its epoch and its generators; settings, such as the
                weight decay, and the state of the ascent are its own. So are its totals, which start at 0.

        Raises:
            ValueError: If the file is damaged or belongs to another spec or other data.
        """
        written_by = self._identity if trunk is None else replace(trunk, init=self._identity.init)
        state: dict[str, Any] = read_checkpoint(path, written_by, self.device)
        if trunk is not None:
            # Groups of the trunk's would bring its weight decay and momentum with them.
            state["optimizer"] = unsharded(self.optimizer.state_dict()) | {
                "state": state["optimizer"]["state"]
            }
            state |= {"last_report": None, **dict.fromkeys(_TOTALS, 0)}
        self._graph = None  # its tensors are replaced
        try:
            if hasattr(self.task, "load_state_dict"):
                # Version 0.1 kept what is the task's beside the rest.
                self.task.load_state_dict(state.get("task", state))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        like = self.model.state_dict()
        self.model.load_state_dict(
            {name: as_sharded(value, like.get(name)) for name, value in state["model"].items()}
        )
        self.optimizer.load_state_dict(sharded_state(state["optimizer"], self.optimizer))
        for group in self.optimizer.param_groups:
            if (
                not self._is_sharded
            ):  # as `build_optimizer` has it, whichever way the checkpoint's run was trained
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)
        self._average = [
            local_part(as_sharded(value, param)).clone()
            for value, param in zip(state["average"], self._params, strict=bool(state["average"]))
        ]
        set_rng_state(state["rng"], self.device)
        self.epoch = state["epoch"]
        self.last_report = state["last_report"]
        if self.last_report is not None:
            self.last_report.setdefault("metrics", {})
        self._gradient_evaluations = state["gradient_evaluations"]
        steps = self.epoch * self.task.steps_per_epoch
        self._num_examples = state.get("num_examples", steps * self.spec.train.batch_size)
        self._train_s = state["train_s"]
        self._wall_s_before = state["wall_s"]

    def _seed_host(self, epoch: int) -> None:
        """Seeds Python's and NumPy's generators for one epoch, for code of the user's that draws from them.

        Checkpoints hold torch's own; these two would be lost with the process.
        """
        if self._make_task is None and self.spec.task is None:
            return
        seed = (self.spec.train.seed * 1_000_003 + epoch) % 2**32
        random.seed(seed)
        np.random.seed(seed)

    def _to_train_mode(self) -> None:
        """Sets training mode; frozen layers with statistics keep theirs."""
        self.model.train()
        patterns = self.spec.train.freeze
        if not patterns:
            return
        for name, module in self.model.named_modules():
            buffers = [key for key, _ in module.named_buffers(name, recurse=False)]
            params = list(module.parameters(recurse=False))
            if not buffers:
                continue
            # Layers without parameters, such as batch norm without scales, go by the names of their statistics.
            is_frozen = (
                not any(param.requires_grad for param in params)
                if params
                else all(any(fnmatchcase(key, pattern) for pattern in patterns) for key in buffers)
            )
            module.training = not is_frozen  # not `train`, which reaches the layers inside

    def _take_steps(self, batches: Any, rates: Tensor) -> Iterator[None]:
        """One step for each batch, at the rate beside it; yields after each."""
        iterator, num_taken = iter(batches), 0
        for rate in rates:
            with repeatable(self.device):  # not around the loop: others step in between
                batch = next(iterator, _NO_BATCH)
                if batch is _NO_BATCH:
                    raise self._wrong_number(str(num_taken))
                self._take_step(rate, to_device(batch, self.device))
            num_taken += 1
            yield
        if next(iterator, _NO_BATCH) is not _NO_BATCH:
            raise self._wrong_number(f"more than {num_taken}")

    def _wrong_number(self, given: str) -> UserCodeError:
        return UserCodeError(
            f"{self._label}: batches({self.epoch}) gave {given} batches; steps_per_epoch is {self.task.steps_per_epoch}"
        )

    def _take_step(self, rate: Tensor, batch: Batch) -> None:
        self._num_examples += num_examples(batch) or self.spec.train.batch_size
        # The first step of all makes the optimizer's state.
        if not self._use_graph or self._metric_names is None:
            self._step(rate, batch)
            return
        try:
            if self._graph is None:
                self._graph = self._capture(batch, rate)
            self._graph.run(batch, rate)
        except CannotReplayError as error:
            if error.is_final:
                self._use_graph = False
                _logger.warning("%s: steps run without a CUDA graph, which is slower: %s", self._label, error)
            self._step(rate, batch)
            return
        if isinstance(self.optimizer, SharpnessAware):
            self.optimizer.num_steps += 1

    def _capture(self, batch: Batch, rate: Tensor) -> StepGraph:
        generators, before = [*getattr(self.task, "generators", [])], 0
        if isinstance(self.optimizer, SharpnessAware):
            generators += self.optimizer.generators
            before = self.optimizer.num_steps
        graph = StepGraph(self._step, batch, rate, generators, self._unchanged)
        if isinstance(self.optimizer, SharpnessAware):
            self.optimizer.num_steps = before
        return graph

    def _unchanged(self, generators: Sequence[torch.Generator]) -> AbstractContextManager[None]:
        def state() -> list[object]:
            return [self.model.state_dict(), self.optimizer.state_dict(), self._average, self._sums]

        return unchanged(state, generators, self.device)

    def _step(self, rate: Tensor, batch: Batch) -> None:
        """Takes one step on a batch of the task as it came."""
        own_prepare = getattr(self.task, "prepare", None)
        if own_prepare is not None:
            batch = own_prepare(batch)
        batch, weight = self._part(batch)
        for group in self.optimizer.param_groups:
            scale = group.get("lr_scale", 1.0)  # checkpoints of version 0.1 have none
            if self._is_sharded:
                group["lr"] = float(rate) * scale
            else:
                group["lr"].copy_(rate if scale == 1 else rate * scale)
        self.optimizer.zero_grad()
        sharp = self.optimizer if isinstance(self.optimizer, SharpnessAware) else None
        ascends_first = sharp is not None and sharp.is_one_pass
        has_two_passes = sharp is not None and not ascends_first
        if sharp is not None and ascends_first:
            sharp.first_step()
        with self._loss.alone() if has_two_passes and not self.spec.train.sync_ascent else nullcontext():
            loss = self._forward_backward(batch, weight)
        metrics = self._read_metrics()
        if sharp is not None and has_two_passes:
            sharp.first_step(zero_grad=True)
            with frozen_batch_norm(self.model):
                self._forward_backward(batch, weight)
            ascent = sharp.last
            assert ascent is not None
            observed = (ascent.grad_norm, ascent.norm, ascent.kept_fraction)
            self._clip()
            sharp.second_step()
        else:
            norm = unsharded(
                nn.utils.get_total_norm([param.grad for param in self._params if param.grad is not None])
            )
            observed = (norm, torch.zeros_like(norm), torch.zeros_like(norm))
            self._clip()
            if sharp is None:
                self.optimizer.step()
            else:
                assert sharp.last is not None
                observed = (norm, sharp.last.norm, sharp.last.kept_fraction)
                sharp.second_step()
        if self._average:
            assert self.spec.train.ema_decay is not None
            torch._foreach_lerp_(self._average, self._weights(), 1 - self.spec.train.ema_decay)
        self._sums += torch.stack([value.double() for value in (loss, *observed, *metrics)])

    def _read_metrics(self) -> list[Tensor]:
        """Returns the task's own metrics of the last loss; makes room for them in the sums the first time."""
        read = getattr(self.task, "train_metrics", None)
        metrics: Mapping[str, Tensor] = {} if read is None else read()
        if self._metric_names is None:
            self._metric_names = tuple(metrics)
            self._sums = torch.cat([self._sums, self._sums.new_zeros(len(metrics))])
        return [metrics[name].detach() for name in self._metric_names]

    def _part(self, batch: Batch) -> tuple[Batch, float]:
        try:
            return self._processes.part(batch)
        except ValueError as error:
            raise UserCodeError(f"{self._label}: {error}") from None

    def _forward_backward(self, batch: Batch, weight: float) -> Tensor:
        """Returns the loss of this process's examples, times `weight`."""
        with self._autocast(), self._cast_weights():
            loss = self._loss(batch)
        if self._metric_names is None:
            check_loss(loss, self._label, self.device)
        if weight != 1:
            loss = loss * weight
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _clip(self) -> None:
        if self.spec.train.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._params, self.spec.train.clip_grad_norm)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Eval mode, no gradients, and the averaged weights in place of the trained ones."""
        self.model.eval()
        params = self._weights() if self._average else []
        trained = [param.clone() for param in params]
        try:
            # One pass over the validation images does not earn another compilation.
            eagerly = torch.compiler.set_stance("force_eager") if self._is_compiled else nullcontext()
            with eagerly, torch.no_grad(), self._autocast():
                for param, average in zip(params, self._average, strict=True):
                    param.copy_(average)
                yield
        finally:
            for param, value in zip(params, trained, strict=True):
                param.copy_(value)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else nullcontext()


def _with_compile(spec: TrialSpec, is_compiled: bool) -> TrialSpec:
    """What checkpoints belong to: whatever `auto` comes to, since compiled sums are rounded otherwise."""
    return replace(spec, train=replace(spec.train, compile="true" if is_compiled else "false"))


_NO_BATCH = object()
