"""Brings a tracker up to date with a search's ledger: what it lacks is written, what it has is left alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_jobs.ledger.writer import Ledger
from tune_jobs.trackers.rows import SearchRow, TrialRow, read
from tune_jobs.trackers.tracker import Tracker

_BATCH = 20_000
"""Reports in memory at a time."""


@dataclass(frozen=True)
class Written:
    """What was written: numbers of trials and of reports."""

    num_trials: int = 0
    num_reports: int = 0


def catch_up(tracker: Tracker, folder: Path, page: Path | None = None) -> Written:
    """Writes to a tracker what the ledger of a local search folder has and the tracker lacks.

    It may be cut off at any moment and called again, also by another process, as long as they take turns.

    Args:
        page: The search's report, which is attached to the run of the search.
    """
    with Ledger.open(folder, read_only=True) as ledger:
        current = read(ledger)
    if current is None:
        return Written()
    search, trials = current
    states = tracker.states(search)
    # First, as trackers show trials below their search.
    if page is not None or states.get("") != search.state:
        tracker.write_search(search, search.state, page)
    pending = [trial for trial in trials if states.get(trial.id) != trial.state]
    written = Written()
    while pending:
        batch = _read(tracker, folder, search, pending)
        for trial, reports in batch:
            tracker.write(search, trial, reports, trial.state)
            written = Written(written.num_trials + 1, written.num_reports + len(reports))
        pending = pending[len(batch) :]
    return written


def _read(
    tracker: Tracker, folder: Path, search: SearchRow, trials: list[TrialRow]
) -> list[tuple[TrialRow, list[dict[str, Any]]]]:
    """Reads the missing reports of the first trials; the ledger is closed again before they are sent anywhere."""

    def missing() -> Iterator[tuple[TrialRow, list[dict[str, Any]]]]:
        num_read = 0
        with Ledger.open(folder, read_only=True) as ledger:
            for trial in trials:
                if num_read >= _BATCH:
                    return
                after = tracker.num_written(search, trial)
                reports = ledger.reports_after(trial.id, after)[: max(0, trial.num_reports - after)]
                num_read += len(reports)
                yield trial, reports

    return list(missing())
