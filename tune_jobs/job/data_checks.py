"""Checks a job against its data: files are intact, architectures fit the images, and there are enough images."""

from pathlib import Path
from typing import TYPE_CHECKING

from tune_jobs.errors import JobError, Problem
from tune_jobs.job.spec import JobSpec

if TYPE_CHECKING:
    from zsharp.data import DataInfo


def check_data(job: JobSpec) -> "DataInfo":
    """Prepares the job's data set (decoding it the first time on this machine) and checks the job against it.

    Raises:
        JobError: If files are missing or damaged, an architecture does not fit the images, or there are too few.
    """
    from zsharp.data import DataError, prepare
    from zsharp.models import check_architecture

    data = job.data
    root = None if data.root is None else Path(data.root).expanduser()
    try:
        info = prepare(
            data.name,
            root,
            download=data.download,
            image_column=data.image_column,
            label_column=data.label_column,
            image_size=data.image_size,
        ).info
    except DataError as error:
        raise JobError([Problem("data", data.name if root is None else str(root), str(error))]) from error

    problems = []
    for i, architecture in enumerate(job.architectures):
        try:
            check_architecture(architecture, info.image_shape)
        except ValueError as error:
            problems.append(Problem(f"architectures[{i}]", architecture, str(error)))
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
                f"leaves {num_val} of {num_images} images to validate on",
            )
        )
    if job.train.batch_size > num_train:
        problems.append(
            Problem(
                "train.batch_size",
                job.train.batch_size,
                f"expected at most {num_train}, the images to train on",
            )
        )
    if problems:
        raise JobError(problems)
    return info


def split_sizes(job: JobSpec, info: "DataInfo") -> tuple[int, int]:
    """Returns how many images a trial of the job trains on, and how many it is validated on."""
    num_images = info.num_train if job.data.max_images is None else job.data.max_images
    if info.num_val:
        return num_images, info.num_val
    num_val = round(job.data.val_fraction * num_images)
    return num_images - num_val, num_val
