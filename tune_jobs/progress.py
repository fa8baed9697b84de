"""What a person sees while a search runs: a live table on a terminal, a line per finished trial in a pipe."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from tune_jobs.recorder import LiveTrial
from tune_jobs.resources import Slots
from tune_jobs.spec import JobSpec


@dataclass
class _StudyCounts:
    """What became of a study's trials so far."""

    num_trials: int
    ended: dict[str, int] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    best: LiveTrial | None = None

    @property
    def num_ended(self) -> int:
        return sum(self.ended.values())


class Progress:
    """Follows a search; use as a context manager around it and pass `on_start` and `on_change` to `run`.

    Args:
        job: The job that runs.
        console: Where to; a live table if it is a terminal.
    """

    def __init__(self, job: JobSpec, console: Console | None = None) -> None:
        self._console = console or Console()
        self._studies = {study.name: _StudyCounts(job.search.num_trials) for study in job.studies()}
        self._max_epochs = job.train.epochs
        self._num_epochs = 0
        self._num_epochs_of_ended = 0
        self._began: float | None = None
        self._live: Live | None = None

    def on_start(self, slots: Slots) -> None:
        """Prints how trials fill the machine."""
        self._console.print(
            f"Running {_plural(len(self._studies), 'study', 'studies')}: {slots.explanation[-1]}."
        )

    def on_change(self, trial: LiveTrial) -> None:
        """Takes in a trial that started, reported or ended."""
        self._began = self._began or time.monotonic()
        study = self._studies[trial.study]
        self._num_epochs += trial.status is None and trial.epoch > 0
        if trial.status is None:
            study.running.add(trial.trial_id)
        else:
            self._num_epochs += trial.status in ("completed", "pruned", "diverged")
            self._num_epochs_of_ended += trial.epoch
            study.running.discard(trial.trial_id)
            study.ended[trial.status] = study.ended.get(trial.status, 0) + 1
            if trial.status == "completed" and _accuracy(trial) > _accuracy(study.best):
                study.best = trial
            if self._live is None:
                self._console.print(self._line(trial), soft_wrap=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _line(self, trial: LiveTrial) -> str:
        ended = sum(study.num_ended for study in self._studies.values())
        total = sum(study.num_trials for study in self._studies.values())
        accuracy = "" if trial.val_accuracy is None else f"  val acc {trial.val_accuracy:.4f}"
        error = f"  {escape(_last_line(trial.error))}" if trial.error else ""
        return (
            f"{ended:>{len(str(total))}}/{total}  {escape(trial.trial_id):<28} {trial.status:<11} epoch "
            f"{trial.epoch:>3}/{self._max_epochs}{accuracy}  {escape(_params(trial))}{error}"
        )

    def _render(self) -> Group:
        table = Table(box=None, padding=(0, 1), header_style="bold")
        table.add_column("study", no_wrap=True)
        for name in ("done", "running", "pruned", "failed", "best val acc"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("with", overflow="ellipsis", no_wrap=True)
        for name, study in self._studies.items():
            lost = sum(study.ended.get(status, 0) for status in ("failed", "diverged", "interrupted"))
            table.add_row(
                escape(name),
                f"{study.num_ended}/{study.num_trials}",
                str(len(study.running) or ""),
                str(study.ended.get("pruned", "")),
                str(lost or ""),
                "" if study.best is None else f"{_accuracy(study.best):.4f}",
                "" if study.best is None else escape(_params(study.best)),
            )
        return Group(table, f"[dim]{self._footer()}[/dim]")

    def _footer(self) -> str:
        elapsed_s = time.monotonic() - self._began if self._began is not None else 0.0
        if self._num_epochs == 0 or elapsed_s <= 0:
            return "starting workers"
        rate = self._num_epochs / elapsed_s
        ended = sum(study.num_ended for study in self._studies.values())
        total = sum(study.num_trials for study in self._studies.values())
        text = f"{self._num_epochs} epochs, {rate:.2f} epochs/s, {_duration(elapsed_s)} so far"
        if ended:
            expected = self._num_epochs_of_ended / ended * total
            text += f", about {_duration(max(0.0, expected - self._num_epochs) / rate)} left"
        return text


def _accuracy(trial: LiveTrial | None) -> float:
    return -1.0 if trial is None or trial.val_accuracy is None else trial.val_accuracy


def _params(trial: LiveTrial) -> str:
    return " ".join(f"{name}={value:.3g}" for name, value in trial.params.items())


def _last_line(text: str) -> str:
    lines: Iterable[str] = (line.strip() for line in reversed(text.splitlines()))
    return next((line for line in lines if line), "")


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"
