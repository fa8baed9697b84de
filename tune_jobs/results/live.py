"""The results of a search as its ledger has them now, brought up to date row by row, without Parquet files."""

import time
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tune_jobs.job.metric import METRIC_PREFIX, Metric
from tune_jobs.ledger.follow import Follower, News
from tune_jobs.ledger.rows import OWN_METRICS
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import Results, parse_metadata, results_of, to_frame
from tune_jobs.results.schema import SHARPNESS_PREFIX, confirmations_schema, epochs_schema, trials_schema
from tune_jobs.results.write import (
    confirmation_row,
    file_metadata,
    named_after,
    own_metrics,
    summarise,
    trial_row,
)

_MANY_CHUNKS = 200
_RECENT = 200  # reports, from which a rate is taken
_MOST_KEPT = (
    200_000  # reports in memory; of more, every second epoch, or every fourth, and all at rungs and ends
)

_LONGEST = 2**16  # epochs of a trial: those at rungs and ends stay, however many


class LiveResults:
    """What a local search folder's ledger says; `update` reads what is new.

    Attributes:
        folder: The search folder.
        trials: Trials by their ids, as `Ledger.trials` returns them, in the order started.
        summaries: What each trial's reports come to: `epochs_trained`, values of the last one, and more.
        events: All events of the search.
        reported_at: When the last reports arrived, the latest last.
        stride: Of how many epochs one is kept in memory, besides those at rungs and ends: 1, or a power of two.
        version: Counts the updates that found something.
        is_complete: Whether everything in the file has been read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._follower = Follower(self.folder)
        self.version = 0
        self._forget()

    @property
    def silent_s(self) -> float:
        """Seconds since the last reports were read."""
        return time.monotonic() - self._heard_s

    def update(self) -> bool:
        """Reads what is new, at most 5,000 reports at once; returns whether anything is.

        Raises:
            LedgerError: If there is no ledger that can be used.
        """
        news = self._follower.look()
        if news is None:
            return False
        if news.is_another:
            self._forget()
        self._take_in(news)
        self.version += 1
        return True

    @property
    def job(self) -> Mapping[str, Any]:
        """The job as it was last extended."""
        return self._jobs[-1][1]

    @property
    def metric(self) -> Metric:
        """What its trials are ranked by."""
        return Metric.of_job(self.job)

    @property
    def fork_epoch(self) -> int:
        """The epochs that its trials share with their trunks; 0 without trunks."""
        return max((int(e["data"]["epoch"]) for e in self.events if e["kind"] == "fork"), default=0)

    def reports(self, trial_id: str) -> list[dict[str, Any]]:
        """Returns all reports of a trial as the ledger has them, with columns for what a task of the user's measured.

        Raises:
            LedgerError: If the ledger cannot be used.
        """
        with Ledger.open(self.folder, read_only=True) as ledger:
            return [{**report, **own_metrics(report)} for report in ledger.reports_after(trial_id, 0)]

    def results(self) -> Results:
        """Returns the same as `read_results` after an export at this moment, with the reports that are kept."""
        params = {name for trial in self.trials.values() for name in trial["params"]}
        names = {
            name
            for trial in self.trials.values()
            for name, value in trial["params"].items()
            if isinstance(value, bool | str)
        }
        origins = {e["trial_id"]: e["data"].get("origin") for e in self.events if e["kind"] == "origin"}
        forks = {
            e["trial_id"]: {"trunk": e["data"].get("trunk"), "fork_epoch": e["data"].get("epoch")}
            for e in self.events
            if e["kind"] == "fork"
        }
        rows = [
            trial_row(
                self.job["name"],
                {**trial, "origin": origins.get(trial_id), **forks.get(trial_id, {})},
                self.summaries[trial_id],
                names,
            )
            for trial_id, trial in self.trials.items()
        ]
        confirmations = [confirmation_row(row, names) for row in self.confirmations.values()]
        sharpness, measured = (
            named_after(confirmations, prefix) for prefix in (SHARPNESS_PREFIX, METRIC_PREFIX)
        )
        epochs = self._epochs()
        metrics = [
            name.removeprefix(METRIC_PREFIX) for name in epochs.column_names if name.startswith(METRIC_PREFIX)
        ]
        return results_of(
            self.folder,
            to_frame(_table(rows, trials_schema(params, metrics, names=names))),
            to_frame(epochs),
            to_frame(_table(confirmations, confirmations_schema(params, sharpness, measured, names=names))),
            parse_metadata(file_metadata(self.job, self._meta["provenance"], self._jobs)),
        )

    def _forget(self) -> None:
        self.trials: dict[str, dict[str, Any]] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.confirmations: dict[str, dict[str, Any]] = {}
        self.reported_at: deque[datetime] = deque(maxlen=_RECENT)
        self._heard_s = time.monotonic()
        self.num_reports = 0
        self.stride = 1
        self.is_complete = False
        self._meta: dict[str, dict[str, Any]] = {}
        self._jobs: list[tuple[int, dict[str, Any]]] = []
        self._tables = [epochs_schema().empty_table()]

    def _take_in(self, news: News) -> None:
        if news.meta:
            self._meta = news.meta
            self._jobs = [(0, news.meta["job"])]
        for trial in news.trials:
            self.trials[trial["trial_id"]] = trial
            self.summaries.setdefault(trial["trial_id"], {"epochs_trained": 0, "best_val_accuracy": None})
        self.events += news.events
        self._jobs += [(e["after"], e["data"]["job"]) for e in news.events if e["kind"] == "job"]
        self.confirmations |= news.confirmations
        last = {report["trial_id"]: report for report in news.reports}
        for report in news.reports:
            trial_id = report["trial_id"]
            summarise(self.summaries[trial_id], report, is_last=report is last[trial_id])
        self.reported_at.extend(report["reported_at"] for report in news.reports[-_RECENT:])
        self.num_reports += len(news.reports)
        if news.reports:
            self._heard_s = time.monotonic()
        kept = [report for report in news.reports if self._is_kept(report)]
        if kept:
            metrics = sorted({name for report in kept for name in report[OWN_METRICS]})
            rows = [
                {
                    **report,
                    **own_metrics(report),
                    "job": self.job["name"],
                    "study": self.trials[report["trial_id"]]["study"],
                }
                for report in kept
            ]
            self._tables.append(_table(rows, epochs_schema(metrics)))
            while sum(table.num_rows for table in self._tables) > _MOST_KEPT and self.stride < _LONGEST:
                self._thin_out()
        self.is_complete = not news.has_more

    def _is_kept(self, report: Mapping[str, Any]) -> bool:
        is_turn = (report["epoch"] - 1) % self.stride == 0
        return is_turn or report["rung"] is not None or report["decision"] != "continue"

    def _thin_out(self) -> None:
        """Keeps every second of the epochs that were kept so far."""
        table = self._epochs()
        self.stride *= 2
        in_turn = pc.equal(pc.bit_wise_and(pc.subtract(table["epoch"], 1), self.stride - 1), 0)
        is_end = pc.not_equal(table["decision"], "continue")
        fewer = table.filter(pc.or_(pc.or_(in_turn, pc.is_valid(table["rung"])), is_end))
        self._tables = [fewer.combine_chunks()]

    def _epochs(self) -> pa.Table:
        table = pa.concat_tables(self._tables, promote_options="default")
        if table.column(0).num_chunks > _MANY_CHUNKS:
            table = table.combine_chunks()
        self._tables = [table]
        return table


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)
