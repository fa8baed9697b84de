"""Shows what a confirmation is going to do, and how far it is: epochs of its runs, how each ended, the time left."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.text import Text

from tune_jobs.cli.live import LiveLines
from tune_jobs.confirmation.forecast import Outlook
from tune_jobs.job.metric import Metric
from tune_jobs.wording import clock, counted, duration

_LINES_AROUND = 2  # the line below the runs, and that of the cursor


class Confirming:
    """Shows a confirmation; use it as a context manager, and pass `on_start` and `on_row` to `confirm`."""

    def __init__(self, metric: Metric, console: Console) -> None:
        self._metric, self._console = metric, console
        self._outlook: Outlook | None = None
        self._num_ended = 0
        self._started_s = time.monotonic()
        self._live: LiveLines | None = None

    def on_start(self, outlook: Outlook) -> None:
        """Says what will be trained and how long it takes, and starts the lines that count down."""
        self._outlook, self._started_s = outlook, time.monotonic()
        for line in describe(outlook):
            self._console.print(line, soft_wrap=True)
        if outlook.waiting and self._console.is_interactive:
            self._live = LiveLines(self._console, self._render)
            self._live.start()

    def on_row(self, row: dict[str, Any]) -> None:
        """Shows how one run ended."""
        assert self._outlook is not None
        self._num_ended += 1
        value, label = self._metric.confirmed(row)
        outcome = str(row["error"] or "") if value is None else f"{label} {self._metric.text(value)}"
        line = f"{self._count()}  {row['trial_id']}  seed {row['seed']}  {row['status']}  {outcome}"
        if self._live is None and (left_s := self._outlook.countdown.left_s):
            line += f"  {_left(left_s)}"
        self._console.print(Text(line), soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _count(self) -> str:
        assert self._outlook is not None
        num_done = len(self._outlook.runs) - len(self._outlook.waiting) + self._num_ended
        return f"{num_done}/{len(self._outlook.runs)}"

    def _render(self) -> Text:
        """Returns how far each run is that trains now, as far as the terminal has room, and how far all are."""
        assert self._outlook is not None
        countdown = self._outlook.countdown
        running, epochs = countdown.running, countdown.epochs
        runs = [run for run in self._outlook.waiting if run.key in running]
        lines = [
            f"  {run.winner.trial_id}  seed {run.seed}  epoch {epochs.get(run.key, 0)}/{run.spec.train.epochs}"
            for run in runs[: max(0, self._console.size.height - _LINES_AROUND)]
            if run.key in epochs
        ]
        what = f"{len(running)} running" if running else "starting Ray"
        parts = [f"{self._count()} runs done", what, f"{clock(time.monotonic() - self._started_s)} so far"]
        if left_s := countdown.left_s:
            parts.append(_left(left_s))
        return Text("\n".join([*lines, ", ".join(parts)]), style="dim", no_wrap=True, overflow="ellipsis")


def describe(outlook: Outlook) -> list[Text]:
    """Returns what a confirmation is going to do, what that can show, and how long it takes, a line each."""
    runs, waiting = outlook.runs, outlook.waiting
    num_seeds = len({run.seed for run in runs})
    roles = {run.winner.trial_id: run.role for run in reversed(runs)}
    num_incumbents = sum(role == "incumbent" for role in roles.values())
    before = f" and {counted(num_incumbents, 'earlier incumbent')}" if num_incumbents else ""
    line = (
        f"Confirming {counted(len(roles) - num_incumbents, 'winner')}{before} with "
        f"{counted(num_seeds, 'fresh seed')} each: {counted(len(runs), 'run')}"
    )
    num_done = len(runs) - len(waiting)
    lines = [Text(f"{line}, {num_done} of them done already." if num_done else f"{line}.")]
    methods, needed = outlook.num_methods, outlook.deciding_seeds
    if methods > 1 and num_seeds < needed:
        lines.append(
            Text(
                f"Warning: with {counted(num_seeds, 'seed')} no difference between {methods} methods can be "
                f"significant; that takes at least {needed} (--seeds {needed}, or no --seeds).",
                style="yellow",
            )
        )
    elif methods > 1 and num_seeds == needed:
        lines.append(
            Text(
                f"{needed} seeds is the smallest number with which a difference between {methods} methods can be "
                "significant."
            )
        )
    if waiting:
        lines.append(Text(_what_trains(outlook)))
    if outlook.num_unmeasured:
        lines.append(
            Text(f"{counted(outlook.num_unmeasured, 'run')} done already without sharpness stay without it.")
        )
    return lines


def _what_trains(outlook: Outlook) -> str:
    spec = outlook.waiting[0].spec
    data = "" if spec.task or spec.train.loop else " on all training data"
    at_once = min(outlook.num_slots, len(outlook.waiting))
    few, many = (choose(run.spec.train.epochs for run in outlook.waiting) for choose in (min, max))
    epochs = counted(few, "epoch") if few == many else f"{few} to {many} epochs"
    line = f"Each trains {epochs}{data} and then reads the test set, {at_once} at once: "
    left_s = outlook.countdown.left_s
    if left_s is None:
        return f"{line}for how long is not known, as the search recorded no times."
    line += f"about {duration(left_s)}, going by the search's epochs"
    if outlook.sharpness_s:
        share = outlook.sharpness_s / at_once / left_s
        line += f"; measuring sharpness is {min(share, 0.99):.0%} of that"
    return f"{line}."


def _left(seconds: float) -> str:
    return f"about {clock(seconds)} left"
