"""One training run as an object that advances an epoch at a time."""

import math
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from zsharp.data.training_data import TrainingData, load_training_data
from zsharp.models import ARCHITECTURES, build_model
from zsharp.optim import SharpnessAware, find_method, frozen_batch_norm
from zsharp.training.batches import Batches, resolve_augmentation
from zsharp.training.build_optimizer import DEFAULT_LR, build_optimizer
from zsharp.training.checkpoint import read_checkpoint, rng_state, set_rng_state, write_checkpoint
from zsharp.training.deterministic import repeatable
from zsharp.training.device import choose_device, device_name
from zsharp.training.epoch_row import EpochRow
from zsharp.training.peak_memory import peak_memory_bytes, reset_peak_memory
from zsharp.training.precision import memory_format, uses_bf16
from zsharp.training.schedule import learning_rate_factors
from zsharp.training.spec import TrialSpec, check_spec
from zsharp.training.step_graph import StepGraph, unchanged

_AVERAGED = ("loss", "correct", "grad_norm", "perturbation_norm", "kept_fraction")
"""What is averaged over the steps of an epoch."""


class Training:
    """A run of `spec`, from its first step or from a checkpoint.

    Deterministic in the spec on one CPU thread, and on one GPU: all randomness comes from generators seeded by
    `train.seed`. Inside a step nothing is read back from the device, shapes are static, and lr, rho and q_p are
    0-d tensors on the device; on a GPU it is captured in a CUDA graph, unless RandAugment draws on the host.

    Args:
        data: The training set on the spec's device; loaded if not given.
        use_graph: Whether steps on a GPU are replayed from a CUDA graph; None asks ZSHARP_CUDA_GRAPHS, 1 unless set.

    Attributes:
        epoch: Epochs trained.
        last_report: The last epoch's row, also after `load`; None before the first.

    Raises:
        ValueError: If the spec does not fit the data, or names something unknown.
    """

    def __init__(
        self, spec: TrialSpec, data: TrainingData | None = None, *, use_graph: bool | None = None
    ) -> None:
        self._started = time.perf_counter()
        check_spec(spec)
        train = spec.train
        self.spec = spec
        self.device = choose_device(spec.device)
        self.data = data or load_training_data(**asdict(spec.data), device=self.device)
        self.method = find_method(spec.method)
        reset_peak_memory(self.device)

        info = self.data.info
        self._bf16 = uses_bf16(train.precision, self.device, info.image_shape, spec.architecture)
        torch.manual_seed(train.seed)
        self.model = build_model(spec.architecture, info.image_shape, info.num_classes)
        layout = memory_format(ARCHITECTURES[spec.architecture].family)
        self.model = self.model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self._params = list(self.model.parameters())
        self._average = [param.detach().clone() for param in self._params] if train.ema_decay else []
        augmentation = resolve_augmentation(train.augment, self.data)
        self._batches = Batches(self.data, train.batch_size, augmentation, layout, train.seed + 1)

        self.optimizer = build_optimizer(self.model, spec, self.device)
        steps_per_epoch = self._batches.steps_per_epoch
        factors = learning_rate_factors(
            train.schedule, train.epochs * steps_per_epoch, steps_per_epoch, train.warmup_epochs
        )
        self._rates = factors * spec.params.get("lr", DEFAULT_LR)
        # A table on the device, so that setting the rate of a step needs no copy from the host.
        self._device_rates = self._rates.float().to(self.device)
        self._smoothing = spec.params.get("label_smoothing", train.label_smoothing)
        # Summed on the device, always in this memory, and read by the host once an epoch.
        self._sums = torch.zeros(len(_AVERAGED), dtype=torch.float64, device=self.device)
        if use_graph is None:
            use_graph = os.environ.get("ZSHARP_CUDA_GRAPHS", "1") != "0"
        self._use_graph = use_graph and self.device.type == "cuda" and self._batches.runs_on_device
        self._graph: StepGraph | None = None
        self.epoch = 0
        self.last_report: EpochRow | None = None
        self._gradient_evaluations = 0
        self._train_s = 0.0
        self._wall_s_before = 0.0

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
        """Trains one epoch, validates, and returns what was measured."""
        assert not self.is_finished
        started = time.perf_counter()
        self.model.train()
        self._sums.zero_()
        num_steps = self._batches.steps_per_epoch
        with repeatable(self.device):
            self._take_steps(
                self._batches.draw_order(), self._device_rates[self.epoch * num_steps :][:num_steps]
            )
        means = dict(zip(_AVERAGED, (self._sums / num_steps).tolist(), strict=True))
        epoch_s = time.perf_counter() - started
        self.epoch += 1
        self._train_s += epoch_s
        self._gradient_evaluations += num_steps * self.method.gradient_evaluations_per_step
        rows, images, labels = self.data.val_indices, self.data.images, self.data.labels
        val_loss, val_accuracy = self.evaluate(images[rows], labels[rows]) if len(rows) else (None, None)
        is_sharp = isinstance(self.optimizer, SharpnessAware)
        # The last step of an epoch shows in the validation loss only, or in the weights themselves.
        after = float(nn.utils.get_total_norm(self._params)) if val_loss is None else val_loss
        self.last_report = {
            "epoch": self.epoch,
            "train_loss": means["loss"],
            "train_accuracy": means["correct"],
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "lr": float(self._rates[self.epoch * num_steps - 1]),
            "grad_norm": means["grad_norm"],
            "perturbation_norm": means["perturbation_norm"] if is_sharp else None,
            "kept_fraction": means["kept_fraction"] if is_sharp else None,
            "epoch_s": epoch_s,
            "gradient_evaluations": self._gradient_evaluations,
            "train_s": self._train_s,
            "wall_s": self._wall_s_before + time.perf_counter() - self._started,
            "images_per_s": self.epoch * num_steps * self.spec.train.batch_size / self._train_s,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "num_parameters": self.num_parameters,
            "device": device_name(self.device),
            "diverged": int(not math.isfinite(means["loss"] + after)),
        }
        return self.last_report

    @torch.no_grad()
    def evaluate(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Returns the mean cross-entropy and the accuracy on uint8 images [N, C, H, W] and labels [N].

        Uses the averaged weights if `ema_decay` is set, and batch norm's running statistics.
        """
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        size = self.spec.train.eval_batch_size
        with repeatable(self.device):
            for batch, answers in zip(torch.split(images, size), torch.split(labels, size), strict=True):
                logits = self._averaged_logits(self._batches.normalised(batch))
                batch_loss = F.cross_entropy(logits.float(), answers, reduction="sum")
                num_correct = (logits.argmax(1) == answers).sum()
                sums += torch.stack([batch_loss.double(), num_correct.double()])
        loss, accuracy = (sums / len(labels)).tolist()
        return loss, accuracy

    def save(self, path: Path) -> None:
        """Writes everything that the rest of the run depends on, atomically."""
        state = {
            "data": self.data.info.checksum,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self._average,
            "batches": self._batches.generator.get_state(),
            "rng": rng_state(self.device),
            "epoch": self.epoch,
            "last_report": self.last_report,
            "gradient_evaluations": self._gradient_evaluations,
            "train_s": self._train_s,
            "wall_s": self._wall_s_before + time.perf_counter() - self._started,
        }
        write_checkpoint(path, self.spec, state)

    def load(self, path: Path) -> None:
        """Continues from what `save` wrote; on one device the rest is bit-identical to an uninterrupted run.

        Raises:
            ValueError: If the file is damaged or belongs to another spec or other data.
        """
        state: dict[str, Any] = read_checkpoint(path, self.spec, self.device)
        self._graph = None  # its tensors are replaced
        info = self.data.info
        if state["data"] != info.checksum:
            raise ValueError(
                f"{path}: checkpoint of other data: checksum {state['data']}; "
                f"expected {info.checksum}, that of {info.name!r}"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._average = [value.clone() for value in state["average"]]
        self._batches.generator.set_state(state["batches"].cpu())
        set_rng_state(state["rng"], self.device)
        self.epoch = state["epoch"]
        self.last_report = state["last_report"]
        self._gradient_evaluations = state["gradient_evaluations"]
        self._train_s = state["train_s"]
        self._wall_s_before = state["wall_s"]

    def _take_steps(self, order: Tensor, rates: Tensor) -> None:
        """One step for each row of order [steps, B], at the rate beside it."""
        if not self._use_graph:
            for rate, rows in zip(rates, order, strict=True):
                self._step(rate, rows)
            return
        if self.epoch == 0:  # the first step of all makes the optimizer's state
            self._step(rates[0], order[0])
            order, rates = order[1:], rates[1:]
        if self._graph is None and len(order):
            self._graph = self._capture(order[0], rates[0])
        if self._graph is not None:
            self._graph.run(order, rates)
        if isinstance(self.optimizer, SharpnessAware):
            self.optimizer.num_steps += len(order)

    def _capture(self, rows: Tensor, rate: Tensor) -> StepGraph:
        generators, before = [self._batches.generator], 0
        if isinstance(self.optimizer, SharpnessAware):
            generators += self.optimizer.generators
            before = self.optimizer.num_steps
        max_steps = self._batches.steps_per_epoch
        graph = StepGraph(self._step, max_steps, rows, rate, generators, self._unchanged)
        if isinstance(self.optimizer, SharpnessAware):
            self.optimizer.num_steps = before
        return graph

    def _unchanged(self, generators: Sequence[Generator]) -> AbstractContextManager[None]:
        def state() -> list[object]:
            return [self.model.state_dict(), self.optimizer.state_dict(), self._average, self._sums]

        return unchanged(state, generators, self.device)

    def _step(self, rate: Tensor, rows: Tensor) -> None:
        inputs, targets, labels = self._batches.batch(rows)
        for group in self.optimizer.param_groups:
            group["lr"].copy_(rate)
        self.optimizer.zero_grad()
        loss, logits = self._forward_backward(inputs, targets)
        if isinstance(self.optimizer, SharpnessAware):
            self.optimizer.first_step(zero_grad=True)
            with frozen_batch_norm(self.model):
                self._forward_backward(inputs, targets)
            ascent = self.optimizer.last
            assert ascent is not None
            observed = (ascent.grad_norm, ascent.norm, ascent.kept_fraction)
            self._clip()
            self.optimizer.second_step()
        else:
            norm = nn.utils.get_total_norm([param.grad for param in self._params if param.grad is not None])
            observed = (norm, torch.zeros_like(norm), torch.zeros_like(norm))
            self._clip()
            self.optimizer.step()
        if self._average:
            assert self.spec.train.ema_decay is not None
            torch._foreach_lerp_(
                self._average, [p.detach() for p in self._params], 1 - self.spec.train.ema_decay
            )
        correct = (logits.argmax(1) == labels).float().mean()
        self._sums += torch.stack([value.double() for value in (loss, correct, *observed)])

    def _forward_backward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with self._autocast():
            logits = self.model(inputs)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=self._smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), logits.detach()

    def _clip(self) -> None:
        if self.spec.train.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._params, self.spec.train.clip_grad_norm)

    def _averaged_logits(self, inputs: Tensor) -> Tensor:
        names = [name for name, _ in self.model.named_parameters()]
        averaged = dict(zip(names, self._average, strict=True)) if self._average else {}
        with self._autocast():
            logits: Tensor = torch.func.functional_call(self.model, averaged, (inputs,))
        return logits

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else nullcontext()
