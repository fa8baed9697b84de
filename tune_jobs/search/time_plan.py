"""Estimates how long a job's search and its confirmation take, from the times of a few steps."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tune_jobs.cluster.slots import Slots, makespan
from tune_jobs.job.spec import JobSpec
from tune_jobs.results.statistics import smallest_n
from tune_jobs.search.timing import BUSY, Timed, Timing
from tune_jobs.stopping.simulate import Band
from tune_jobs.wording import counted, duration, duration_band
from zsharp.optim.methods import find_method

_RAY_S = 3.0  # that Ray takes to start before its workers do, and to end
_TURN_S = 0.05  # of an epoch: its report, the decision on it, and the ledger


@dataclass(frozen=True)
class TimePlan:
    """How long a job takes on this machine; each pair is the least and the most."""

    epoch_s: dict[str, float]  # of each study that could be timed
    search_s: tuple[float, float] | None = None  # None if a study could not be timed
    confirm_s: tuple[float, float] | None = None
    gpu_hours: tuple[float, float] = (0.0, 0.0)  # of the search
    confirm_gpu_hours: tuple[float, float] = (0.0, 0.0)
    num_seeds: int = 0  # of the confirmation: the fewest that can decide
    num_runs: int = 0  # likewise, in all
    is_busy: bool = False  # whether other programs use the cores, which the larger numbers account for
    is_without_validation: bool = False
    is_stopping: bool = False  # whether stopping trials early saves anything
    took_s: float = 0.0
    problem: str | None = None  # why it is not known


def plan_time(job: JobSpec, timing: Timing, slots: Slots, epochs: Band) -> TimePlan:
    """Returns how long a job takes.

    The search takes at least what it takes if trials are stopped as often as among equally good samples, and at most
    what it takes if none is.

    Args:
        epochs: What the stopping rule is likely to leave of the whole job.
    """
    studies = job.studies()
    timed = [timing.studies[study.name] for study in studies if study.name in timing.studies]
    epoch_s = {name: measured.epoch_s for name, measured in timing.studies.items()}
    if len(timed) < len(studies):
        return TimePlan(epoch_s, problem=timing.problem, took_s=timing.took_s)
    num_slots = min(slots.num_slots, job.num_trials)
    num_seeds = smallest_n(max(2, len(job.methods)))
    num_epochs, num_trials = job.train.epochs - job.fork_epoch, job.search.num_trials
    share_left = epochs.low / (num_epochs * job.num_trials)
    startup_s = timing.startup_s + _RAY_S
    # A confirmation holds nothing out; its runs are whole, in the order of their seeds.
    more_images = 1.0 if job.own else 1 / (1 - job.data.val_fraction)

    def both(share: float, images: float = 1.0) -> tuple[list[float], list[float]]:
        """Returns the seconds of a run of each study, without other programs and with them."""
        fast = [_run_s(measured, num_epochs * share * images, measured.worked_share) for measured in timed]
        return fast, [_run_s(measured, num_epochs * images, 1.0) for measured in timed]

    (least, _), (_, most) = both(share_left), both(1.0)
    confirm_least, confirm_most = both(1.0, more_images)
    # Trunks train with the base optimizer; methods of two gradients a step take about twice as long.
    trunk_s = {
        study.architecture: measured.epoch_s / find_method(study.method).gradient_evaluations_per_step
        for study, measured in zip(studies, timed, strict=True)
    }
    trunks_s = job.fork_epoch * sum(trunk_s.values()) / num_slots
    search_trunks_s, confirm_trunks_s = trunks_s * job.num_trunk_seeds, trunks_s * num_seeds * more_images
    again = job.search.num_finalist_trials  # of each study, none of which is stopped
    again_least, again_most = (again * sum(run_s) for run_s in both(1.0))
    return TimePlan(
        epoch_s,
        search_s=(
            startup_s
            + search_trunks_s
            + max(max(least), num_trials * sum(least) / num_slots)
            + again_least / num_slots,
            startup_s
            + search_trunks_s
            + (num_trials * sum(most) + again_most) / num_slots
            + max(most) * (1 - 1 / num_slots),
        ),
        confirm_s=(
            startup_s + confirm_trunks_s + makespan(confirm_least * num_seeds, slots.num_slots),
            startup_s + confirm_trunks_s + makespan(confirm_most * num_seeds, slots.num_slots),
        ),
        gpu_hours=_gpu_hours(
            slots, num_trials * sum(least) + again_least, num_trials * sum(most) + again_most
        ),
        confirm_gpu_hours=_gpu_hours(slots, num_seeds * sum(confirm_least), num_seeds * sum(confirm_most)),
        num_seeds=num_seeds,
        num_runs=num_seeds * len(studies),
        is_busy=min(measured.worked_share for measured in timed) < BUSY,
        is_without_validation=not all(measured.validates for measured in timed),
        is_stopping=share_left < 1,
        took_s=timing.took_s,
    )


def time_lines(job: JobSpec, plan: TimePlan, folder: str) -> Iterator[str]:
    """Yields what a plan says of time, a sentence a line."""
    if plan.search_s is None or plan.confirm_s is None:
        untimed = (study.architecture for study in job.studies() if study.name not in plan.epoch_s)
        what = ", ".join(dict.fromkeys(untimed))
        yield f"Time: {what} could not be timed here: {plan.problem or 'nothing was measured'}."
        return
    low, high = plan.search_s
    hours = job.budget.hours
    if hours is not None and low < 3600 * hours < high:
        high = 3600 * hours
    yield f"Time: the search takes {duration_band(low, high)}{_why(plan)}."
    if hours is not None and 3600 * hours <= low:
        yield f"Time: budget.hours ends it after {duration(3600 * hours)}."
    yield (
        f"Time: `tune-jobs confirm {shlex.quote(folder)} --seeds {plan.num_seeds}` then takes "
        f"{duration_band(*plan.confirm_s)} for {counted(plan.num_runs, 'run')}."
    )
    if plan.gpu_hours[1] > 0:
        search, confirmation = (_number_band(*band) for band in (plan.gpu_hours, plan.confirm_gpu_hours))
        yield f"GPU-hours: {search} for the search, {confirmation} for the confirmation."
        if job.resources.gpus_per_trial == "auto":
            yield "Trials that share a GPU, if the search finds that they gain from it, take less in all."
    workers = job.resources.workers_per_trial
    if workers > 1:
        yield _of_one_process(workers, on_gpus=plan.gpu_hours[1] > 0)
    if plan.is_without_validation:
        yield "Validation takes too long to be timed, and is not included."
    how = (
        f"a few steps of each study, in {duration(plan.took_s)}"
        if plan.took_s
        else "kept from an earlier plan"
    )
    yield f"Timed on this machine: {how}."


def _of_one_process(workers: int, *, on_gpus: bool) -> str:
    """Returns in how far times of one process with the whole batch are those of a trial of several."""
    if on_gpus:
        return (
            f"These are times of one process on one GPU with the whole batch: {workers} processes on GPUs of their own "
            f"take less, at best 1/{workers} of it."
        )
    return (
        f"These are times of one process with the whole batch and all CPUs of a trial: its {workers} processes also "
        "exchange gradients, which is not included."
    )


def _why(plan: TimePlan) -> str:
    """Returns what the ends of the search's band stand for."""
    if plan.is_busy:
        return f" (the least {'with early stopping and ' if plan.is_stopping else ''}without other programs)"
    return " (the least with early stopping, the most without)" if plan.is_stopping else ""


def _run_s(timed: Timed, num_epochs: float, share: float) -> float:
    return timed.begin_s + num_epochs * (timed.epoch_s * share + _TURN_S)


def _gpu_hours(slots: Slots, low_s: float, high_s: float) -> tuple[float, float]:
    return slots.gpus_per_trial * low_s / 3600, slots.gpus_per_trial * high_s / 3600


def _number_band(low: float, high: float) -> str:
    few, many = f"{low:.2g}", f"{high:.2g}"
    return few if few == many else f"{few} to {many}"
