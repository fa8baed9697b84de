"""Shows the progress of a search: a live table on a terminal, one line per finished trial in a pipe."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tune_jobs.cluster.slots import Slots
from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.job.spec import JobSpec
from tune_jobs.search.trial import LiveTrial
from tune_jobs.wording import counted, last_line, short_value

_LONGEST_ERROR = 200
_LINES_AROUND_STUDIES = 4  # headings, studies left out, footer, and the line that the cursor is on
_WIDTH_OF_COUNTS = 46  # the columns of numbers, for studies of 9,999 trials


@dataclass
class _StudyCounts:
    """How many of a study's trials are in which state."""

    num_trials: int
    ended: Counter[str] = field(default_factory=Counter)
    running: set[str] = field(default_factory=set)
    best: LiveTrial | None = None

    @property
    def num_ended(self) -> int:
        return sum(self.ended.values())


class Progress:
    """Shows a search's progress; use it as a context manager, and pass `on_start` and `on_change` to `run`.

    On a terminal the table counts finished trials, and only failed ones get a line, with their error.
    """

    def __init__(self, job: JobSpec, console: Console | None = None) -> None:
        self._console = console or Console()
        self._studies = {study.name: _StudyCounts(job.search.num_trials) for study in job.studies()}
        self._num_trials = sum(study.num_trials for study in self._studies.values())
        self._id_width = max(map(len, self._studies)) + len("-0000")
        self._max_epochs = job.train.epochs
        self._metric = Metric(job.metric, job.mode)
        self._epochs_of: dict[str, int] = {}
        self._epochs_of_ended: list[int] = []
        self._num_epochs = 0
        self._started_s = time.monotonic()
        self._first_report_s: float | None = None
        self._live: Live | None = None

    def on_start(self, slots: Slots, past: Sequence[LiveTrial] = ()) -> None:
        """Prints how trials fill the machine, and starts the table."""
        studies = counted(len(self._studies), "study", "studies")
        self._print(
            f"Running {studies}, {counted(self._num_trials, 'trial')} in all: {slots.explanation[-1]}."
        )
        ended = [trial for trial in past if trial.status not in (None, "interrupted")]
        for trial in ended:
            self._take_in_end(trial)
        if past:
            have = "has" if len(ended) == 1 else "have"
            num_open = len(past) - len(ended)
            self._print(f"Continuing: {counted(len(ended), 'trial')} {have} ended, {num_open} had started.")
        self._started_s = time.monotonic()
        if self._console.is_interactive:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True
            )
            self._live.start()

    def on_change(self, trial: LiveTrial) -> None:
        """Updates the progress after a trial started, reported or ended."""
        self._count_epochs(trial)
        study = self._studies[trial.study]
        if trial.status is None:
            study.running.add(trial.trial_id)
            return
        del self._epochs_of[trial.trial_id]
        study.running.discard(trial.trial_id)
        self._take_in_end(trial)
        if self._live is None or trial.status == "failed":
            self._print(self._line(trial))

    def _take_in_end(self, trial: LiveTrial) -> None:
        assert trial.status is not None
        study = self._studies[trial.study]
        self._epochs_of_ended.append(trial.epoch)
        study.ended[trial.status] += 1
        if trial.status == "completed" and (study.best is None or trial.merit > study.best.merit):
            study.best = trial

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, line: str) -> None:
        """Prints a line unchanged: names and errors may look like markup."""
        self._console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def _count_epochs(self, trial: LiveTrial) -> None:
        # A trial seen for the first time may be a resumed one, whose epochs are not this session's.
        new = trial.epoch - self._epochs_of.get(trial.trial_id, trial.epoch)
        self._epochs_of[trial.trial_id] = trial.epoch
        self._num_epochs += new
        if new and self._first_report_s is None:
            self._first_report_s = time.monotonic()

    def _line(self, trial: LiveTrial) -> str:
        ended = sum(study.num_ended for study in self._studies.values())
        value = (
            "" if trial.value is None else f"  {self._metric.short_label} {self._metric.text(trial.value)}"
        )
        error = f"  {_shortened(last_line(trial.error))}" if trial.error else ""
        return (
            f"{ended:>{len(str(self._num_trials))}}/{self._num_trials}  {trial.trial_id:<{self._id_width}}  "
            f"{trial.status:<11}  epoch {trial.epoch:>{len(str(self._max_epochs))}}/{self._max_epochs}{value}  "
            f"{_params(trial)}{error}"
        )

    def _render(self) -> Group:
        """Returns the table with as many studies as fit the terminal: lines that scroll away cannot be redrawn."""
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
        longest = max(map(len, self._studies))
        best = "best" if self._metric == VAL_ACCURACY else f"best {self._metric.name}"
        room = self._console.width - _WIDTH_OF_COUNTS - len(best) + len("best")
        table.add_column("study", width=min(longest, max(16, room)))
        for name in ("done", "running", "pruned", "failed", best):
            table.add_column(name, justify="right", no_wrap=True, min_width=len("0.1234"))
        table.add_column("with")  # with `no_wrap`, rich would shrink all columns on a narrow terminal
        shown = self._shown(max(1, self._console.size.height - _LINES_AROUND_STUDIES))
        for name in shown:
            study = self._studies[name]
            lost = study.ended["failed"] + study.ended["diverged"] + study.ended["interrupted"]
            table.add_row(
                Text(name, no_wrap=True, overflow="ellipsis"),
                f"{study.num_ended}/{study.num_trials}",
                str(len(study.running) or ""),
                str(study.ended["pruned"] or ""),
                str(lost or ""),
                "" if study.best is None or study.best.value is None else self._metric.text(study.best.value),
                "" if study.best is None else Text(_params(study.best), no_wrap=True, overflow="ellipsis"),
            )
        lines: list[Table | Text] = [table]
        if hidden := [study for name, study in self._studies.items() if name not in shown]:
            num_done = sum(study.num_ended for study in hidden)
            num_trials = sum(study.num_trials for study in hidden)
            lines.append(Text(f"and {len(hidden)} more, {num_done}/{num_trials} done", style="dim"))
        return Group(*lines, Text(self._footer(), style="dim", no_wrap=True, overflow="ellipsis"))

    def _shown(self, count: int) -> list[str]:
        """Returns the studies to show in `count` rows: running ones first, then the best, in the job's order."""
        if len(self._studies) <= count:
            return list(self._studies)
        worst = self._metric.merit(None)
        merit = {
            name: (bool(study.running), study.best.merit if study.best else worst)
            for name, study in self._studies.items()
        }
        chosen = sorted(self._studies, key=lambda name: merit[name], reverse=True)[:count]
        return [name for name in self._studies if name in chosen]

    def _footer(self) -> str:
        now = time.monotonic()
        so_far = f"{_duration(now - self._started_s)} so far"
        if self._first_report_s is None:
            return f"starting workers, {so_far}"
        text = f"{counted(self._num_epochs, 'epoch')}, {so_far}"
        timed_s = now - self._first_report_s  # leaves out the time that workers take to start
        if self._num_epochs > 1 and timed_s > 0:
            rate = (self._num_epochs - 1) / timed_s
            text += f", {rate:.3g} epochs/s"
            if self._epochs_of_ended:
                running = list(self._epochs_of.values())
                num_waiting = self._num_trials - len(self._epochs_of_ended) - len(running)
                left = epochs_left(self._epochs_of_ended, running, num_waiting, self._max_epochs)
                text += f", about {_duration(left / rate)} left"
        return text


def epochs_left(ended: Sequence[int], running: Sequence[int], num_waiting: int, max_epochs: int) -> float:
    """Returns how many more epochs running and waiting trials are expected to train.

    `ended` and `running` hold the epochs that each of these trials has trained.

    Uses the product-limit (Kaplan-Meier) estimate of a trial's length. The mean over ended trials would be far too low
    at first, since pruned trials end before the others.

    References:
        Kaplan and Meier, "Nonparametric estimation from incomplete observations", JASA 1958.
    """
    stops = sorted(Counter(epochs for epochs in ended if epochs < max_epochs).items())

    def after(epoch: int) -> float:
        """Returns the expected further epochs of a trial that trains on after `epoch`; -1 if it has not started."""
        surviving, expected, last = 1.0, 0.0, max(0, epoch)
        for stop, num_stopped in stops:
            if stop > epoch:
                expected += surviving * (stop - last)
                last = stop
                # Running trials count too, as long as it is known that they got this far.
                num_reached = sum(epochs >= stop for epochs in (*ended, *running))
                surviving *= 1 - num_stopped / num_reached
        return expected + surviving * (max_epochs - last)

    return num_waiting * after(-1) + sum(map(after, running))


def _params(trial: LiveTrial) -> str:
    return " ".join(f"{name}={short_value(value)}" for name, value in trial.params.items())


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST_ERROR else f"{line[: _LONGEST_ERROR - 3]}..."


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
