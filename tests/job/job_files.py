"""A job, what is changed in it, and the problems of a job that is refused."""

import copy

import pytest

from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job

JOB = {
    "name": "small",
    "data": {"name": "digits", "val_fraction": 0.2},
    "architectures": ["resnet8", "vit_tiny"],
    "methods": ["zsharp", "base"],
    "train": {"epochs": 8, "batch_size": 64, "warmup_epochs": 1, "augment": {"cutout": 2}},
    "space": {
        "q_p": {"uniform": [0.5, 0.99]},
        "rho": {"choice": [0.01, 0.1]},
        "lr": {"loguniform": [1e-4, 0.1]},
        "weight_decay": 5e-5,
    },
    "search": {"num_trials": 4, "first_points": [{"q_p": 0.95, "lr": 1e-3}]},
    "asha": {"grace_epochs": 2},
    "resources": {"gpus_per_trial": 0.25, "max_concurrent": 3},
    "storage": "results",
}


def problems_of(source: str, sets: tuple[str, ...] = ()) -> dict[str, tuple[object, str]]:
    with pytest.raises(JobError) as caught:
        load_job(source, sets)
    problems = caught.value.problems
    assert len(str(caught.value).splitlines()) == len(problems), "one line a problem"
    assert len({problem.path for problem in problems}) == len(problems), "one problem a path"
    return {problem.path: (problem.value, problem.message) for problem in problems}


def changed(path: str, value: object) -> dict:
    job = copy.deepcopy(JOB)
    *sections, last = path.split(".")
    if sections[:1] == ["space"]:
        sections, last = ["space"], path.removeprefix("space.")
    inside = job
    for section in sections:
        inside = inside.setdefault(section, {})
    inside[last] = value
    return job
