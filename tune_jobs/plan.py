"""What a job would cost before it runs."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from tune_jobs.asha import Rule
from tune_jobs.data_checks import check_data
from tune_jobs.search import plan_resources, search_folder
from tune_jobs.simulate import Band, epochs_band
from tune_jobs.spec import JobSpec
from zsharp.optim.methods import find_method

# Measured on ledgers and Parquet files of real searches (docs/log.md).
_BYTES_PER_REPORT = 1_500
_BYTES_PER_TRIAL = 3_000


@dataclass(frozen=True)
class StudyPlan:
    """The cost of one study.

    Attributes:
        name: The study.
        num_trials: Its trials.
        max_epochs: Epochs if nothing is stopped.
        steps_per_epoch: Optimizer steps of an epoch.
        gradient_evaluations_per_epoch: Forward and backward passes of an epoch.
    """

    name: str
    num_trials: int
    max_epochs: int
    steps_per_epoch: int
    gradient_evaluations_per_epoch: int


@dataclass(frozen=True)
class Plan:
    """The cost of a job.

    Attributes:
        folder: Where the search will be kept.
        studies: One row each.
        spend_random: Epochs of one study if later trials are no better than earlier ones.
        spend_improving: Epochs of one study if the sampler improves.
        explanation: How trials fill the machine.
        storage_bytes: Size of ledger and Parquet files if nothing is stopped.
    """

    folder: Path
    studies: tuple[StudyPlan, ...]
    spend_random: Band
    spend_improving: Band
    explanation: list[str]
    storage_bytes: int


def make_plan(job: JobSpec, out: str | Path | None = None) -> Plan:
    """Returns what `job` would cost on this machine, or on the Ray that is there to connect to.

    Raises:
        JobError: If it could not run.
    """
    info = check_data(job)
    slots, _ = plan_resources(job)
    num_images = job.data.max_images or info.num_train
    num_train = num_images - round(job.data.val_fraction * num_images)
    steps = num_train // job.train.batch_size
    studies = tuple(
        StudyPlan(
            study.name,
            job.search.num_trials,
            job.search.num_trials * job.train.epochs,
            steps,
            steps * find_method(study.method).gradient_evaluations_per_step,
        )
        for study in job.studies()
    )
    asha = job.asha
    rule = Rule(job.train.epochs, job.grace_epochs, asha.reduction_factor, asha.enabled)
    at_once = max(1, round(slots.num_slots / len(studies)))
    num_trials = job.search.num_trials
    reports = sum(study.max_epochs for study in studies)
    return Plan(
        folder=search_folder(job, out),
        studies=studies,
        spend_random=epochs_band(rule, num_trials, at_once, improving=False),
        spend_improving=epochs_band(rule, num_trials, at_once, improving=True),
        explanation=slots.explanation,
        storage_bytes=reports * _BYTES_PER_REPORT + len(studies) * num_trials * _BYTES_PER_TRIAL,
    )


def render_plan(plan: Plan) -> Group:
    """Returns the plan for a terminal."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("study", no_wrap=True)
    for name in ("trials", "epochs at most", "steps per epoch", "gradient evaluations at most"):
        table.add_column(name, justify="right", no_wrap=True)
    for study in plan.studies:
        evaluations = study.max_epochs * study.gradient_evaluations_per_epoch
        table.add_row(
            escape(study.name),
            f"{study.num_trials:,}",
            f"{study.max_epochs:,}",
            f"{study.steps_per_epoch:,}",
            f"{evaluations:,}",
        )
    count, most = len(plan.studies), sum(study.max_epochs for study in plan.studies)
    lines = [
        f"{count} {'study' if count == 1 else 'studies'}, "
        f"{sum(study.num_trials for study in plan.studies):,} trials, at most {most:,} epochs.",
        "With early stopping, simulated: "
        f"{_share(plan.spend_random, plan)} of them if the sampler finds nothing better as it goes, "
        f"{_share(plan.spend_improving, plan)} if it does.",
        *(f"Resources: {line}." for line in plan.explanation),
        f"Storage: up to {plan.storage_bytes / 1e6:.1f} MB in {plan.folder}",
    ]
    return Group(table, "", *(escape(line) for line in lines))


def _share(band: Band, plan: Plan) -> str:
    most = plan.studies[0].max_epochs
    return f"{band.low / most:.0%} to {band.high / most:.0%}"
