"""Runs a training loop of the user's own as a trial: it reports, and waits each time for the decision."""

import atexit
import ctypes
import io
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from zsharp.data.training_data import TrainingData
from zsharp.optim import SharpnessAware, find_method
from zsharp.training import Training
from zsharp.training.build_optimizer import build_optimizer
from zsharp.training.checkpoint import read_checkpoint, write_checkpoint
from zsharp.training.device import choose_device, device_name
from zsharp.training.epoch_row import MEASURES, RESERVED_NAMES, EpochRow, metric_of
from zsharp.training.peak_memory import peak_memory_bytes, reset_peak_memory
from zsharp.training.spec import TrialSpec
from zsharp.training.task import as_numbers
from zsharp.user_code import UserCodeError, load_callable

_GIVEN = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr")
"""What a loop may report under the names that our own reports have."""

_END_WITHIN_S = 30.0
_END_AT_EXIT_WITHIN_S = 5.0


class LoopStopped(BaseException):
    """Ends a loop whose trial is over. No `except Exception` stops it."""


class LoopTrial:
    """What a training loop of the user's own is passed.

    Attributes:
        params: What was drawn or fixed for this trial, by name: `lr`, `rho`, and whatever the space has.
        train: The job's settings of training, with the trial's own of those that are searched.
        method: The method's name.
        seed: The trial's seed; torch, NumPy and Python are seeded with it and the epoch.
        epoch: How many epochs are done: 0, or more where a trial continues from its checkpoint.
        epochs: How many epochs a trial trains.
        device: Where to train.
        is_confirmation: Whether the run confirms a winner; only then may a loop look at its test data, and report
            `test_loss` or `test_accuracy`.
    """

    def __init__(self, run: "LoopRun") -> None:
        spec = run.spec
        self._run = run
        self.params: Mapping[str, Any] = {**spec.model, **spec.params}
        self.train = spec.train
        self.method = spec.method
        self.seed = spec.train.seed
        self.epoch = run.epoch
        self.epochs = spec.train.epochs
        self.device = run.device
        self.is_confirmation = run.is_confirmation

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Returns the trial's method around the job's base optimizer, with lr as a plain number for schedulers.

        Call `step(closure, model=model)`, with a closure that computes the gradients and returns the loss, for every
        method alike. With the model its batch norm counts each batch once.
        """
        optimizer = build_optimizer(model, self._run.spec, self.device)
        for group in optimizer.param_groups:
            group["lr"] = float(group["lr"]) * group["lr_scale"]
        self._run.watch(optimizer)
        return optimizer

    def report(self, *, epoch: int, **numbers: Any) -> None:
        """Reports an epoch and returns when it is decided that the trial continues; otherwise the loop ends here.

        Args:
            epoch: Counted from 1, one after the other.
            numbers: The job's metric, and whatever else was measured.

        Raises:
            UserCodeError: If the epoch is not the next one, the metric is missing, or a number is none.
        """
        self._run.take_report(epoch, numbers)
        self.epoch = epoch

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps the state at the end of the epoch that is reported next, for `load` after an interruption.

        Args:
            state: Tensors, numbers and text, in nested lists and mappings, as `state_dict` returns them.

        Raises:
            UserCodeError: If it holds anything else, which could not be read without unpickling.
        """
        self._run.keep(state)

    def load(self) -> Any:
        """Returns the state of the trial's checkpoint, tensors on `device`; None if it starts at its first epoch.

        It seeds torch, NumPy and Python as they were after the last epoch, whatever the loop has drawn to set up.
        """
        return self._run.load_state()


def build_run(
    spec: TrialSpec,
    own: Callable[..., Any] | None = None,
    *,
    data: TrainingData | None = None,
    is_confirmation: bool = False,
) -> "Training | LoopRun":
    """Returns the run of a trial, by our engine or by a loop of the user's own.

    Args:
        own: The spec's task or loop as an object; imported if not given.
        data: The training set, if it is loaded already.
        is_confirmation: Whether a loop may look at its test data.
    """
    if spec.train.loop is not None:
        return LoopRun(spec, own, is_confirmation=is_confirmation)
    return Training(spec, data, task=own)


class LoopRun:
    """A run of `spec` by a loop, with the interface of `zsharp.training.Training` as far as workers use it.

    The loop runs in a thread of its own, which waits in `report` while nobody asks for the next epoch.

    Args:
        loop: The function, instead of the one that `spec.train.loop` names.
        is_confirmation: Whether the loop may look at its test data.
    """

    def __init__(
        self, spec: TrialSpec, loop: Callable[..., Any] | None = None, *, is_confirmation: bool = False
    ) -> None:
        self._started = time.perf_counter()
        self.spec = spec
        self.is_confirmation = is_confirmation
        self.device = choose_device(spec.device)
        self._loop = loop or load_callable(spec.train.loop or "", spec.code)
        self._label = spec.train.loop or "train"
        reset_peak_memory(self.device)
        self.epoch = 0
        self.last_report: EpochRow | None = None
        self.loaded: Any = None
        self._pending: bytes | None = None  # a state that belongs to the next report
        self._kept: tuple[bytes, EpochRow] | None = None
        self._is_checked = False  # whether a state was read back once
        self._evaluations_before = 0
        self._num_steps = 0  # in this process
        self._num_parameters = 0
        self._wall_s_before = self._train_s = 0.0
        self._reported_s = self._started
        self._rows: queue.Queue[EpochRow | BaseException | None] = queue.Queue()
        self._may_go_on = threading.Semaphore(0)
        self._is_over = False
        self._thread: threading.Thread | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its full number of epochs."""
        return self.epoch >= self.spec.train.epochs

    def run_epoch(self) -> EpochRow:
        """Lets the loop go on to its next report.

        Raises:
            UserCodeError: If the loop returns before its last epoch; what it raises itself passes unchanged.
        """
        if self._thread is None:
            self._seed(self.epoch)
            self._reported_s = time.perf_counter()
            self._thread = threading.Thread(target=self._call, name="training loop", daemon=True)
            atexit.register(self._end_at_exit)
            self._thread.start()
        else:
            self._may_go_on.release()
        row = self._rows.get()
        if isinstance(row, BaseException):
            raise row
        if row is None:
            raise UserCodeError(
                f"{self._label}: returned after epoch {self.epoch}; expected reports up to epoch "
                f"{self.spec.train.epochs}, which is train.epochs"
            )
        self.epoch, self.last_report = row["epoch"], row
        return row

    def test(self) -> dict[str, float] | None:
        """Returns what the loop reported of its test data; None if it reported none."""
        metrics = {} if self.last_report is None else self.last_report["metrics"]
        return {name: value for name, value in metrics.items() if name.startswith("test_")} or None

    def save(self, path: Path) -> None:
        """Writes what the loop kept last, with the report of the epoch that it belongs to."""
        state, row = self._kept or (None, None)
        write_checkpoint(path, self.spec, {"loop": state, "last_report": row})

    def load(self, path: Path) -> None:
        """Continues from what `save` wrote; a loop that kept nothing starts again.

        Raises:
            ValueError: If the file is damaged or belongs to another spec.
        """
        content = read_checkpoint(path, self.spec, torch.device("cpu"))
        state: bytes | None = content.get("loop")
        row: EpochRow | None = content.get("last_report")
        if state is None or row is None:
            return
        self.loaded = torch.load(io.BytesIO(state), map_location=self.device, weights_only=True)
        self.epoch, self.last_report, self._kept = row["epoch"], row, (state, row)
        self._train_s, self._wall_s_before = row["train_s"], row["wall_s"]
        self._evaluations_before = row["gradient_evaluations"]

    def load_state(self) -> Any:
        """Returns what was loaded, with the generators as they were when it was saved."""
        if self.loaded is not None:
            self._seed(self.epoch)
        return self.loaded

    def close(self) -> None:
        """Ends the loop where it waits."""
        self._is_over = True
        self._may_go_on.release()
        if self._thread is not None:
            self._thread.join(_END_WITHIN_S)

    def _end_at_exit(self) -> None:
        """Ends the loop wherever it is.

        Python ends what still runs by unwinding its thread, and torch's C++, through which that goes, aborts then.
        """
        self._is_over = True
        self._may_go_on.release()
        if self._thread is not None and self._thread.is_alive():
            ident = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(LoopStopped))
            self._thread.join(_END_AT_EXIT_WITHIN_S)

    def watch(self, optimizer: Optimizer) -> None:
        """Counts the steps of an optimizer, and the parameters that it trains."""

        def add(*_: Any) -> None:
            self._num_steps += 1

        # The base optimizer takes each step, however the loop asks for it.
        base = optimizer.base_optimizer if isinstance(optimizer, SharpnessAware) else optimizer
        base.register_step_post_hook(add)
        self._num_parameters += sum(
            param.numel() for group in optimizer.param_groups for param in group["params"]
        )

    def keep(self, state: Mapping[str, Any]) -> None:
        """Keeps a state for the checkpoint of the epoch that is reported next."""
        content = io.BytesIO()
        torch.save(state, content)
        kept = content.getvalue()
        if not self._is_checked:
            try:
                torch.load(io.BytesIO(kept), weights_only=True)
            except Exception as error:
                reason = str(error).partition("\n")[0]
                raise UserCodeError(
                    f"{self._label}: save got a state that cannot be read without unpickling; expected tensors, "
                    f"numbers and text in lists and mappings ({reason})"
                ) from error
            self._is_checked = True
        self._pending = kept

    def take_report(self, epoch: int, numbers: Mapping[str, Any]) -> None:
        """Hands a report to the worker, and waits until the next epoch is asked for."""
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch != self.epoch + 1:
            raise UserCodeError(
                f"{self._label}: reported epoch {epoch!r} after epoch {self.epoch}; expected {self.epoch + 1}"
            )
        row = self._row(epoch, numbers)
        if self._pending is not None:
            self._kept, self._pending = (self._pending, row), None
        self._rows.put(row)
        if epoch < self.spec.train.epochs:
            self._may_go_on.acquire()
        if self._is_over or epoch >= self.spec.train.epochs:
            raise LoopStopped
        self._reported_s = time.perf_counter()
        self._seed(epoch)

    def _row(self, epoch: int, numbers: Mapping[str, Any]) -> EpochRow:
        label = f"{self._label}: report"
        if taken := [name for name in numbers if name in RESERVED_NAMES and name not in _GIVEN]:
            raise UserCodeError(f"{label} has {taken[0]!r}, which every report has already; use another name")
        others = {name: value for name, value in numbers.items() if name not in _GIVEN}
        measured = as_numbers(others, label)
        for name in _GIVEN:
            if name in numbers:
                measured |= {name: as_numbers({"number": numbers[name]}, f"{label} of {name}")["number"]}
        if self.spec.metric not in measured:
            raise UserCodeError(
                f"{label} of epoch {epoch} has {', '.join(measured) or 'no numbers'}; the job's metric is "
                f"{self.spec.metric!r}, so report that too, or set `metric`"
            )
        now = time.perf_counter()
        self._train_s += now - self._reported_s
        row: dict[str, Any] = dict.fromkeys(MEASURES)
        row |= {name: value for name, value in measured.items() if name in MEASURES}
        row |= {
            "epoch": epoch,
            "epoch_s": now - self._reported_s,
            "gradient_evaluations": self._gradient_evaluations(),
            "train_s": self._train_s,
            "wall_s": self._wall_s(),
            "images_per_s": None,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "num_parameters": self._num_parameters,
            "device": device_name(self.device),
            "metrics": {name: value for name, value in measured.items() if name not in MEASURES},
        }
        losses = [row["train_loss"], row["val_loss"], metric_of(row, self.spec.metric)]
        row["diverged"] = int(not all(math.isfinite(value) for value in losses if value is not None))
        return row  # type: ignore[return-value]

    def _gradient_evaluations(self) -> int:
        per_step = find_method(self.spec.method).gradient_evaluations_per_step
        return self._evaluations_before + per_step * self._num_steps

    def _wall_s(self) -> float:
        return self._wall_s_before + time.perf_counter() - self._started

    def _seed(self, epoch: int) -> None:
        """Seeds the global generators after so many epochs: a resumed loop draws what it would have drawn."""
        seed = (self.spec.train.seed * 1_000_003 + epoch) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def _call(self) -> None:
        try:
            self._loop(LoopTrial(self))
        except LoopStopped:
            pass
        except BaseException as error:
            self._rows.put(error)
        else:
            self._rows.put(None)
        finally:
            atexit.unregister(self._end_at_exit)
