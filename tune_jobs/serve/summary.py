"""A search in a few numbers: its state, its progress, how fast it is, the best of each study."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tune_jobs.job.finalists import FINALISTS, finalist_of
from tune_jobs.job.metric import Metric
from tune_jobs.job.trunk import TRUNK
from tune_jobs.results.finalists import Final, due, ended, finals, settings_of
from tune_jobs.results.live import LiveResults
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.stopping.epochs_left import epochs_left

_SIGNAL = "interrupted by "  # how `tune_jobs.search.wind_down` begins the reason of a signal


@dataclass(frozen=True)
class Best:
    """The best trial of a study: of the finalists, of those that completed, or else of all."""

    study: str
    trial_id: str
    value: float  # of a finalist, the mean over its further seeds
    params: Mapping[str, Any]
    is_final: bool  # whether it trained in full


@dataclass(frozen=True)
class Summary:
    """A search in a few numbers.

    Attributes:
        state: `starting`, `running`, `finished`, `stopped`, `interrupted`, `dead` (its driver ended without a word) or
            `open` (nothing says whether its driver lives).
        reason: Why it is in that state, and what helps; empty where there is nothing to say.
        num_trials: Trials of the entire job.
        counts: Trials by status; `running` are those that have not ended.
        epochs_per_s: None unless it runs.
        left_s: Seconds until it is finished, as trials of this job usually end; None if it does not run.
        saved_fraction: Share of the epochs of all trials that have ended which early stopping saved.
    """

    name: str
    state: str
    reason: str
    metric: Metric
    num_trials: int
    counts: Mapping[str, int]
    best: list[Best]
    epochs: int
    gradient_evaluations: int
    saved_fraction: float
    epochs_per_s: float | None
    left_s: float | None
    reported_at: datetime | None

    @property
    def num_ended(self) -> int:
        """How many trials have ended for good."""
        return sum(
            number for status, number in self.counts.items() if status not in ("running", "interrupted")
        )


def summarize(live: LiveResults, writer: int | None, *, can_tell: bool = True) -> Summary:
    """Returns the summary of a search.

    Args:
        live: What its ledger says.
        writer: As `tune_jobs.serve.writer.writer_of` returns it.
        can_tell: Whether `writer` can be known; in an object store there are no locks.
    """
    counts = Counter(trial["status"] or "running" for trial in live.trials.values())
    compared = {name: trial for name, trial in live.trials.items() if _is_searched(trial)}
    num_others = len(live.trials) - len(compared)
    num_trials = max(_num_asked(live.job), len(compared)) + num_others + _num_finalists_left(live)
    unfinished = counts["running"] + counts["interrupted"]
    is_over = unfinished == 0 and len(live.trials) >= num_trials
    state, reason = _state(live, writer, is_over, can_tell)
    rate = _rate(live) if state in ("running", "open") else None
    fork = live.fork_epoch
    own_epochs = {name: max(0, live.summaries[name]["epochs_trained"] - fork) for name in compared}
    ended = [own_epochs[name] for name, trial in compared.items() if trial["status"]]
    running = [own_epochs[name] for name, trial in compared.items() if not trial["status"]]
    max_epochs = max((trial["max_epochs"] - fork for trial in compared.values()), default=1)
    left = None
    if rate and ended:
        left = epochs_left(ended, running, num_trials - len(live.trials), max_epochs) / rate
    full = sum(trial["max_epochs"] - fork for trial in compared.values() if trial["status"])
    stopped = sum(
        trial["max_epochs"] - live.summaries[trial_id]["epochs_trained"]
        for trial_id, trial in compared.items()
        if trial["status"] in ("pruned", "diverged")
    )
    return Summary(
        name=str(live.job["name"]),
        state=state,
        reason=reason,
        metric=live.metric,
        num_trials=num_trials,
        counts=dict(counts),
        best=_best(live),
        epochs=live.num_reports,
        gradient_evaluations=sum(s.get("gradient_evaluations") or 0 for s in live.summaries.values()),
        saved_fraction=stopped / full if full else 0.0,
        epochs_per_s=rate,
        left_s=left,
        reported_at=live.reported_at[-1] if live.reported_at else None,
    )


def _num_asked(job: Mapping[str, Any]) -> int:
    """Returns how many trials a job has; 0 of a job that this version cannot read."""
    # Not through `JobSpec`, whose studies need torch: a second, and memory that the search beside it may want.
    try:
        own = job.get("task") or job["train"].get("loop")
        num_studies = (1 if own else len(job["architectures"])) * len(job["methods"])
        return num_studies * int(job["search"]["num_trials"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return 0


def _is_searched(trial: Mapping[str, Any]) -> bool:
    return trial["method"] != TRUNK and finalist_of(trial["study"], trial["number"]) is None


def _num_finalists_left(live: LiveResults) -> int:
    """Returns how many trials of finalists have not started, as many as can be of studies that go on."""
    settings = settings_of(live.job)
    most, num_asked = settings[0] * settings[1], _num_asked(live.job)
    if not most or not num_asked:
        return 0
    num_trials, epochs = int(live.job["search"]["num_trials"]), int(live.job["train"]["epochs"])
    left = most * (num_asked // num_trials)
    for study, (rows, _) in _rows_by_study(live).items():
        if sum(row["status"] not in (None, "interrupted") for row in rows) >= num_trials:
            numbers = due(live.metric, settings, ended(rows, live.metric, epochs, of_finalists=False))
            left -= most - sum(f"{study}-{FINALISTS}-{number:04d}" not in live.trials for number in numbers)
    return left


def _rows_by_study(live: LiveResults) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Returns the trials of each study, and those of its finalists, by the columns of `trials.parquet`."""
    rows: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    for name, trial in live.trials.items():
        if trial["method"] != TRUNK:
            params = {f"{PARAM_PREFIX}{param}": value for param, value in trial["params"].items()}
            of_study = rows.setdefault(trial["study"].removesuffix(f"-{FINALISTS}"), ([], []))
            of_study[not _is_searched(trial)].append({**trial, **live.summaries[name], **params})
    return rows


def _state(live: LiveResults, writer: int | None, is_over: bool, can_tell: bool) -> tuple[str, str]:
    sessions = [event for event in live.events if event["kind"] in ("start", "stop")]
    is_open = bool(sessions) and sessions[-1]["kind"] == "start"
    if writer is not None:
        if is_open:
            return "running", ""
        return ("finished", "A process has it open.") if is_over else ("starting", "Its driver loads.")
    if is_open and not can_tell:
        return ("finished", "") if is_over else ("open", "It runs, or its driver died: stores do not tell.")
    if is_open:
        return "dead", "Its driver ended without a word; nothing reported is lost."
    if is_over:
        return "finished", ""
    if not sessions:
        return "dead", "Its driver ended before the first trial."
    reason = str(sessions[-1]["data"].get("reason") or "")
    return ("interrupted" if reason.startswith(_SIGNAL) else "stopped"), reason


def _rate(live: LiveResults) -> float | None:
    """Returns epochs a second over the last reports of this session, until now."""
    num_before = max((event["after"] for event in live.events if event["kind"] == "start"), default=0)
    num_recent = min(len(live.reported_at), live.num_reports - num_before)
    if num_recent < 2:
        return None
    # The wall clock may have been set since the search started. Reports have times of its own clock, which nobody sets.
    reported_at = list(live.reported_at)
    passed = (reported_at[-1] - reported_at[-num_recent]).total_seconds() + live.silent_s
    return (num_recent - 1) / passed if passed > 0 else None


def _finalist_means(live: LiveResults) -> dict[str, Final]:
    """Returns what finalists reached, by the trial of the search, of the studies whose finalists have all ended."""
    settings = settings_of(live.job)
    if not settings[0] or all(map(_is_searched, live.trials.values())):
        return {}
    metric, epochs = live.metric, int(live.job["train"]["epochs"])
    means: dict[str, Final] = {}
    for rows, again in _rows_by_study(live).values():
        searched = ended(rows, metric, epochs, of_finalists=False)
        ranked = finals(metric, settings, searched, ended(again, metric, epochs, of_finalists=True))
        means |= {final.trial_id: final for final in ranked}
    return means


def _best(live: LiveResults) -> list[Best]:
    metric = live.metric
    bests: dict[str, tuple[tuple[bool, bool, tuple[float, float]], Best]] = {}
    means = _finalist_means(live)
    for trial_id, trial in live.trials.items():
        if not _is_searched(trial):
            continue
        summary = live.summaries[trial_id]
        value = metric.of(summary)
        if value is None or trial["status"] in ("diverged", "failed"):
            continue
        is_final = trial["status"] == "completed"
        final = means.get(trial_id)
        if final is not None:
            value = final.mean
        rank = (final is not None, is_final, metric.merit(value, summary.get("val_loss")))
        if trial["study"] not in bests or rank > bests[trial["study"]][0]:
            bests[trial["study"]] = (
                rank,
                Best(trial["study"], trial_id, value, trial["params"], is_final),
            )
    return sorted((best for _, best in bests.values()), key=lambda best: -metric.sign * best.value)
