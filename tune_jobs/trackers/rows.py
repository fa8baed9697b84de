"""What trackers show of a search and its trials, read from the ledger."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tune_jobs.job.metric import METRIC_PREFIX
from tune_jobs.ledger.reader import LedgerReader
from tune_jobs.ledger.rows import METRICS, OWN_METRICS
from zsharp.settings import flat

BY_GRADIENTS = "by_gradient_evaluations/"
"""Before the name of a measure whose step is the number of gradient evaluations, by which methods compare fairly."""

_ID_LENGTH = 12
_CHECKSUMS = ("data_checksum", "code_checksum", "weights_checksum")
_COMPARED = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
_NUMBERS = tuple(name for name, kind in METRICS.items() if kind in (int, float) and name != "worker_pid")


@dataclass(frozen=True)
class SearchRow:
    """A search.

    Attributes:
        id: Stays the same when the search is resumed, extended, moved or copied; another search has another.
        job: As it was last extended.
        facts: Versions, commit and checksums, as text by name.
        status: `running`, `finished`, or `stopped` before its last trial.
        counts: Number of trials by status; those that run have none in the ledger and count as `running`.
    """

    id: str
    name: str
    job: Mapping[str, Any]
    facts: Mapping[str, str]
    status: str
    counts: Mapping[str, int]
    started_at: datetime
    ended_at: datetime | None

    @property
    def settings(self) -> dict[str, str]:
        """The job's settings by path, as text."""
        return {path: _text(value) for path, value in flat(self.job) if value not in (None, [], {}, ())}

    @property
    def state(self) -> str:
        """Changes whenever any of it does."""
        told = [self.job, self.facts, self.status, self.counts]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:_ID_LENGTH]


@dataclass(frozen=True)
class TrialRow:
    """A trial, as a row of the ledger with the number of its reports."""

    row: Mapping[str, Any]
    num_reports: int

    @property
    def id(self) -> str:
        """The trial's own id."""
        return str(self.row["trial_id"])

    @property
    def status(self) -> str:
        """How it ended, or `running`."""
        return self.row["status"] or "running"

    @property
    def has_ended(self) -> bool:
        """Whether nothing is expected of it, unless the search is resumed or extended."""
        return self.row["status"] is not None

    @property
    def state(self) -> str:
        """How far the trial is: changes whenever a tracker has something to add. Starts with the number of reports."""
        return f"{self.num_reports} {self.status} {self.row['retries']} {self.row['max_epochs']}"

    @property
    def params(self) -> dict[str, bool | int | float | str]:
        """Its searched settings, and what else makes it a trial of its own."""
        names = ("study", "dataset", "architecture", "method", "variant", "seed", "number", "max_epochs")
        return {
            **self.row["params"],
            **{name: self.row[name] for name in names if self.row[name] is not None},
        }

    @property
    def ending(self) -> dict[str, str]:
        """How it is, in words, by name."""
        told = {name: self.row[name] for name in ("stop_reason", "error", "retries") if self.row[name]}
        return {"status": self.status, **{name: str(value) for name, value in told.items()}}


def epochs_in(state: str | None) -> int:
    """Returns the number of reports that a trial's `state` tells of."""
    first = (state or "").partition(" ")[0]
    return int(first) if first.isdecimal() else 0


def is_running(state: str) -> bool:
    """Whether a trial's `state` is that of one that runs."""
    return state.split(" ")[1:2] == ["running"]


def read(ledger: LedgerReader) -> tuple[SearchRow, list[TrialRow]] | None:
    """Returns a search with all of its trials, as they are at one moment; None if none has begun."""
    with ledger.snapshot():
        events, trials, num_reports = ledger.events(), ledger.trials(), ledger.num_reports()
        jobs, provenance = ledger.jobs(), ledger.provenance
    if not trials:
        return None
    facts = {name: _text(provenance[name]) for name in ("git_commit", "git_dirty") if provenance.get(name)}
    facts |= {f"version.{name}": text for name, text in (provenance.get("package_versions") or {}).items()}
    for event in events:
        facts |= {name: str(event["data"][name]) for name in _CHECKSUMS if event["data"].get(name)}
    sessions = [event for event in events if event["kind"] in ("start", "stop")]
    last = sessions[-1] if sessions else None
    status, ended_at = "running", None
    if last is not None and last["kind"] == "stop":
        status = "finished" if last["data"].get("reason") is None else "stopped"
        ended_at = last["happened_at"]
    started_at = min(trial["started_at"] for trial in trials)
    if ended_at is not None:
        ended_at = max(started_at, ended_at)  # the clock may have been set back between sessions
    identity = json.dumps([jobs[0][1], provenance, started_at.isoformat()], sort_keys=True)
    search = SearchRow(
        id=hashlib.sha256(identity.encode()).hexdigest()[:_ID_LENGTH],
        name=str(jobs[-1][1]["name"]),
        job=jobs[-1][1],
        facts=facts,
        status=status,
        counts=Counter(trial["status"] or "running" for trial in trials),
        started_at=started_at,
        ended_at=ended_at,
    )
    return search, [TrialRow(trial, num_reports[trial["trial_id"]]) for trial in trials]


def measures(report: Mapping[str, Any]) -> dict[str, float]:
    """Returns all numbers of a report by name: its measures and totals, a task's own, and those of its rung."""
    numbers = {name: report.get(name) for name in (*_NUMBERS, "rung", "cutoff", "num_values")}
    numbers |= {f"{METRIC_PREFIX}{name}": value for name, value in report[OWN_METRICS].items()}
    return {name: float(value) for name, value in numbers.items() if value is not None}


def compared_measures(report: Mapping[str, Any]) -> dict[str, float]:
    """Returns what is also shown by gradient evaluations: losses, accuracies, and a task's own metrics."""
    return {
        f"{BY_GRADIENTS}{name}": value
        for name, value in measures(report).items()
        if name in _COMPARED or name.startswith(METRIC_PREFIX)
    }


def is_notable(report: Mapping[str, Any]) -> bool:
    """Whether a report was judged at a rung, or ended its trial."""
    return report["rung"] is not None or report["decision"] != "continue"


def decision_text(report: Mapping[str, Any]) -> str:
    """Returns what was decided on a report and why."""
    return f"{report['decision']}: {report['reason']}" if report["reason"] else str(report["decision"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
