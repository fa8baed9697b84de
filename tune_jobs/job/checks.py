"""Finds all problems of a job at once: within each section, between sections, and unknown names."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice

from pydantic import ValidationError

from tune_jobs.errors import NOTHING, Problem, show_path, unknown
from tune_jobs.job.explain import explain
from tune_jobs.job.renamed import named_now
from tune_jobs.job.space import (
    PARAMETERS,
    SHARED_PARAMETERS,
    Distribution,
    Int,
    LogUniform,
    Uniform,
    as_choices,
    fixed_value,
    grid_size,
)
from tune_jobs.job.space_checks import (
    check_conditions,
    check_momentum,
    check_points,
    check_space,
    circular,
)
from tune_jobs.job.spec import SECTIONS, DataModel, JobSpec, Study
from tune_jobs.storage import is_address
from tune_jobs.wording import counted
from zsharp.training.epoch_row import RESERVED_NAMES
from zsharp.user_code import is_reference

_Keys = tuple[int | str, ...]  # lead to a value in a job: ("space", "q_p", "uniform", 1)

# Samplers whose suggestions do not depend on results, only on the number of the trial.
_SAMPLERS_WITHOUT_FEEDBACK = ("random", "grid")
_LONGEST_AXIS = 1000  # of a grid
_MOST_PROBLEMS = (
    100  # of one check, and in all: nobody reads more, and guessing what each name meant takes time
)

# What every report has a column for that can be searched for, and which way is better.
_MODES: Mapping[str, str] = {
    "val_accuracy": "max",
    "val_loss": "min",
    "train_loss": "min",
    "train_accuracy": "max",
}

TRACKER_PACKAGES: Mapping[str, str] = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
"""The package that each tracker needs, by its name in `track`, which is also that of our optional requirement."""

# Stand in for required values that are missing or wrong, so that the rest can be checked.
_PLACEHOLDERS: Mapping[str, object] = {
    "name": "job",
    "data": {},
    "architectures": ["-"],
    "methods": ["base"],
    "space": {},
    "search": {"num_trials": 1},
}


@dataclass(frozen=True)
class _Checked:
    """The job to check: the raw values, and the model without the values that pydantic refused."""

    values: Mapping[str, object]
    job: JobSpec


def check_job(values: Mapping[str, object]) -> tuple[JobSpec | None, list[Problem]]:
    """Returns the resolved job and no problems, or None and all problems of the job."""
    try:
        job = JobSpec.model_validate(values)
        refused: set[_Keys] = set()
        problems: list[Problem] = []
    except ValidationError as error:
        # A check needs at most a section and a key of it, so two levels say which checks still make sense.
        refused = {details["loc"][:2] for details in error.errors(include_url=False)}
        problems = list(islice(explain(error, values), _MOST_PROBLEMS + 1))
        job = JobSpec.model_validate(_without(values, refused))
    for needed, check in _CHECKS:
        if not any(_overlap(keys, refused_keys) for keys in needed for refused_keys in refused):
            problems += islice(check(_Checked(values, job)), _MOST_PROBLEMS + 1)
    problems = [replace(problem, path=named_now(problem.path)) for problem in problems]
    problems.sort(key=_section_order)
    if len(problems) > _MOST_PROBLEMS:
        more = f"it has more problems; these are the first {_MOST_PROBLEMS}"
        problems = [*problems[:_MOST_PROBLEMS], Problem("the job", NOTHING, more)]
    return (None if problems else job), problems


def _section_order(problem: Problem) -> int:
    section = re.split(r"[.\[]", problem.path, maxsplit=1)[0]
    return SECTIONS[()].index(section) if section in SECTIONS[()] else len(SECTIONS[()])


def _overlap(left: _Keys, right: _Keys) -> bool:
    """Returns whether the keys lead to the same value, or one to a part of the other."""
    shared = min(len(left), len(right))
    return left[:shared] == right[:shared]


def _without(values: Mapping[str, object], refused: set[_Keys]) -> dict[str, object]:
    """Returns a job's values without those that pydantic refused; placeholders replace required ones."""
    kept = dict(_PLACEHOLDERS)
    for section, value in values.items():
        if section not in JobSpec.model_fields or (section,) in refused:
            continue
        if isinstance(value, Mapping):
            accepted = {key: item for key, item in value.items() if (section, key) not in refused}
            required = _PLACEHOLDERS.get(section, {})
            assert isinstance(required, dict)
            kept[section] = required | accepted
        elif not any(_overlap((section,), keys) for keys in refused):
            kept[section] = value
    return kept


def _check_what_is_trained(checked: _Checked) -> Iterator[Problem]:
    task, loop = checked.values.get("task"), checked.job.train.loop
    if loop is not None and not is_reference(loop):
        yield Problem("train.loop", loop, "expected module:function, such as my_loop:train")
    if loop is not None and task is not None:
        yield Problem("task", task, "the job's `train.loop` does all of the training; remove one of the two")
    if task is None and loop is None:
        for name in ("data", "architectures"):
            if checked.values.get(name) is None:
                yield Problem(name, NOTHING, "missing; every job without a `task` needs it")
        if checked.values.get("architectures") in ([], ()):
            yield Problem("architectures", [], "expected at least 1 item")
        return
    if isinstance(task, str) and not is_reference(task):
        yield Problem("task", task, "expected module:function, such as my_task:Task")
    own = "task" if loop is None else "train.loop"
    if checked.values.get("architectures"):
        yield Problem(
            "architectures", NOTHING, f"the job's `{own}` brings its own model; remove one of the two"
        )
    if checked.job.data != DataModel():
        yield Problem("data", NOTHING, f"the job's `{own}` brings its own data; remove one of the two")


def _check_metric(checked: _Checked) -> Iterator[Problem]:
    name, mode = checked.job.metric, checked.job.mode
    if checked.job.own is None and name not in _MODES:
        yield Problem("metric", name, unknown("metric", name, _MODES))
    elif not name.isidentifier() or (name in RESERVED_NAMES and name not in _MODES):
        text = f"expected {', '.join(_MODES)}, or another name of a number that `validate` returns"
        yield Problem("metric", name, text)
    elif mode != _MODES.get(name, mode):
        better = "lower" if _MODES[name] == "min" else "higher"
        yield Problem("mode", mode, f"a {better} {name} is better; set `mode: {_MODES[name]}`")
    if checked.job.budget.target_accuracy is not None and name != "val_accuracy":
        bar = checked.job.budget.target_accuracy
        yield Problem("budget.target_accuracy", bar, f"the metric is {name}; set `budget.target` instead")


def _check_dataset(checked: _Checked) -> Iterator[Problem]:
    from zsharp.data import DATASETS

    data = checked.job.data
    if data.name not in DATASETS and not is_reference(data.name):
        yield Problem("data.name", data.name, unknown("data set", data.name, DATASETS))
    if data.arguments and not is_reference(data.name):
        yield Problem("data.arguments", NOTHING, "only a function of your own (module:function) takes some")


def _check_names(checked: _Checked) -> Iterator[Problem]:
    from zsharp.models import ARCHITECTURES, is_library_name
    from zsharp.optim.methods import METHODS

    valid_in: dict[str, Mapping[str, object]] = {"architectures": ARCHITECTURES, "methods": METHODS}
    for section, valid in valid_in.items():
        names = checked.values.get(section)
        if not isinstance(names, list | tuple):
            continue
        for index, name in enumerate(names):
            path = show_path((section, index))
            if not isinstance(name, str):
                continue  # pydantic has reported it
            if section == "architectures" and is_library_name(name):
                if problem := _library_problem(name):
                    yield Problem(path, name, problem)
                    continue
            elif name not in valid and not (section == "architectures" and is_reference(name)):
                text = unknown(section.removesuffix("s"), name, valid)
                others = ", timm/NAME, torchvision/NAME, or module:function of your own"
                yield Problem(path, name, text + (others if section == "architectures" else ""))
                continue
            if name in names[:index]:
                text = "listed twice, which would make two studies of the same name; remove one"
                yield Problem(path, name, text)


def _library_problem(name: str) -> str | None:
    from zsharp.models.architectures import check_architecture

    try:
        check_architecture(name, (3, 32, 32))
    except ValueError as error:
        return str(error)
    return None


def _check_init(checked: _Checked) -> Iterator[Problem]:
    from zsharp.models import LIBRARIES, is_library_name

    job = checked.job
    if not job.init.pretrained:
        return
    if job.init.weights is not None:
        yield Problem("init", NOTHING, "both pretrained and a file of weights; remove one of the two")
    elif job.task is not None:
        yield Problem("init.pretrained", True, "the job's `task` brings its own model; give init.weights")
    for name in job.architectures:
        if not is_library_name(name) and name != "-":
            libraries = " and ".join(f"{library}/NAME" for library in LIBRARIES)
            own = "; a function of your own can take such a choice as an argument, from `model`"
            text = f"no weights are published for {name}, only for {libraries}"
            yield Problem("init.pretrained", True, text + (own if is_reference(name) else ""))
            return


def _check_trunk(checked: _Checked) -> Iterator[Problem]:
    job = checked.job
    trunk, epochs = job.init.trunk, job.train.epochs
    if trunk is None:
        return
    if job.train.loop is not None:
        text = "the job's `train.loop` does all of the training, so it starts from where it likes; remove one"
        yield Problem("init.trunk", NOTHING, text)
    if epochs < 2:
        yield Problem(
            "init.trunk", NOTHING, f"expected train.epochs of at least 2 to share out, found {epochs}"
        )
    others = [name for name in job.space if name not in PARAMETERS]
    if others:
        text = (
            "with init.trunk all trials share the epochs of one, so this must have one value: give it outside of the "
            f"space; the space may have {', '.join(PARAMETERS)}"
        )
        yield Problem(show_path(("space", others[0])), NOTHING, text)
    for name in SHARED_PARAMETERS:
        path, value = f"init.trunk.params.{name}", trunk.params.get(name)
        if value is not None:
            if not PARAMETERS[name].is_valid(value):
                yield Problem(path, value, f"expected {PARAMETERS[name].valid}")
            if name == "momentum" and job.train.base_optimizer != "sgd":
                text = f"train.base_optimizer is {job.train.base_optimizer}, and only sgd has a momentum; remove one"
                yield Problem(path, value, text)
        elif name in job.space and fixed_value(job.space[name]) is None:
            text = "missing; the space searches it, and the trunk trains before that with one value"
            yield Problem(path, NOTHING, text)


def _check_space(checked: _Checked) -> Iterator[Problem]:
    yield from check_space(checked.job)


def _check_conditions(checked: _Checked) -> Iterator[Problem]:
    space = _value_at(checked.values, "space")
    yield from check_conditions(checked.job, space if isinstance(space, Mapping) else {})


def _check_momentum(checked: _Checked) -> Iterator[Problem]:
    yield from check_momentum(checked.job)


def _check_studies(checked: _Checked) -> Iterator[Problem]:
    from zsharp.optim.methods import METHODS

    if not set(checked.job.methods) <= set(METHODS) or circular(checked.job):  # reported already
        return
    yield from check_studies(checked.job)


def check_studies(job: JobSpec) -> Iterator[Problem]:
    """Yields studies with nothing to search, or with a grid of another size than their number of trials."""
    said = set()
    for study in job.studies():
        problem = _study_problem(job, study)
        # Studies of a method differ only if their architectures take different arguments.
        if problem is not None and (study.method, study.parameters) not in said:
            said.add((study.method, study.parameters))
            yield problem


def _study_problem(job: JobSpec, study: Study) -> Problem | None:
    search = job.search
    is_all = {other.parameters for other in job.studies() if other.method == study.method} == {
        study.parameters
    }
    which = f"method {study.method}" if is_all else f"{study.architecture} with method {study.method}"
    if search.sampler == "grid":
        if any(map(_is_no_grid, job.space.values())):  # reported already
            return None
        space = job.space_of(study.method, study.architecture)
        size = grid_size(as_choices(space), job.outside_values(study))
        if size * search.seeds == search.num_trials:
            return None
        text = (
            f"the grid of {which} has {counted(size, 'point')}, which with search.repeats = {search.seeds} makes "
            f"{counted(size * search.seeds, 'trial')}"
        )
        return Problem("search.num_trials", search.num_trials, text)
    if search.num_configurations <= 1 or study.parameters:
        return None
    text = (
        f"nothing to search for {which}: its {search.num_trials} trials would all be the same; "
        "give one of its parameters a range, or set search.num_trials to 1"
    )
    return Problem("space", NOTHING, text)


def _check_repeats(checked: _Checked) -> Iterator[Problem]:
    search = checked.job.search
    if search.sampler not in _SAMPLERS_WITHOUT_FEEDBACK:
        needs_it = {
            "repeats above 1": search.seeds > 1,
            "shared_configurations": search.shared_configurations,
        }
        for setting, is_set in needs_it.items():
            if is_set:
                valid = ", ".join(_SAMPLERS_WITHOUT_FEEDBACK)
                message = (
                    f"its suggestions depend on results, which search.{setting} excludes; valid: {valid}"
                )
                yield Problem("search.sampler", search.sampler, message)
    if search.num_trials % search.seeds:
        yield Problem(
            "search.num_trials",
            search.num_trials,
            f"must be a multiple of search.repeats, which is {search.seeds}",
        )
    for setting in ("first_points", "warm_start"):
        if getattr(search, setting) and (search.seeds > 1 or search.sampler == "grid"):
            text = "cannot be used with search.repeats above 1 or the grid sampler; remove them"
            yield Problem(f"search.{setting}", NOTHING, text)
    if search.warm_start and search.shared_configurations:
        text = "each architecture would begin with its own; remove it or search.shared_configurations"
        yield Problem("search.warm_start", NOTHING, text)
    for index, folder in enumerate(search.warm_start):
        if is_address(folder):
            text = "expected a folder on this machine; tune-jobs fetch or a copy makes it one"
            yield Problem(f"search.warm_start[{index}]", folder, text)


def _check_grid(checked: _Checked) -> Iterator[Problem]:
    job = checked.job
    if job.search.sampler != "grid":
        return
    for name in [name for name, drawn in job.space.items() if _is_no_grid(drawn)]:
        text = (
            f"the grid sampler needs {{choice: [value, ...]}}, at most {_LONGEST_AXIS} whole numbers as {{int: [low, "
            "high]}, or a plain number"
        )
        yield Problem(show_path(("space", name)), NOTHING, text)


def _is_no_grid(distribution: Distribution) -> bool:
    match distribution:
        case Uniform() | LogUniform():
            return True
        case Int(int=(low, high)):
            return high - low >= _LONGEST_AXIS
    return False


def _check_first_points(checked: _Checked) -> Iterator[Problem]:
    space = _value_at(checked.values, "space")
    points = _value_at(checked.values, "search", "first_points")
    if isinstance(space, Mapping) and isinstance(points, list | tuple):
        yield from check_points(checked.job, space, points)


def _check_warmup(checked: _Checked) -> Iterator[Problem]:
    train = checked.job.train  # a loop of the user's own has its own schedule
    if train.loop is None and train.warmup > train.epochs:
        text = f"must be at most train.epochs, which is {train.epochs}; null makes it follow from them"
        yield Problem("train.warmup_epochs", train.warmup_epochs, text)


def _check_grace(checked: _Checked) -> Iterator[Problem]:
    if checked.job.grace_epochs > checked.job.train.epochs:
        yield Problem(
            "asha.grace_epochs",
            checked.job.grace_epochs,
            f"must be at most train.epochs, which is {checked.job.train.epochs}",
        )


def _check_gpus(checked: _Checked) -> Iterator[Problem]:
    resources = checked.job.resources
    gpus, workers = resources.gpus_per_trial, resources.workers_per_trial
    if gpus != "auto" and gpus > workers:
        yield Problem(
            "resources.gpus_per_trial",
            gpus,
            f"each process of a trial trains on one GPU, and workers_per_trial is {workers}; valid: auto, or a number "
            f"from 0 to {workers}; or workers_per_trial: {math.ceil(gpus)}",
        )
    if resources.cpus_per_trial < workers > 1:
        yield Problem(
            "resources.cpus_per_trial",
            resources.cpus_per_trial,
            f"each of the {workers} processes of a trial (workers_per_trial) needs a CPU; valid: at least {workers}",
        )


def _check_workers(checked: _Checked) -> Iterator[Problem]:
    job, workers = checked.job, checked.job.resources.workers_per_trial
    if workers > 1 and job.train.loop is not None:
        yield Problem(
            "resources.workers_per_trial",
            workers,
            "a training loop of your own runs in one process; valid: 1 with `train`, more with `task` or architectures",
        )
    if workers > job.train.batch_size:
        yield Problem(
            "resources.workers_per_trial",
            workers,
            f"each process needs an example of each batch; valid: at most train.batch_size, {job.train.batch_size}",
        )
    if workers == 1 and job.train.sharding != "none":
        yield Problem(
            "train.sharding",
            job.train.sharding,
            "there is one process a trial; valid: none, or more with resources.workers_per_trial",
        )


def _check_track(checked: _Checked) -> Iterator[Problem]:
    track = checked.job.track
    if track.mlflow is not None and has_credentials(track.mlflow):
        # The value is not shown, since it holds a secret.
        text = "an address with a user or password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        yield Problem("track.mlflow", NOTHING, text)
    for name, package in TRACKER_PACKAGES.items():
        value = getattr(track, name)
        if value and find_spec(package) is None:
            text = f"{package} is not installed; install it with: pip install 'zsharp-tune[{name}]'"
            yield Problem(f"track.{name}", NOTHING, text)


def has_credentials(address: str) -> bool:
    """Whether an address holds a user or password."""
    return "@" in re.sub(r"^[^:]*://", "", address).partition("/")[0]


def _value_at(values: Mapping[str, object], *keys: str) -> object:
    value: object = values
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


# Each check, after the keys whose values must be right for it to make sense.
_CHECKS: tuple[tuple[tuple[_Keys, ...], Callable[[_Checked], Iterator[Problem]]], ...] = (
    ((("data",), ("task",), ("train", "loop")), _check_what_is_trained),
    ((("metric",), ("mode",), ("task",), ("train", "loop"), ("budget",)), _check_metric),
    ((("data", "name"),), _check_dataset),
    ((), _check_names),
    ((("init",), ("architectures",)), _check_init),
    ((("init",), ("space",), ("train",)), _check_trunk),
    ((("task",), ("train", "loop")), _check_space),
    ((("task",), ("train", "loop")), _check_conditions),
    ((("space",), ("train", "base_optimizer")), _check_momentum),
    (
        (
            ("architectures",),
            ("methods",),
            ("space",),
            ("search", "num_trials"),
            ("search", "seeds"),
            ("search", "sampler"),
        ),
        _check_studies,
    ),
    ((("search",),), _check_repeats),
    ((("space",), ("search",)), _check_grid),
    ((("task",),), _check_first_points),
    ((("train", "epochs"), ("train", "warmup_epochs")), _check_warmup),
    ((("train", "epochs"), ("asha", "grace_epochs")), _check_grace),
    ((("resources",),), _check_gpus),
    ((("resources",), ("train",)), _check_workers),
    ((("track",),), _check_track),
)
