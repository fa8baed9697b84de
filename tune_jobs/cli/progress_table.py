"""The tables of a running search: its studies, and the trials that train now.

They are narrow on a wide terminal too. A terminal that becomes narrower wraps longer lines, and may push them to where
nothing can erase them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.search.trial import LiveTrial
from tune_jobs.wording import short_value

_WIDTH_OF_COUNTS = 46  # the columns of numbers, for studies of 9,999 trials
_WIDTH_OF_EPOCHS = 24  # likewise, of the table of trials


@dataclass
class StudyState:
    """How many of a study's trials are in which state."""

    num_trials: int
    ended: Counter[str] = field(default_factory=Counter)
    running: dict[str, LiveTrial] = field(default_factory=dict)
    best: LiveTrial | None = None  # of those that completed

    @property
    def num_ended(self) -> int:
        """How many of its trials have ended."""
        return sum(self.ended.values())

    def best_now(self, metric: Metric) -> tuple[LiveTrial | None, bool]:
        """Returns the best trial, and whether it still trains, so that it may yet be stopped or get worse."""
        best = self.best
        for trial in list(self.running.values()):
            if trial.value is not None and (best is None or trial.merit > best.merit):
                best = trial
        return best, best is not None and best is not self.best


def studies_table(studies: Mapping[str, StudyState], metric: Metric, width: int, num_rows: int) -> Group:
    """Returns the table of as many studies as there are rows, and what is left out."""
    table = _table()
    longest = max(map(len, studies))
    best_name = "best" if metric == VAL_ACCURACY else f"best {metric.name}"
    room = width - _WIDTH_OF_COUNTS - len(best_name) + len("best")
    table.add_column("study", width=min(longest, max(16, room)))
    for name in ("done", "running", "pruned", "failed", best_name):
        table.add_column(name, justify="right", no_wrap=True, min_width=len("0.1234"))
    shown = _shown(studies, metric, num_rows)
    for name in shown:
        study = studies[name]
        lost = study.ended["failed"] + study.ended["diverged"] + study.ended["interrupted"]
        best, is_running = study.best_now(metric)
        value = "" if best is None or best.value is None else metric.text(best.value)
        table.add_row(
            Text(name, no_wrap=True, overflow="ellipsis"),
            f"{study.num_ended}/{study.num_trials}",
            str(len(study.running) or ""),
            str(study.ended["pruned"] or ""),
            str(lost or ""),
            f"{value}*" if is_running else value,
        )
    hidden = [study for name, study in studies.items() if name not in shown]
    if not hidden:
        return Group(table)
    num_done = sum(study.num_ended for study in hidden)
    num_trials = sum(study.num_trials for study in hidden)
    return Group(table, Text(f"and {len(hidden)} more, {num_done}/{num_trials} done", style="dim"))


def running_table(
    trials: Sequence[LiveTrial], metric: Metric, max_epochs: int, width: int, num_running: int
) -> Table:
    """Returns the table of trials that train, as far as they are shown, with what they reported last."""
    table = _table()
    longest = max(len(trial.trial_id) for trial in trials)
    heading = "running" if num_running == len(trials) else f"{len(trials)} of {num_running} running"
    table.add_column(heading, width=max(len(heading), min(longest, width - _WIDTH_OF_EPOCHS)), no_wrap=True)
    table.add_column("epoch", justify="right", no_wrap=True)
    table.add_column(metric.short_label, justify="right", no_wrap=True)
    for trial in trials:
        table.add_row(
            _ellipsed(trial.trial_id),
            f"{trial.epoch}/{max_epochs}",
            "" if trial.value is None else metric.text(trial.value),
        )
    return table


def best_lines(studies: Mapping[str, StudyState], metric: Metric) -> list[str]:
    """Returns which trial is the best of all so far, and its settings; nothing before the first report."""
    now = [study.best_now(metric) for study in list(studies.values())]
    known = [
        (trial, is_running)
        for trial, is_running in now
        if trial is not None and trial.value is not None and trial.is_searched
    ]
    if not known:
        return []
    best, is_running = max(known, key=lambda item: item[0].merit)
    assert best.value is not None
    lines = [f"best so far: {best.trial_id} {metric.text(best.value)}{'*' if is_running else ''}"]
    lines.append(f"  {params_in_words(best)}")
    return [*lines, "* still training"] if any(is_running for _, is_running in known) else lines


def params_in_words(trial: LiveTrial) -> str:
    """Returns a trial's settings as `rho=0.05 lr=0.001`."""
    return " ".join(f"{name}={short_value(value)}" for name, value in trial.params.items())


def _shown(studies: Mapping[str, StudyState], metric: Metric, num_rows: int) -> list[str]:
    """Returns the studies to show: running ones first, then the best, in the job's order."""
    if len(studies) <= num_rows:
        return list(studies)
    worst = metric.merit(None)
    merit = {
        name: (bool(study.running), study.best.merit if study.best else worst)
        for name, study in studies.items()
    }
    chosen = sorted(studies, key=lambda name: merit[name], reverse=True)[:num_rows]
    return [name for name in studies if name in chosen]


def _table() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")


def _ellipsed(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
