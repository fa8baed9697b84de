"""Which changes of its job a resumed search accepts, and what they do to trials that ended."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tune_jobs.errors import JobError, Problem
from tune_jobs.job.checks import check_job
from tune_jobs.job.data_checks import check_data
from tune_jobs.job.finalists import finalist_of
from tune_jobs.job.overrides import apply_sets
from tune_jobs.job.spec import JobSpec
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.changes import refused_changes
from tune_jobs.search.checkpoints import Checkpoints


def extended(ledger: Ledger, sets: Sequence[str]) -> tuple[JobSpec, JobSpec]:
    """Returns a ledger's job as it is, and as changed by `sets`.

    Raises:
        JobError: If the job cannot be read, or a change is malformed or not one that the search accepts.
    """
    before = _checked(ledger.job)
    values = before.model_dump(mode="json")
    # First, as another metric can also be at odds with the mode or the target, which is not what is wrong.
    problems = [*apply_sets(values, sets), *_other_metric(before, values)]
    if problems:
        raise JobError(problems)
    job = _checked(values)
    if (job.data.root, job.init) != (before.data.root, before.init):
        job = job.with_absolute_root()
    problems = list(refused_changes(before, job, len(ledger.trials())))
    if problems:
        raise JobError(problems)
    return before, job


def check_same_data(ledger: Ledger, before: JobSpec, job: JobSpec, checksum: str) -> None:
    """Raises JobError if the data are not those that the search began with.

    Args:
        ledger: The search's.
        before: Its job until now.
        job: Its job from now on, whose `data.root` may be another one.
        checksum: That of the data of `job`.
    """
    expected = next(
        (event["data"].get("data_checksum") for event in ledger.events() if event["kind"] == "start"), None
    )
    if expected is None:  # version 0.1 recorded none
        if job.data.root == before.data.root or not ledger.trials():
            return
        try:
            expected = check_data(before).checksum
        except JobError as error:
            text = "the search recorded no checksum of its data and they are no longer there to compare with"
            raise JobError(
                [Problem("data.root", job.data.root, f"{text}; expected {before.data.root}")]
            ) from error
    if checksum != expected:
        text = (
            f"the data have checksum {checksum}, the search began with {expected}; expected the same files "
            "(those of an unpacked Tiny ImageNet with their times, as cp -a copies them)"
        )
        raise JobError([Problem("data.root", job.data.root, text)])


def check_same_weights(ledger: Ledger, job: JobSpec, checksum: str | None) -> None:
    """Raises JobError if the weights that trials start from are not those that the search began with."""
    for event in ledger.events():
        expected = event["data"].get("weights_checksum") if event["kind"] == "start" else checksum
        if expected != checksum:
            text = f"the file has checksum {checksum}, the search began with {expected}; expected the same content"
            raise JobError([Problem("init.weights", job.init.weights, text)])


def reopen_for_more_epochs(job: JobSpec, ledger: Ledger, checkpoints: Checkpoints) -> None:
    """Lets trials train on to the job's new number of epochs: unfinished ones, and completed ones with a checkpoint.

    Those of finalists have none, and train their epochs again.
    """
    for trial in ledger.trials():
        is_needed = job.search.finalists > 0 and finalist_of(trial["study"], trial["number"]) is not None
        is_kept = trial["status"] == "completed" and (is_needed or checkpoints.exists(trial["trial_id"]))
        if trial["status"] in (None, "interrupted") or is_kept:
            ledger.reopen_trial(trial["trial_id"], job.train.epochs)


def _checked(values: Mapping[str, Any]) -> JobSpec:
    job, problems = check_job(dict(values))
    if job is None:
        raise JobError(problems)
    return job


def _other_metric(before: JobSpec, values: Mapping[str, Any]) -> Iterator[Problem]:
    for name in ("metric", "mode"):
        if values.get(name) != (was := getattr(before, name)):
            text = f"the search began with {was!r}, by which its trials were stopped and proposed; start another search"
            yield Problem(name, values.get(name), text)
