"""Estimates what a job would cost before it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tune_jobs.cluster.ray import is_running_elsewhere
from tune_jobs.job.code import OwnCode, uses_own_code
from tune_jobs.job.data_checks import data_in_words, try_job
from tune_jobs.job.model_checks import num_copies
from tune_jobs.job.rehearsal import rehearse
from tune_jobs.job.spec import JobSpec
from tune_jobs.search.folder import search_folder
from tune_jobs.search.run import plan_resources
from tune_jobs.search.time_plan import TimePlan, plan_time, time_lines
from tune_jobs.search.timing import time_job
from tune_jobs.stopping.asha import Rule
from tune_jobs.stopping.simulate import Band, epochs_band
from tune_jobs.wording import counted
from zsharp.optim.methods import find_method

# Upper bounds, measured on ledgers and Parquet files of real searches.
_BYTES_PER_SEARCH = 100_000
_BYTES_PER_REPORT = 1_500
_BYTES_PER_TRIAL = 3_000
_BYTES_PER_CHECKPOINT = 200_000  # besides the weights and the optimizer state of their size


@dataclass(frozen=True)
class StudyPlan:
    """The cost of one study."""

    name: str
    num_trials: int
    max_epochs: int  # epochs if nothing is stopped
    steps_per_epoch: int | None  # optimizer steps of an epoch; None where a loop of the user's own decides
    gradient_evaluations_per_epoch: int | None  # forward and backward passes of an epoch
    is_compared: bool = True  # False of trunks and finalists, which no method is compared with


@dataclass(frozen=True)
class Plan:
    """The cost of a job."""

    folder: str  # where the search will be kept
    studies: tuple[StudyPlan, ...]  # one row each
    spend_random: Band  # epochs of all studies if later trials are no better than earlier ones
    spend_improving: Band  # epochs of all studies if later trials are better
    explanation: list[str]  # how trials fill the machine
    notes: tuple[str, ...]  # what the data are, and what was decided about them
    storage_bytes: int  # size of ledger and Parquet files if nothing is stopped
    checkpoint_bytes: int | None  # size of all checkpoints that can be there at once; None if it is not known
    time: TimePlan | None = None  # how long it takes; None if that was not asked for
    time_lines: tuple[str, ...] = ()  # the same in words, or why nothing was timed


def make_plan(job: JobSpec, out: str | Path | None = None, *, is_timed: bool = False) -> Plan:
    """Returns what `job` would cost on this machine, or on the Ray that it would connect to.

    Args:
        is_timed: Whether to take a few steps of each study, to tell how long everything takes.

    Raises:
        JobError: If it could not run.
    """
    steps, weights, notes, checksum = _what_trains(job)
    slots, totals = plan_resources(job)
    own_epochs = job.train.epochs - job.fork_epoch
    studies = tuple(
        StudyPlan(
            study.name,
            job.search.num_trials,
            job.search.num_trials * own_epochs,
            steps,
            None if steps is None else steps * find_method(study.method).gradient_evaluations_per_step,
        )
        for study in job.studies()
    )
    seeds, num_studies = job.num_trunk_seeds, len(studies)
    trunks = tuple(
        StudyPlan(t.name, seeds, seeds * job.fork_epoch, steps, steps, is_compared=False)
        for t in job.trunks()
    )
    num_again = job.search.num_finalist_trials
    finalists = tuple(
        replace(
            plan, name=study.name, num_trials=num_again, max_epochs=num_again * own_epochs, is_compared=False
        )
        for plan, study in zip(studies, job.finalist_studies(), strict=True)
        if num_again
    )
    not_stopped = sum(plan.max_epochs for plan in (*trunks, *finalists))
    rule = Rule.of_job(job.model_dump())
    at_once = max(1, round(slots.num_slots / num_studies))
    num_trials = job.search.num_trials
    reports = sum(study.max_epochs for study in (*trunks, *studies, *finalists))
    folder = search_folder(job, out).address
    random = _of_all(epochs_band(rule, num_trials, at_once, improving=False), num_studies)
    improving = _of_all(epochs_band(rule, num_trials, at_once, improving=True), num_studies)
    time: TimePlan | None = None
    lines: tuple[str, ...] = ()
    if is_timed and is_running_elsewhere():
        lines = ("Time: not known here, since trials run on the Ray that RAY_ADDRESS names.",)
    elif is_timed:
        code = OwnCode.imported(job).checksum if uses_own_code(job) else None
        timing = time_job(job, slots, totals.gpu_names, (code, checksum))
        time = plan_time(job, timing, slots, random)
        lines = tuple(time_lines(job, time, folder))
    return Plan(
        folder=folder,
        studies=(*trunks, *studies, *finalists),
        spend_random=_with(random, not_stopped),
        spend_improving=_with(improving, not_stopped),
        explanation=slots.explanation,
        notes=notes,
        storage_bytes=(
            _BYTES_PER_SEARCH
            + reports * _BYTES_PER_REPORT
            + num_studies * (num_trials + num_again) * _BYTES_PER_TRIAL
        ),
        checkpoint_bytes=_checkpoint_bytes(job, weights, slots.num_slots),
        time=time,
        time_lines=lines,
    )


def _what_trains(
    job: JobSpec,
) -> tuple[int | None, Mapping[str, int] | None, tuple[str, ...], str | None]:
    """Returns the steps of an epoch, how many components each architecture stores, and what to say of the data.

    The last is the data's checksum. What a loop of the user's own trains is unknown before it does.
    """
    if job.own is None:
        tried = try_job(job)
        weights = {name: facts.num_stored for name, facts in tried.models.items()}
        notes = (data_in_words(job, tried.info), *tried.info.notes)
        return tried.steps_per_epoch, weights, notes, tried.info.checksum
    rehearsed = rehearse(job)
    if rehearsed.num_parameters is None:
        return None, None, (), None
    return rehearsed.steps_per_epoch, {job.own: rehearsed.num_parameters}, (), None


def _checkpoint_bytes(job: JobSpec, num_stored: Mapping[str, int] | None, num_slots: int) -> int | None:
    """Returns the size of the best trials' checkpoints and the running ones', which are briefly there twice."""
    if num_stored is None:
        return None
    sizes: dict[str, int] = {}
    for study in job.studies():
        # Beside the weights and what belongs to all methods, the gradients that some remember.
        copies = 1 + num_copies(job) + find_method(study.method).rules.remembers_gradients
        sizes[study.name] = _BYTES_PER_CHECKPOINT + 4 * copies * num_stored[study.architecture]
    most = job.search.keep_checkpoints and max(job.search.keep_checkpoints, job.search.finalists)
    kept = min(most, job.search.num_trials) * sum(sizes.values())
    kept += len(job.trunks()) * job.num_trunk_seeds * max(sizes.values())
    return kept + 2 * min(num_slots, job.num_trials) * max(sizes.values())


def render_plan(plan: Plan) -> Group:
    """Returns the plan for a terminal."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("study", no_wrap=True)
    for name in ("trials", "epochs at most", "steps per epoch", "gradient evaluations at most"):
        table.add_column(name, justify="right", no_wrap=True)
    epoch_s = {} if plan.time is None else plan.time.epoch_s
    if epoch_s:
        table.add_column("s per epoch", justify="right", no_wrap=True)
    for study in plan.studies:
        per_epoch = study.gradient_evaluations_per_epoch
        table.add_row(
            Text(study.name),
            f"{study.num_trials:,}",
            f"{study.max_epochs:,}",
            "–" if study.steps_per_epoch is None else f"{study.steps_per_epoch:,}",
            "–" if per_epoch is None else f"{study.max_epochs * per_epoch:,}",
            *([f"{epoch_s[study.name]:,.3g}" if study.name in epoch_s else "–"] if epoch_s else []),
        )
    most = sum(study.max_epochs for study in plan.studies)
    compared = [study for study in plan.studies if study.is_compared]
    studies = counted(len(compared), "study", "studies")
    trials = counted(sum(study.num_trials for study in compared), "trial")
    lines = [
        f"{studies}, {trials}, at most {counted(most, 'epoch')}.",
        *_spend_lines(plan, most),
        *plan.time_lines,
        *(f"Data: {note}." for note in dict.fromkeys(plan.notes)),
        f"Resources: {'; '.join(plan.explanation)}.",
        f"Storage: at most {plan.storage_bytes / 1e6:,.1f} MB of results and {_checkpoints(plan)} in {plan.folder}",
    ]
    return Group(table, "", *map(Text, lines))


def _checkpoints(plan: Plan) -> str:
    if plan.checkpoint_bytes is None:
        return "what your loop saves"
    return f"{plan.checkpoint_bytes / 1e6:,.1f} MB of checkpoints"


def _spend_lines(plan: Plan, most: int) -> list[str]:
    if plan.spend_random.low == most:
        return ["No trial would be stopped early."]
    random, improving = (
        f"{band.low:,} to {band.high:,} of them ({band.low / most:.0%} to {band.high / most:.0%})"
        for band in (plan.spend_random, plan.spend_improving)
    )
    if random == improving:
        return [
            f"Early stopping, simulated, leaves {random}, whether the sampler gets better as it goes or not."
        ]
    return [
        f"Early stopping, simulated, leaves {random}.",
        f"If the sampler gets better as it goes, it leaves {improving}.",
    ]


def _with(band: Band, epochs: int) -> Band:
    return Band(band.low + epochs, band.median + epochs, band.high + epochs)


def _of_all(band: Band, num_studies: int) -> Band:
    """Returns the band of a whole job. Its studies share data and budget, so their epochs rise and fall together."""
    return Band(band.low * num_studies, band.median * num_studies, band.high * num_studies)
