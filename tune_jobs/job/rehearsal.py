"""Checks that what a job trains can be trained: its data, and a step of what the user brings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.job.code import OwnCode, uses_own_code
from tune_jobs.job.data_checks import data_in_words, try_job
from tune_jobs.job.space import example_value
from tune_jobs.job.spec import JobSpec, Study

if TYPE_CHECKING:
    from zsharp.data import DataInfo

VALIDATION_LIMIT_S = 120.0
"""How long a task may validate before a search starts. On the device of a trial it may be much faster."""


@dataclass(frozen=True)
class Rehearsed:
    """What a job's trials will find on this machine."""

    job: JobSpec  # it, with which arguments each of its architectures takes
    data: "DataInfo | None"  # None with a task
    code: OwnCode | None  # None if the job imports nothing of the user's own
    steps_per_epoch: int | None = None  # of a task
    num_parameters: int | None = None  # of a task: how many components are trained

    weights_checksum: str | None = None  # of the file that training starts from
    notes: tuple[str, ...] = ()  # what to know: weights that did not fit, what was not checked

    @property
    def data_in_words(self) -> str | None:
        """What data were read; None with a task."""
        return None if self.data is None else data_in_words(self.job, self.data)

    @property
    def checksum(self) -> str | None:
        """The checksum of the data; None with a task."""
        return None if self.data is None else self.data.checksum


def rehearse(job: JobSpec, task: Callable[..., Any] | None = None) -> Rehearsed:
    """Checks a job's data, or takes a step of its task with each method and validates once.

    Args:
        task: The job's task as an object; imported if not given.

    Raises:
        JobError: If data, architectures or task cannot be used; nothing was started or written.
    """
    if job.train.loop is not None:
        return Rehearsed(job, None, _imported_loop(job, task))
    weights = _weights_checksum(job)
    if job.task is None:
        tried = try_job(job, count=False)
        code = OwnCode.imported(job) if uses_own_code(job) else None
        return Rehearsed(tried.job, tried.info, code, weights_checksum=weights, notes=tried.notes)
    steps, num_parameters = None, None
    notes: tuple[str, ...] = ()
    for study in job.studies():
        steps, num_parameters, more = _take_a_step(job, study, task)
        notes += more
    code = OwnCode.imported(job)
    return Rehearsed(job, None, code, steps, num_parameters, weights, tuple(dict.fromkeys(notes)))


def _weights_checksum(job: JobSpec) -> str | None:
    if job.init.weights is None:
        return None
    from zsharp.models.weights import file_checksum

    try:
        return file_checksum(job.init.weights)
    except ValueError as error:
        raise JobError([Problem("init.weights", NOTHING, str(error))]) from error


def _imported_loop(job: JobSpec, loop: Callable[..., Any] | None) -> OwnCode:
    """Returns the code of a job's loop; whether it trains shows only when it does."""
    from zsharp.user_code import UserCodeError, load_callable

    try:
        if loop is None:
            load_callable(job.train.loop or "", job.code)
    except UserCodeError as error:
        raise JobError([Problem("train.loop", job.train.loop, str(error))]) from error
    return OwnCode.imported(job)


def example_params(job: JobSpec, study: Study) -> dict[str, Any]:
    """Returns a configuration of a study: the middle of each range, the first of each choice."""
    return {name: example_value(job.space[name]) for name in study.parameters}


def _take_a_step(
    job: JobSpec, study: Study, task: Callable[..., Any] | None
) -> tuple[int, int, tuple[str, ...]]:
    from zsharp.training import Training
    from zsharp.user_code import TookTooLongError, UserCodeError, told_as_theirs

    spec = job.trial_spec(study, example_params(job, study))
    spec = replace(
        spec, train=replace(spec.train, compile="false")
    )  # a compilation takes longer than all of this
    label = f"{job.task} with {study.method}"
    notes = []
    try:
        with told_as_theirs(label, job.code):
            # The driver leaves GPUs to the trials.
            training = Training(replace(spec, device="cpu"), task=task)
            training.take_first_step()
        if training.loaded is not None:
            notes.append(f"{job.task}: {training.loaded}")
        if study == job.studies()[0]:  # all methods validate alike
            try:
                with told_as_theirs(label, job.code, limit_s=VALIDATION_LIMIT_S):
                    training.validate()
            except TookTooLongError:
                took = f"validate took longer than {VALIDATION_LIMIT_S:g} s on this CPU"
                notes.append(f"{job.task}: {took}; what it returns was not checked")
    except UserCodeError as error:
        raise JobError([Problem("task", job.task, str(error))]) from error
    return training.task.steps_per_epoch, training.num_parameters, tuple(notes)
