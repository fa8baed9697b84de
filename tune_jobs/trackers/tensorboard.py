"""TensorBoard: a folder of event files for each trial.

Event files have no keys, and a killed process leaves half of an event in them, so a trial's file is appended to only
by the process that began it; another process writes it again from the first report. How far a trial is stands in a
file `state` beside it, and where that is lost the trial is written again.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from tune_jobs.trackers.rows import (
    SearchRow,
    TrialRow,
    compared_measures,
    decision_text,
    is_notable,
    measures,
)
from zsharp.atomic import atomic_write

_STATE = "state"
_SEARCH = "search"  # no trial's id: those end in a number


class TensorBoard:
    """Event files below a folder.

    Args:
        folder: One folder below it for each trial, and one for the search.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, tuple[SummaryWriter, int]] = {}  # of trials that run, with the reports written
        self._states: dict[str, str] | None = None
        self._search: SearchRow | None = None

    def states(self, search: SearchRow) -> Mapping[str, str]:
        """Returns the states beside complete files, which are those of this very search."""
        self._search = search
        if self._states is None:
            self._states = {}
            for file in self.folder.glob(f"*/{_STATE}"):
                search_id, _, state = file.read_text(encoding="utf-8").partition(" ")
                name = file.parent.name
                if search_id == search.id:
                    self._states["" if name == _SEARCH else name] = state
        return self._states

    def num_written(self, search: SearchRow, trial: TrialRow) -> int:
        """Returns the number of reports in the file that this process has open."""
        return self._open[trial.id][1] if trial.id in self._open else 0

    def write(
        self, search: SearchRow, trial: TrialRow, reports: Sequence[Mapping[str, Any]], state: str
    ) -> None:
        """Adds events; a trial that runs keeps its file open."""
        if trial.id not in self._open:
            writer = self._begin(trial.id)
            for summary in hparams(trial.params, {f"{name}": 0 for name in ("val_accuracy", "val_loss")})[:2]:
                writer.file_writer.add_summary(summary)
            self._open[trial.id] = writer, 0
        writer, before = self._open[trial.id]
        for report in reports:
            moment = report["reported_at"].timestamp()
            for name, value in measures(report).items():
                writer.add_scalar(name, value, report["epoch"], moment)
            for name, value in compared_measures(report).items():
                writer.add_scalar(name, value, int(report["gradient_evaluations"]), moment)
            if is_notable(report):
                writer.add_text("decision", decision_text(report), report["epoch"], moment)
        num_reports = before + len(reports)
        self._open[trial.id] = writer, num_reports
        if not trial.has_ended:
            writer.flush()
            assert self._states is not None, "states are read first"
            self._states[trial.id] = state  # noted when the file is closed
            return
        for name, text in trial.ending.items():
            writer.add_text(name, text, num_reports)
        del self._open[trial.id]
        writer.close()
        self._note(search, trial.id, state)

    def write_search(self, search: SearchRow, state: str, page: Path | None) -> None:
        """Writes the search's settings and facts as text, and the page beside them."""
        writer = self._begin(_SEARCH)
        for name, table in (("job", search.settings), ("facts", search.facts), ("trials", search.counts)):
            rows = "\n".join(f"| {key} | {value} |" for key, value in table.items())
            writer.add_text(name, f"| | |\n|---|---|\n{rows}", 0, search.started_at.timestamp())
        writer.add_text("status", search.status, 0, search.started_at.timestamp())
        writer.close()
        if page is not None:
            shutil.copyfile(page, self.folder / _SEARCH / "report.html")
        self._note(search, "", state)

    def close(self) -> None:
        """Closes the files of trials that still run."""
        for trial_id, (writer, _) in self._open.items():
            writer.close()
            if self._search is not None and self._states is not None and trial_id in self._states:
                self._note(self._search, trial_id, self._states[trial_id])
        self._open.clear()
        self._states = None

    def _begin(self, name: str) -> SummaryWriter:
        """Returns a writer of a new file in place of the old one."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _STATE).unlink(missing_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        # An open TensorBoard drops what it has read of the old file at the first event with a purging step.
        return SummaryWriter(str(folder), purge_step=0)

    def _note(self, search: SearchRow, trial_id: str, state: str) -> None:
        with atomic_write(self.folder / (trial_id or _SEARCH) / _STATE) as unfinished:
            unfinished.write_text(f"{search.id} {state}", encoding="utf-8")
        assert self._states is not None, "states are read first"
        self._states[trial_id] = state
