"""Writes a search to a tracker, once, from its ledger."""

from pathlib import Path

from tune_jobs.errors import TrackerError, TuneJobsError
from tune_jobs.trackers.catch_up import Written, catch_up
from tune_jobs.trackers.targets import Kind, make_tracker, shown_target
from tune_jobs.trackers.turns import turn
from tune_jobs.wording import last_line


def export_to(kind: Kind, target: str, folder: Path, page: Path | None = None) -> Written:
    """Writes what a tracker lacks of the search in a local folder; repeated, it adds nothing.

    Args:
        target: Where, as `tune_jobs.trackers.targets.target_of` returns it.
        page: The search's report, which is attached to the run of the search.

    Raises:
        TrackerError: If the tracker does not answer, or another process is writing the search to it.
    """
    with turn(folder, kind):
        try:
            tracker = make_tracker(kind, target, folder)
            try:
                return catch_up(tracker, folder, page)
            finally:
                tracker.close()
        except TuneJobsError:
            raise
        except Exception as error:  # a tracker's client raises what it likes
            where = shown_target(kind, target, folder)
            text = f"{kind}: {where} cannot be written: {last_line(str(error)) or type(error).__name__}"
            raise TrackerError(text) from error
