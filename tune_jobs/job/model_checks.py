"""Checks a job's models: each is built once and tried, and its memory is estimated."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tune_jobs.errors import NOTHING, Problem
from tune_jobs.job.searched import model_argument
from tune_jobs.job.space import example_value
from tune_jobs.job.spec import JobSpec
from zsharp.names import did_you_mean

if TYPE_CHECKING:
    from zsharp.data import DataInfo
    from zsharp.training.try_model import ModelFacts

_FLOAT_BYTES = 4


def try_models(
    job: JobSpec, info: "DataInfo", *, count: bool
) -> tuple[dict[str, "ModelFacts"], list[Problem]]:
    """Returns what the job's models weigh, by architecture, and what is wrong with the others.

    Those of libraries and of the user are built and run on two images. Where their arguments are searched, they are as
    large as they can be.

    Args:
        count: Whether our own architectures are counted, for which torch and torchvision are imported: seconds.
    """
    from zsharp.models import ARCHITECTURES, check_architecture

    facts: dict[str, ModelFacts] = {}
    problems = []
    first_study = {study.architecture: study for study in reversed(job.studies())}
    searched = {
        argument: example_value(distribution)
        for name, distribution in job.space.items()
        if (argument := model_argument(name, any_name=False))
    }
    for i, architecture in enumerate(job.architectures):
        study = first_study[architecture]
        spec = job.trial_spec(study, job.largest(study))
        others = {name: value for name, value in searched.items() if name not in spec.model}
        try:
            check_architecture(architecture, info.image_shape)
            is_known = architecture in ARCHITECTURES and info.num_classes > 1
            if is_known and not (count or job.init.weights or job.train.freeze):
                continue
            from zsharp.training.try_model import try_model

            facts[architecture] = try_model(spec, info.image_shape, info.num_classes, others)
        except ValueError as error:
            problems.append(Problem(f"architectures[{i}]", architecture, str(error)))
    if not problems:
        problems += _unused_arguments(job, facts)
    return facts, problems


def _unused_arguments(job: JobSpec, facts: Mapping[str, "ModelFacts"]) -> Iterator[Problem]:
    taken = {name for fact in facts.values() for name in fact.arguments}
    given: dict[str, tuple[str, object]] = {
        f"model.{name}": (name, value) for name, value in job.model.items()
    }
    for searched in job.space:
        if argument := model_argument(searched, any_name=False):
            given[f"space.{searched}"] = (argument, NOTHING)
    for path, (name, value) in given.items():
        if name not in taken:
            text = f"no architecture of the job takes an argument {name!r}"
            yield Problem(path, value, f"{text}; {did_you_mean(name, taken)}remove it")


def memory_bytes(job: JobSpec, facts: "ModelFacts") -> int:
    """Returns what a trial's weights, gradients, optimizer and perturbation take up; activations come on top."""
    from zsharp.optim.methods import find_method

    methods = [find_method(method) for method in job.methods]
    copies = 1 + num_copies(job)  # the gradient, and what the optimizer keeps
    copies += any(method.rules.ascent != "none" for method in methods)
    copies += any(method.rules.remembers_gradients for method in methods)
    return _FLOAT_BYTES * (facts.num_stored + copies * facts.num_trained)


def num_copies(job: JobSpec) -> int:
    """Returns how many copies of the weights are kept beside them: AdamW's two moments or SGD's one, the average."""
    moments = 1 if set(job.possible("train.base_optimizer")) == {"sgd"} else 2
    return moments + bool(job.possible("train.ema_decay"))
