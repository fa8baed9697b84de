"""Forecasts how long a confirmation takes, from the seconds that the search recorded of its epochs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_jobs.cluster.slots import makespan
from tune_jobs.confirmation.plan import Confirmation, plan_confirmations
from tune_jobs.errors import JobError
from tune_jobs.job.spec import JobSpec
from tune_jobs.ledger.writer import Ledger
from zsharp.optim.methods import find_method

_STARTUP_S = 8.0  # that Ray and the first workers take before anything trains
# Over the images, in gradient evaluations of training, whose batches are smaller. The docstring of `measure` says at
# most 130; on digits half as many were measured.
_PASSES_OF_SHARPNESS = 70


@dataclass(frozen=True)
class Outlook:
    """What a confirmation is going to do."""

    runs: Sequence[Confirmation]  # all of them
    waiting: Sequence[Confirmation]  # those that are not done
    num_slots: int  # runs at once
    deciding_seeds: int  # the fewest seeds with which a difference between the methods can be significant
    num_methods: int  # how many are compared with one another, at most
    num_unmeasured: int  # runs that are done and were not measured, if sharpness is asked for
    sharpness_s: float | None  # seconds that measuring adds to all that is waiting; None if not known
    countdown: "Countdown"


class Countdown:
    """Says how long the rest of a confirmation takes, while it runs.

    Args:
        expected: Seconds of each waiting run by its key, in the order in which they start; empty if not known.
    """

    def __init__(self, expected: Mapping[str, float], num_slots: int) -> None:
        self._expected = dict(expected)
        self._num_slots = num_slots
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self.epochs: dict[str, int] = {}  # the last epoch of each run that has trained one

    def start(self, key: str) -> None:
        """Notes that a run starts, perhaps once more."""
        self._started[key] = time.monotonic()

    def report(self, key: str, epoch: int) -> None:
        """Notes that a run has trained an epoch."""
        self.epochs[key] = epoch

    def end(self, key: str) -> None:
        """Notes that a run has ended."""
        self._ended[key] = time.monotonic() - self._started.pop(key)

    @property
    def running(self) -> list[str]:
        """The keys of the runs that train now."""
        return list(self._started)

    @property
    def left_s(self) -> float | None:
        """Seconds until the last run has ended; None if the search recorded no times."""
        if not self._expected:
            return None
        ended, started, now = dict(self._ended), dict(self._started), time.monotonic()
        left = {key: seconds for key, seconds in self._expected.items() if key not in ended}
        if ended:  # how much slower or faster than the search the runs were that have ended
            pace = sum(ended.values()) / max(1e-9, sum(self._expected[key] for key in ended))
            left = {key: seconds * pace for key, seconds in left.items()}
        running = [
            max(0.0, seconds - (now - started[key])) for key, seconds in left.items() if key in started
        ]
        waiting = [seconds for key, seconds in left.items() if key not in started]
        before = 0.0 if ended or started else _STARTUP_S
        return before + makespan([*running, *waiting], self._num_slots)


@dataclass(frozen=True)
class Suggestion:
    """How the winners of a search can be confirmed."""

    num_seeds: int  # the fewest that can decide
    num_runs: int  # in all
    seconds: (
        float | None
    )  # how long that takes with as many runs at once as the search had; None if not known


def suggest_confirmation(ledger: Ledger, methods: Sequence[str] = ()) -> Suggestion | None:
    """Returns what it takes to confirm a search's winners, all or those of some methods.

    Returns:
        None if there are none, or all are confirmed.
    """
    job = JobSpec.model_validate(ledger.job)
    try:
        runs = plan_confirmations(job, ledger, "", methods=methods)
    except JobError:
        return None
    recorded = ledger.confirmations()
    if all(run.key in recorded for run in runs):
        return None
    seconds, _ = expected_seconds(job, runs, ledger.reports(), 0)
    slots = [event["data"]["slots"] for event in ledger.events() if event["kind"] in ("start", "slots")]
    total_s = _STARTUP_S + makespan(seconds.values(), slots[-1]) if seconds and slots else None
    return Suggestion(len({run.seed for run in runs}), len(runs), total_s)


def expected_seconds(
    job: JobSpec, runs: Sequence[Confirmation], reports: Sequence[Mapping[str, Any]], sharpness_images: int
) -> tuple[dict[str, float], float | None]:
    """Returns how long each run will take, by key, and how many of all these seconds are for measuring sharpness.

    A run is taken to train as fast as the trial that won, which shared the machine with as many others.

    Returns:
        nothing and None if the search recorded no times.
    """
    last = {report["trial_id"]: report for report in reports}
    # Nothing is held out any more.
    more_images = 1.0 if job.own else 1 / (1 - job.data.val_fraction)
    seconds: dict[str, float] = {}
    measuring_s = 0.0
    trunks: set[str] = set()
    for run in runs:
        report = last.get(run.winner.trial_id, {})
        trained_s = report.get("wall_s") or report.get("train_s")
        if not trained_s:
            return {}, None
        fork = 0 if run.trunk is None else run.trunk.num_epochs
        epoch_s = trained_s / (report["epoch"] - fork) * more_images
        seconds[run.key] = epoch_s * (run.spec.train.epochs - fork)
        if run.trunk is not None and run.trunk.name not in trunks:  # the first run of its seed stands for it
            trunks.add(run.trunk.name)
            per_step = find_method(run.spec.method).gradient_evaluations_per_step
            seconds[run.key] += epoch_s / per_step * fork
        if sharpness_images and not job.own and report.get("images_per_s"):
            per_image = find_method(run.spec.method).gradient_evaluations_per_step * report["images_per_s"]
            measured_s = _PASSES_OF_SHARPNESS * sharpness_images / per_image
            seconds[run.key] += measured_s
            measuring_s += measured_s
    return seconds, measuring_s
