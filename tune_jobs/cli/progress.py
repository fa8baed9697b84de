"""Shows the progress of a search: a live table on a terminal, one line per finished trial in a pipe."""

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.text import Text

from tune_jobs.cli.live import LiveLines
from tune_jobs.cli.notebook import NotebookLines
from tune_jobs.cli.progress_table import StudyState, best_lines, params_in_words, running_table, studies_table
from tune_jobs.cluster.slots import Slots
from tune_jobs.job.finalists import FINALISTS
from tune_jobs.job.metric import Metric
from tune_jobs.job.spec import JobSpec
from tune_jobs.search.trial import LiveTrial
from tune_jobs.search.wind_down import show_with
from tune_jobs.stopping.epochs_left import epochs_left
from tune_jobs.wording import clock, counted, last_line

_LONGEST_ERROR = 200
_NARROW = 60  # columns, to which all is cut that a narrower terminal would wrap
_LOW = 12  # rows of a terminal below which the best trial has no lines
_LINES_AROUND = 5  # two headings, studies left out, footer, and the line that the cursor is on


class Progress:
    """Shows a search's progress; use it as a context manager, and pass its `on_...` methods to `run`.

    On a terminal the table shows what runs and counts finished trials, and only failed ones get a line, with their
    error.
    """

    def __init__(self, job: JobSpec, console: Console | None = None) -> None:
        self._console = console or Console()
        self._studies = {study.name: StudyState(job.search.num_trials) for study in job.studies()}
        self._num_trials, self._num_studies = job.num_trials, len(job.studies())
        self._num_finalists = job.search.num_finalist_trials
        self._studies |= {
            study.name: StudyState(self._num_finalists)
            for study in job.finalist_studies()
            if self._num_finalists
        }
        self._studies |= {study.name: StudyState(job.num_trunk_seeds) for study in job.trunks()}
        self._num_trunks = len(job.trunks()) * job.num_trunk_seeds
        self._fork_epoch = job.fork_epoch
        self._id_width = max(map(len, self._studies)) + len("-0000")
        self._max_epochs = job.train.epochs
        self._metric = Metric(job.metric, job.mode)
        self._epochs_of: dict[str, int] = {}
        self._epochs_of_ended: list[int] = []
        self._num_epochs = 0
        self._started_s = time.monotonic()
        self._first_report_s: float | None = None
        self._live: LiveLines | NotebookLines | None = None
        self._said: list[str] = []  # while the table was there, which shows the last of it

    def on_data(self, data: str) -> None:
        """Prints what data were read."""
        self._print(f"Data: {data}.")

    def on_start(self, slots: Slots, past: Sequence[LiveTrial] = ()) -> None:
        """Prints how trials fill the machine, and starts the table."""
        studies = counted(self._num_studies, "study", "studies")
        trials = counted(self._num_trials, "trial")
        if self._num_trunks:
            trials += f" from {counted(self._num_trunks, 'trunk')}"
        sharing = f" {slots.sharing_line[0].upper()}{slots.sharing_line[1:]}." if slots.sharing_line else ""
        num_finalists = self._num_finalists * self._num_studies
        finalists = f", then at most {num_finalists} of finalists" if num_finalists else ""
        self._print(f"Running {studies}, {trials} in all{finalists}: {slots.explanation[-1]}.{sharing}")
        ended = [trial for trial in past if trial.status not in (None, "interrupted")]
        for trial in ended:
            self._take_in_end(trial)
        if past:
            have = "has" if len(ended) == 1 else "have"
            num_open = len(past) - len(ended)
            self._print(f"Continuing: {counted(len(ended), 'trial')} {have} ended, {num_open} had started.")
        self._started_s = time.monotonic()
        if self._console.is_interactive or self._console.is_jupyter:
            is_terminal = self._console.is_interactive
            self._live = (
                LiveLines(self._console, self._render) if is_terminal else NotebookLines(self._render)
            )
            self._live.start()
            show_with(self._said.append)

    def on_change(self, trial: LiveTrial) -> None:
        """Updates the progress after a trial started, reported or ended."""
        self._count_epochs(trial)
        study = self._studies[trial.study]
        if trial.status is None:
            study.running[trial.trial_id] = trial
            return
        del self._epochs_of[trial.trial_id]
        study.running.pop(trial.trial_id, None)
        self._take_in_end(trial)
        if self._live is None or trial.status == "failed":
            self._print(self._line(trial))

    def _take_in_end(self, trial: LiveTrial) -> None:
        assert trial.status is not None
        study = self._studies[trial.study]
        if trial.is_searched:
            self._epochs_of_ended.append(trial.epoch - self._fork_epoch)
        study.ended[trial.status] += 1
        if trial.status == "completed" and (study.best is None or trial.merit > study.best.merit):
            study.best = trial

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is None:
            return
        show_with(None)
        self._live.stop()
        self._live = None
        for text in self._said:
            self._print(text)

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
        most = self._fork_epoch if trial.is_trunk else self._max_epochs
        num_all = sum(study.num_trials for study in self._studies.values())
        value = (
            "" if trial.value is None else f"  {self._metric.short_label} {self._metric.text(trial.value)}"
        )
        error = f"  {_shortened(last_line(trial.error))}" if trial.error else ""
        return (
            f"{ended:>{len(str(num_all))}}/{num_all}  {trial.trial_id:<{self._id_width}}  "
            f"{trial.status:<11}  epoch {trial.epoch:>{len(str(self._max_epochs))}}/{most}{value}  "
            f"{params_in_words(trial)}{error}"
        )

    def _render(self) -> Group:
        """Returns as much as fits the terminal: lines that scroll away cannot be redrawn."""
        width, height = self._console.width, self._console.size.height
        notes = list(self._notes())
        room = max(1, height - _LINES_AROUND - max(0, len(notes) - 1))
        running = [trial for study in list(self._studies.values()) for trial in list(study.running.values())]
        # Studies come first, but some trials are shown in any case where there is room for both.
        num_shown = min(len(running), max(room - len(self._studies), room // 3))
        lines: list[object] = [
            studies_table(self._studies, self._metric, width, max(1, room - num_shown)),
        ]
        if num_shown:
            lines.append(
                running_table(running[:num_shown], self._metric, self._max_epochs, width, len(running))
            )
        return Group(*lines, *notes)  # type: ignore[arg-type]

    def _notes(self) -> Iterator[Text]:
        best = best_lines(self._studies, self._metric) if self._console.size.height >= _LOW else []
        for line in (*best, self._footer()):
            yield Text(line, style="dim", no_wrap=True, overflow="ellipsis")
        if self._said:
            text = Text(" ".join(self._said[-1].split()), style="bold yellow")
            yield from text.wrap(self._console, min(_NARROW, self._console.width))

    def _footer(self) -> str:
        now = time.monotonic()
        passed = clock(now - self._started_s)
        if self._first_report_s is None:
            num_loading = len(self._epochs_of)
            if not num_loading:
                return f"starting Ray, {passed} so far"
            return f"loading torch on {counted(num_loading, 'worker')}, then a first epoch; {passed}"
        text = f"{counted(self._num_epochs, 'epoch')} in {passed}"
        timed_s = now - self._first_report_s  # leaves out the time that workers take to start
        if self._num_epochs > 1 and timed_s > 0:
            rate = (self._num_epochs - 1) / timed_s
            text += f", {rate:.3g} epochs/s"
            if self._epochs_of_ended:
                trials = [trial for study in list(self._studies.values()) for trial in study.running.values()]
                running = [trial.epoch - self._fork_epoch for trial in trials if trial.is_searched]
                num_waiting = self._num_trials - len(self._epochs_of_ended) - len(running)
                most = self._max_epochs - self._fork_epoch
                left = epochs_left(self._epochs_of_ended, running, num_waiting, most)
                left += sum(self._fork_epoch - trial.epoch for trial in trials if trial.is_trunk)
                left += self._epochs_of_finalists_left(trials)
                text += f", about {clock(left / rate)} left" if left else ", writing the results"
        return text

    def _epochs_of_finalists_left(self, running: Sequence[LiveTrial]) -> int:
        """Returns how many epochs finalists still train, if each study gets as many as the job asks for."""
        most = self._max_epochs - self._fork_epoch
        states = [state for name, state in self._studies.items() if name.endswith(f"-{FINALISTS}")]
        left = sum(state.num_trials - state.num_ended for state in states) * most
        epochs = (trial.epoch - self._fork_epoch for trial in running if trial.finalist_of is not None)
        return max(0, left - sum(epochs))


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST_ERROR else f"{line[: _LONGEST_ERROR - 3]}..."
