"""Checks a job against its data: files are intact, models fit the images, and there are enough images."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.job.checks import check_studies
from tune_jobs.job.model_checks import try_models
from tune_jobs.job.searched import model_argument
from tune_jobs.job.spec import JobSpec
from tune_jobs.wording import counted

if TYPE_CHECKING:
    from zsharp.data import DataInfo
    from zsharp.training.try_model import ModelFacts


@dataclass(frozen=True)
class TriedJob:
    """A job that fits its data."""

    info: "DataInfo"  # the data set
    models: dict[str, "ModelFacts"]  # by architecture: those that were counted or tried
    steps_per_epoch: int  # optimizer steps; with several batch sizes, of the smallest
    job: JobSpec  # it, with which arguments each of its architectures takes

    @property
    def notes(self) -> tuple[str, ...]:
        """What users should know about the weights that trials start from."""
        return tuple(note for facts in self.models.values() for note in facts.notes)


def check_data(job: JobSpec) -> "DataInfo":
    """Prepares the job's data set (decoding it the first time on this machine) and checks the job against it.

    Raises:
        JobError: If files are missing or damaged, a model does not fit the images, or there are too few.
    """
    return try_job(job, count=False).info


def try_job(job: JobSpec, *, count: bool = True) -> TriedJob:
    """As `check_data`, and tells what the models weigh.

    Args:
        count: Whether our own architectures are counted too.

    Raises:
        JobError: As there.
    """
    from zsharp.data import DataError, prepare
    from zsharp.data.checks import DOWNLOAD
    from zsharp.user_code import UserCodeError

    data = job.data
    root = None if data.root is None else Path(data.root).expanduser()
    image_sizes = [size for size in job.possible("data.image_size") if isinstance(size, int)]
    try:
        infos = [
            prepare(**data.source | {"image_size": size}, code=job.code).info
            for size in (image_sizes or (None,))
        ]
    except (DataError, UserCodeError) as error:
        text = str(error).replace(DOWNLOAD, "--set data.download=true")
        given = data.name if root is None else NOTHING if text.startswith(f"{root}: ") else str(root)
        raise JobError([Problem("data", given, text)]) from error

    info = max(infos, key=lambda info: info.image_shape)
    models, problems = try_models(job, info, count=count)
    problems += _unfit_sizes(job, [other.image_shape for other in infos if other != info])
    num_images = info.num_train if data.max_images is None else data.max_images
    if num_images > info.num_train:
        problems.append(
            Problem("data.max_images", num_images, f"expected at most {info.num_train}, the training images")
        )
    num_train, num_val = split_sizes(job, info)
    if not info.num_val and not 0 < num_val < num_images:
        problems.append(
            Problem(
                "data.val_fraction",
                data.val_fraction,
                f"leaves {num_val} of {num_images} {'image' if num_images == 1 else 'images'} to validate on",
            )
        )
    path = "space.train.batch_size" if "train.batch_size" in job.space else "train.batch_size"
    sizes = [size for size in job.possible("train.batch_size") if isinstance(size, int)]
    problems += [
        Problem(path, size, f"expected at most {num_train}, the images to train on")
        for size in sizes
        if size > num_train
    ]
    if not problems:
        job = _with_arguments(job, models)
        problems = list(check_studies(job))
    if problems:
        raise JobError(problems)
    return TriedJob(info, models, num_train // min(sizes), job)


def _with_arguments(job: JobSpec, models: Mapping[str, "ModelFacts"]) -> JobSpec:
    """Returns the job with which arguments its architectures take, if it searches some and has not recorded them."""
    if job.model_arguments or not any(model_argument(name, any_name=False) for name in job.space):
        return job
    taken = {
        name: tuple(sorted(models[name].arguments)) if name in models else () for name in job.architectures
    }
    return job.model_copy(update={"model_arguments": taken})


def _unfit_sizes(job: JobSpec, image_shapes: Iterable[tuple[int, int, int]]) -> Iterator[Problem]:
    """Yields the architectures that do not take the smaller ones of the sizes that are searched."""
    from zsharp.models import check_architecture

    for image_shape in image_shapes:
        for i, architecture in enumerate(job.architectures):
            try:
                check_architecture(architecture, image_shape)
            except ValueError as error:
                yield Problem(f"architectures[{i}]", architecture, str(error))


def data_in_words(job: JobSpec, info: "DataInfo") -> str:
    """Returns what data were read: their name, where they are, and how many images and classes they have."""
    where = "" if job.data.root is None else f" from {job.data.root}"
    num_train, num_val = split_sizes(job, info)
    return (
        f"{info.name}{where}, {counted(num_train, 'image')} to train on, {num_val:,} to validate on and "
        f"{info.num_test:,} for the test, in {counted(info.num_classes, 'class', 'classes')}"
    )


def split_sizes(job: JobSpec, info: "DataInfo") -> tuple[int, int]:
    """Returns how many images a trial of the job trains on, and how many it is validated on."""
    num_images = info.num_train if job.data.max_images is None else job.data.max_images
    if info.num_val:
        return num_images, info.num_val
    num_val = round(job.data.val_fraction * num_images)
    return num_images - num_val, num_val
