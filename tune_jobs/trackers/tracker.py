"""What a tracker does, whichever it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tune_jobs.trackers.rows import SearchRow, TrialRow


class Tracker(Protocol):
    """Shows searches elsewhere: one run for the search and one for each trial, each report once.

    It says itself how far it is, so that whoever asks next, in this process or another, adds only what is missing.
    Its methods may raise anything when it cannot be reached; the next call tries again.
    """

    def states(self, search: SearchRow) -> Mapping[str, str]:
        """Returns the `state` of each trial by its id, and of the search by "", as they were last written entirely."""

    def num_written(self, search: SearchRow, trial: TrialRow) -> int:
        """Returns after how many reports of a trial to go on."""

    def write(
        self, search: SearchRow, trial: TrialRow, reports: Sequence[Mapping[str, Any]], state: str
    ) -> None:
        """Adds the reports of a trial after `num_written`, and how it is; its `state` last."""

    def write_search(self, search: SearchRow, state: str, page: Path | None) -> None:
        """Writes the run of the search itself, with a report page if there is one; its `state` last."""

    def close(self) -> None:
        """Ends what this process has open."""
