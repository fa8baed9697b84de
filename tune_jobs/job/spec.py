"""Defines a job with its sections, and derives its studies and trials."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tune_jobs.job.finalists import FINALISTS, FIRST_SEED, MOST_SEEDS, trial_and_turn
from tune_jobs.job.renamed import named_now
from tune_jobs.job.searched import converted, model_argument
from tune_jobs.job.space import (
    PARAMETERS,
    SHARED_PARAMETERS,
    Distribution,
    Value,
    bounds,
    choices_of,
    condition,
    fixed_value,
    in_one_message,
    in_order,
    is_active,
    is_among,
)
from tune_jobs.job.trunk import TRUNK, fork_epoch
from tune_jobs.storage import address_problem, is_address
from zsharp.settings import settings_of
from zsharp.training.spec import AugmentSpec, DataSpec, Device, InitSpec, TrainSpec, TrialSpec
from zsharp.training.spec import Value as AnyValue
from zsharp.user_code import is_reference

Sampler = Literal["tpe", "random", "gp", "grid"]

# Far above any useful value: a mistyped digit becomes a message instead of an endless search.
_MAX_COUNT = 1_000_000
_MAX_SEED = 2**32 - 1


Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
CountOrZero = Annotated[int, Field(ge=0, le=_MAX_COUNT)]
Seed = Annotated[int, Field(ge=0, le=_MAX_SEED)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
InsideUnit = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
# The same as [A-Za-z0-9][A-Za-z0-9._-]* without two dots in a row.
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9](\.?[A-Za-z0-9_-])*\.?$", max_length=100)]
Argument = Annotated[AnyValue, in_one_message("expected a number, text, true or false")]
Names = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class _Section(BaseModel, frozen=True):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


# The next three sections take their fields, with types, ranges and defaults, from zsharp's dataclasses.
class DataModel(_Section, DataSpec, frozen=True):
    """Which images, and how they are split."""

    # A search chooses by validation accuracy; only a confirmation trains on all images.
    val_fraction: InsideUnit = DataSpec.val_fraction
    split_seed: Seed = DataSpec.split_seed
    arguments: dict[Text, Argument] = Field(default_factory=dict)


class AugmentModel(_Section, AugmentSpec, frozen=True):
    """Random changes of the training images."""


class TrunkModel(_Section, frozen=True):
    """How much of the epochs a trunk trains, with the base optimizer; every trial of its seed continues from there."""

    fraction: Annotated[InsideUnit, "share of the epochs that the trunk trains; trials train the rest"]
    params: Annotated[
        dict[Literal[SHARED_PARAMETERS], float],  # type: ignore[valid-type]  # a constant, spelt out in one file
        "its `lr`, and `weight_decay`, `momentum` or `label_smoothing` where the space searches them",
    ] = Field(default_factory=dict)


class InitModel(_Section, InitSpec, frozen=True):
    """Which weights every trial starts from."""

    trunk: Annotated[
        TrunkModel | None,
        "section: trains one trunk for each architecture and seed, which every trial starts from; null trains "
        "trials from their first epoch",
    ] = None


class TrainModel(_Section, TrainSpec, frozen=True):
    """How every trial trains."""

    freeze: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    lr_scale: dict[Text, NonNegative] = Field(default_factory=dict)

    seed: Seed = TrainSpec.seed  # repeats and confirmations count up from it
    augment: Annotated[AugmentModel, "section: random changes of the training images"] = AugmentModel()

    @field_validator("compile", mode="before")
    @classmethod
    def _compile_as_text(cls, value: Any) -> Any:
        """YAML's true and false are no texts."""
        return str(value).lower() if isinstance(value, bool) else value


class SearchModel(_Section, frozen=True):
    """How many trials each study runs, and which sampler suggests their configurations.

    With `repeats` above 1 every configuration is trained that many times: the first round of trials uses `train.seed`,
    the next one `train.seed + 1`, and so on. With `shared_configurations` the studies of a method try the same
    configurations for every architecture. `warm_start` names folders of earlier searches, whose best configurations are
    tried first. With `finalists` the best few of a study are trained again, and the mean over their further seeds
    decides which one wins.
    """

    num_trials: Annotated[Count, "trials of each study"]
    sampler: Annotated[
        Sampler,
        "how configurations are suggested: `tpe` and `gp` learn from results, `random` and `grid` do not",
    ] = "tpe"
    seed: Annotated[Seed, "seed of the suggestions; not that of training, which is `train.seed`"] = 0
    keep_checkpoints: Annotated[
        CountOrZero, "how many checkpoints of a study are kept: those of its best trials"
    ] = 3
    seeds: Annotated[
        Count,
        "how many times every configuration is trained: with `train.seed`, then `train.seed + 1`, ...",
    ] = 1
    shared_configurations: Annotated[
        bool, "whether the studies of a method try the same configurations for every architecture"
    ] = False
    first_points: Annotated[
        tuple[Annotated[dict[str, Value], Field(min_length=1)], ...],
        Field(strict=False),
        "configurations that are tried first, as values by name of the space",
    ] = ()
    warm_start: Annotated[
        tuple[Text, ...],
        Field(strict=False),
        "folders of earlier searches, whose best configurations are tried first",
    ] = ()
    finalists: Annotated[
        CountOrZero,
        "so many of a study's best configurations are trained again, before the mean decides which one wins; 0 takes "
        "the best single trial",
    ] = 0
    finalist_seeds: Annotated[
        int,
        Field(ge=1, le=MOST_SEEDS),
        "with how many further seeds each finalist is trained, each with a validation split of its own",
    ] = 3

    @property
    def num_configurations(self) -> int:
        """The number of configurations of a study, each tried with every seed."""
        return self.num_trials // self.seeds

    @property
    def num_finalist_trials(self) -> int:
        """The number of trials of a study's finalists, at most: fewer if fewer configurations train in full."""
        return min(self.finalists, self.num_configurations) * self.finalist_seeds


class AshaModel(_Section, frozen=True):
    """When weak trials are stopped. By default `grace_epochs` is a quarter of the epochs.

    `rule: i_epoch` judges trials once, after `grace_epochs`: the best `protect_top` so far go on.

    The `protect_top` best trials of a rung are never stopped there. A fraction `immortal_fraction` of all trials is
    never stopped at all.
    """

    enabled: Annotated[bool, "whether weak trials are stopped early"] = True
    rule: Annotated[
        Literal["asha", "i_epoch"],
        "asha judges at several rungs; i_epoch once, after `grace_epochs`, by the best `protect_top` so far",
    ] = "asha"
    grace_epochs: Annotated[
        Count | None,
        "epochs that every trial trains before it can be stopped; null makes it a quarter of the epochs",
    ] = None
    reduction_factor: Annotated[
        int,
        Field(ge=2, le=100),
        "of so many trials at a rung, one goes on; rungs are that many times further apart each time",
    ] = 3
    protect_top: Annotated[CountOrZero, "so many of the best trials of a rung are never stopped there"] = 3
    immortal_fraction: Annotated[
        float, Field(ge=0, le=1), "share of all trials that is never stopped at all"
    ] = 0.0


class BudgetModel(_Section, frozen=True):
    """Limits that end a search early, whichever comes first; `resume --set budget.hours=...` raises them."""

    hours: Annotated[Positive | None, "hours of wall time, over all sessions"] = None
    epochs: Annotated[Count | None, "epochs of all trials together"] = None
    gradient_evaluations: Annotated[
        Annotated[int, Field(ge=1)] | None,
        "forward and backward passes of all trials together; a step of SAM takes two",
    ] = None
    gpu_hours: Annotated[Positive | None, "hours of GPU time, a share of a GPU counted as such"] = None
    target_accuracy: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        "the search ends when a trial reaches this validation accuracy",
    ] = None
    target: Annotated[
        float | None, "the search ends when a trial reaches this value of the metric, in its mode"
    ] = None


class FailuresModel(_Section, frozen=True):
    """How often a trial is retried, and what share of failed trials fails the search."""

    max_retries: Annotated[
        CountOrZero, "how often a trial that failed is started again from its checkpoint"
    ] = 2
    report_timeout_s: Annotated[Positive, "seconds without a report after which a trial counts as failed"] = (
        1800.0
    )
    max_failed_fraction: Annotated[
        float, Field(ge=0, le=1), "share of failed trials above which the search counts as failed"
    ] = 0.5


class ResourcesModel(_Section, frozen=True):
    """What each trial reserves of the machine, and how many trials run at once."""

    cpus_per_trial: Annotated[Positive, "CPUs that each trial reserves"] = 1.0
    gpus_per_trial: Annotated[
        Literal["auto"] | NonNegative,
        in_one_message("expected auto or a number of at least 0"),
        "GPUs that each trial reserves: below 1, trials share one; `auto`: one a worker, or a share that is faster",
    ] = "auto"
    sharing: Annotated[
        Literal["auto", "mps", "time"],
        "how trials share a GPU: side by side by CUDA's MPS (`mps`), or taking turns (`time`); `auto`: MPS if it can",
    ] = "auto"
    workers_per_trial: Annotated[
        Count,
        "processes that train one trial together, each on a share of every batch and with its own GPU or CPUs",
    ] = 1
    max_concurrent: Annotated[
        Literal["auto"] | Count,
        in_one_message("expected auto or a whole number of at least 1"),
        "how many trials run at once at most; `auto` is as many as fit",
    ] = "auto"
    device: Annotated[Device, "`auto` uses a GPU if there is one"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _cpu_for_each_worker(cls, values: Any) -> Any:
        """Each process of a trial has a CPU, unless the job says how many."""
        if isinstance(values, Mapping) and "cpus_per_trial" not in values:
            workers = values.get("workers_per_trial", 1)
            if isinstance(workers, int) and workers > 1:
                return {**values, "cpus_per_trial": float(workers)}
        return values


class TrackModel(_Section, frozen=True):
    """Where else a search is shown while it runs: docs/trackers.md. Keys stand only in the environment."""

    tensorboard: Annotated[
        bool, "writes TensorBoard's event files to `tensorboard/` in the search folder"
    ] = False
    mlflow: Annotated[Text | None, "the tracking URI of an MLflow server, without credentials"] = None
    wandb: Annotated[Text | None, "a Weights & Biases project, or ENTITY/PROJECT"] = None


def default_grace_epochs(epochs: int) -> int:
    """Returns `asha.grace_epochs` where a job does not give it: a quarter of the epochs."""
    return max(1, math.ceil(epochs / 4))


@dataclass(frozen=True)
class Study:
    """The trials of one architecture with one method, its trunks, or the trials of a study's finalists."""

    name: str  # the study's name in results
    architecture: str  # as the job names it; of a job with a task, the task
    method: str  # a row of `zsharp.optim.METHODS`, or TRUNK
    # The parameters that are searched: those of `tune_jobs.job.space.PARAMETERS` in their order, then others in that of
    # the space; each after those that its condition names.
    parameters: tuple[str, ...]
    finalists_of: str | None = None  # the study whose best configurations these trials train again


class JobSpec(_Section, frozen=True):
    """A job: what to search, on which data, with which budget. Equal jobs are the same search."""

    # Each section is checked by itself here; `tune_jobs.job.checks` checks names, and what sections say together.

    name: Annotated[FolderName, "name of the search, and of its folder below `storage`"]
    data: Annotated[DataModel, "section: which images, and how they are split"] = DataModel()
    architectures: Annotated[
        tuple[str, ...],
        Field(strict=False),
        "names of `tune-jobs list`, `timm/NAME`, `torchvision/NAME`, `module:function`; none with a task",
    ] = ()
    task: Annotated[
        Text | None,
        "`module:function` that brings model, batches, loss and validation, instead of data and architectures",
    ] = None
    methods: Annotated[Names, "which optimizers are compared: names of `tune-jobs list`"]
    metric: Annotated[
        Text,
        "the number that trials are ranked by: one that every report has, or any that a task of your own returns",
    ] = "val_accuracy"
    mode: Annotated[Literal["max", "min"], "whether more (`max`) or less (`min`) of the metric is better"] = (
        "max"
    )
    train: Annotated[TrainModel, "section: how every trial trains"] = TrainModel()
    init: Annotated[InitModel, "section: which weights every trial starts from"] = InitModel()
    model: Annotated[dict[Text, Argument], "arguments of your own models or task, by name"] = Field(
        default_factory=dict
    )
    model_arguments: Annotated[
        dict[Text, Annotated[tuple[Text, ...], Field(strict=False)]],
        "which arguments of `model` and `space` each architecture takes; a search adds it, job files do not",
    ] = Field(default_factory=dict)
    code: Annotated[
        tuple[Text, ...],
        Field(strict=False),
        "folders that `module:function` is looked up in; by default that of the job file, then the working folder",
    ] = ()
    space: Annotated[dict[str, Distribution], "section: which settings are searched, and where"]
    search: Annotated[SearchModel, "section: how many trials, and who suggests them"]
    asha: Annotated[AshaModel, "section: when weak trials are stopped"] = AshaModel()
    budget: Annotated[BudgetModel, "section: what ends a search early"] = BudgetModel()
    failures: Annotated[FailuresModel, "section: what failed trials mean"] = FailuresModel()
    resources: Annotated[ResourcesModel, "section: what a trial reserves of the machine"] = ResourcesModel()
    track: Annotated[TrackModel, "section: where else the search is shown while it runs"] = TrackModel()
    storage: Annotated[
        Text, "folder, or address such as `s3://bucket/folder`, below which search folders are made"
    ] = "results"

    @field_validator("train", mode="before")
    @classmethod
    def _loop_alone(cls, train: object) -> object:
        return {"loop": train} if isinstance(train, str) else train

    @field_validator("storage")
    @classmethod
    def _usable(cls, storage: str) -> str:
        if is_address(storage) and (problem := address_problem(f"{storage.rstrip('/')}/x")):
            raise PydanticCustomError("storage", problem.replace("{", "(").replace("}", ")"))
        if "\0" in storage:
            raise PydanticCustomError("storage", "expected the path of a folder")
        return storage

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        if self.asha.grace_epochs is None:
            fork = self.fork_epoch
            grace_epochs = fork + default_grace_epochs(self.train.epochs - fork)
            asha = self.asha.model_copy(update={"grace_epochs": grace_epochs})
            self.__dict__["asha"] = asha  # the frozen model allows no assignment
        if self.train.warmup_epochs is None:
            self.__dict__["train"] = self.train.model_copy(update={"warmup_epochs": self.train.warmup})
        return self

    @property
    def own(self) -> str | None:
        """The task or the training loop of the user's own, which needs neither data nor architectures of ours."""
        return self.train.loop or self.task

    @property
    def fork_epoch(self) -> int:
        """The number of epochs that trunks train, and that every trial starts after; 0 without trunks."""
        trunk = self.init.trunk
        return 0 if trunk is None else fork_epoch(trunk.fraction, self.train.epochs)

    @property
    def num_trials(self) -> int:
        """The number of trials of all studies; trunks and those of finalists are none of them."""
        return len(self.studies()) * self.search.num_trials

    @property
    def num_trunk_seeds(self) -> int:
        """The number of trunks of each architecture, those of finalists included."""
        return self.search.seeds + (self.search.finalist_seeds if self.search.finalists else 0)

    @property
    def grace_epochs(self) -> int:
        """The number of epochs that every trial trains before it can be stopped."""
        assert self.asha.grace_epochs is not None, "resolved with the job"
        return self.asha.grace_epochs

    def studies(self) -> tuple[Study, ...]:
        """Returns one study for each architecture and method, architectures outermost.

        Raises:
            ValueError: If a method is unknown.
        """
        return tuple(
            Study(
                name=f"{label_of(architecture)}-{method}",
                architecture=architecture,
                method=method,
                parameters=self._searched(method, architecture),
            )
            for architecture in ((self.own,) if self.own else self.architectures)
            for method in self.methods
        )

    def finalist_studies(self) -> tuple[Study, ...]:
        """Returns the studies of finalists, one for each study, whether the job asks for any or not."""
        return tuple(
            replace(study, name=f"{study.name}-{FINALISTS}", finalists_of=study.name)
            for study in self.studies()
        )

    def all_studies(self) -> tuple[Study, ...]:
        """Returns all studies that a trial can be of: those of the search, of their finalists, and of trunks."""
        return *self.studies(), *self.finalist_studies(), *self.trunks()

    def trunks(self) -> tuple[Study, ...]:
        """Returns the studies of trunks: one for each architecture, with one trial for each seed; none without."""
        if self.init.trunk is None:
            return ()
        architectures = (self.own,) if self.own else self.architectures
        return tuple(Study(f"{label_of(name)}-{TRUNK}", name, TRUNK, ()) for name in architectures)

    def trunk_of(self, study: Study, number: int) -> tuple[Study, int] | None:
        """Returns the trunk that a study's trial starts from, as its study and its number there; None without."""
        for trunk in self.trunks():
            if trunk.architecture == study.architecture and study.method != TRUNK:
                return trunk, self._seed_of(study, number)
        return None

    def _seed_of(self, study: Study, number: int) -> int:
        """Returns by how much the seed of a study's trial, or trunk, is above `train.seed`."""
        if study.method == TRUNK:
            return number
        if study.finalists_of is not None:
            return self.search.seeds + FIRST_SEED + trial_and_turn(number)[1] - 1
        return number // self.search.num_configurations

    def _split_of(self, study: Study, number: int) -> int:
        """Returns by how much the split's seed is above `data.split_seed`, which only that of finalists is."""
        return max(0, self._seed_of(study, number) - self.search.seeds - FIRST_SEED + 1)

    @property
    def takes_any_name(self) -> bool:
        """Whether the space may have names of the user's own: arguments of a task, or what a loop reads."""
        return self.own is not None

    def space_of(self, method: str, architecture: str) -> dict[str, Distribution]:
        """Returns the space of a study: without what its method or architecture lacks, in the order of `Study`.

        Raises:
            ValueError: If the method is unknown, or conditions go round in a circle.
        """
        own = parameters_of(method)
        others = [
            name for name in self.space if name not in PARAMETERS and self._may_take(architecture, name)
        ]
        # What not all architectures take comes last, so that shared configurations are the same in all the rest.
        others.sort(key=lambda name: not all(self._may_take(other, name) for other in self.architectures))
        names = [*(name for name in own if name in self.space), *others]
        return {name: self.space[name] for name in in_order(self.space, names)}

    def _may_take(self, architecture: str, name: str) -> bool:
        """Whether an architecture takes a parameter: unless it is known that it has no such argument."""
        argument = model_argument(name, any_name=False)
        if argument is None or self.own is not None:
            return True
        is_ours = not is_reference(architecture) and "/" not in architecture
        taken = self.model_arguments.get(architecture, () if is_ours else (argument,))
        return argument in taken

    def _searched(self, method: str, architecture: str) -> tuple[str, ...]:
        space = self.space_of(method, architecture)
        possible: dict[str, tuple[Value, ...]] = {
            name: (value,) for name, value in self._outside_values(space).items()
        }
        searched: list[str] = []
        for name, distribution in space.items():
            if all(
                any(is_among(value, valid) for value in possible.get(other, ()))
                for other, valid in condition(distribution).items()
            ):
                possible[name] = choices_of(distribution)
                if fixed_value(distribution) is None:
                    searched.append(name)
        return tuple(searched)

    def _values_unless_searched(self, name: str) -> tuple[Value, ...]:
        """Returns the value that all trials have of a setting outside the space; nothing if it is in the space."""
        value = None if name in self.space else self.setting(name)
        return () if value is None else (value,)

    def outside_values(self, study: Study) -> dict[str, Value]:
        """Returns what a study's conditions name that is not in the space, with the value that all trials have."""
        return self._outside_values(self.space_of(study.method, study.architecture))

    def _outside_values(self, space: Mapping[str, Distribution]) -> dict[str, Value]:
        others = {other for distribution in space.values() for other in condition(distribution)}
        return {other: value for other in sorted(others) for value in self._values_unless_searched(other)}

    def setting(self, name: str) -> Value | None:
        """Returns what the job's sections say of a setting, by its name in the space; None if they say nothing."""
        argument = model_argument(name, any_name=self.takes_any_name)
        if argument is not None:
            return self.model.get(argument)
        *sections, key = name.split(".")
        section: Any = self
        for part in sections:
            section = getattr(section, part, None)
        value = getattr(section, key, None) if sections else None
        return value if isinstance(value, bool | int | float | str) else None

    def with_absolute_root(self) -> Self:
        """Returns the job with absolute paths of what it reads, so that it can be resumed from any folder."""
        data = self.data.model_copy(update={"root": _absolute(self.data.root)})
        init = self.init.model_copy(update={"weights": _absolute(self.init.weights)})
        folders = tuple(str(_absolute(folder)) for folder in self.search.warm_start)
        search = self.search.model_copy(update={"warm_start": folders})
        return self.model_copy(update={"data": data, "init": init, "search": search})

    def possible(self, name: str) -> tuple[Value, ...]:
        """Returns the values that trials can have of a setting: all choices, or both ends of a range."""
        searched = self.space.get(name)
        own = None if searched is not None and not condition(searched) else self.setting(name)
        values = [] if searched is None else [value for _, value in bounds(searched)]
        return tuple(values) if own is None else (*values, own)

    def largest(self, study: Study) -> dict[str, Value]:
        """Returns a trial's settings with large values of what decides its memory and time: all but `PARAMETERS`."""

        def value_of(name: str, distribution: Distribution) -> Value | None:
            values = [value for _, value in bounds(distribution)]
            numbers = [value for value in values if not isinstance(value, bool | str)]
            return None if name in PARAMETERS else max(numbers) if len(numbers) == len(values) else values[0]

        return self.draw(study, value_of)

    def draw(self, study: Study, value_of: Callable[[str, Distribution], Value | None]) -> dict[str, Value]:
        """Returns what the space says of one trial: every searched and fixed value, by its name in the space.

        Parameters whose conditions do not hold are left out.

        Args:
            value_of: Called for each searched parameter of the trial, those that conditions name first; None leaves
                the parameter out.
        """
        if study.method == TRUNK:
            return self._trunk_params()
        space = self.space_of(study.method, study.architecture)
        outside = self._outside_values(space)
        values: dict[str, Value] = {}
        for name, distribution in space.items():
            if not is_active(distribution, outside | values):
                continue
            value = fixed_value(distribution)
            if value is None:
                value = value_of(name, distribution)
            if value is not None:
                values[name] = converted(name, value)
        return values

    def _trunk_params(self) -> dict[str, Value]:
        """Returns the settings of trunks: what the job gives them, and what the space fixes for all trials."""
        assert self.init.trunk is not None
        fixed = {name: fixed_value(self.space[name]) for name in SHARED_PARAMETERS if name in self.space}
        given = {**fixed, **self.init.trunk.params}
        return {name: float(value) for name, value in given.items() if value is not None}

    def trial_spec(self, study: Study, params: Mapping[str, Value], number: int = 0) -> TrialSpec:
        """Returns a study's trial with the given values of its searched parameters.

        Parameters that the space fixes are added. Relative paths become absolute, since workers run in other folders.

        A trunk is a trial of the base method with the schedule of all epochs, of which it trains `fork_epoch`.

        Args:
            number: The trial's number in its study, which determines its seed if `search.repeats` is above 1. That of a
                finalist's trial determines seed and validation split, those of a trunk likewise.
        """
        is_trunk = study.method == TRUNK
        valid = self._trunk_params() if is_trunk else self.space_of(study.method, study.architecture)
        assert set(params) <= set(valid), f"{study.name} has no parameters {set(params) - set(valid)}"
        values = self.draw(study, lambda name, _: params.get(name))
        data = self.data.model_dump()
        if self.data.root is not None:
            data["root"] = str(Path(self.data.root).expanduser().absolute())
        init = self.init.model_dump(exclude={"trunk"})
        if self.init.weights is not None:
            init["weights"] = str(Path(self.init.weights).expanduser().absolute())
        train = self.train.model_dump()
        train["seed"] += self._seed_of(study, number)
        data["split_seed"] += self._split_of(study, number)
        model = dict(self.model)
        sections: dict[str, dict[str, Any]] = {
            "train.augment": train["augment"],
            "train": train,
            "data": data,
        }
        for name, value in values.items():
            argument = model_argument(name, any_name=self.takes_any_name)
            section, _, key = name.rpartition(".")
            if argument is not None:
                model[argument] = value
            elif section:
                sections[section][key] = value
        train["augment"] = AugmentSpec(**train["augment"])
        return TrialSpec(
            architecture=study.architecture,
            method="base" if is_trunk else study.method,
            params={name: float(value) for name, value in values.items() if name in PARAMETERS},
            data=DataSpec(**data),
            train=TrainSpec(**train),
            device=self.resources.device,
            init=InitSpec(**init),
            model=model,
            task=self.task,
            code=self.code,
            metric=self.metric,
        )


def _absolute(path: str | None) -> str | None:
    """Returns an absolute path, unless it is below the home folder, which other machines have elsewhere."""
    return path if path is None or path.startswith("~") else str(Path(path).absolute())


def label_of(architecture: str) -> str:
    """Returns an architecture's or task's name as studies and files use it: `timm/resnet18` becomes `timm.resnet18`."""
    return architecture.replace("/", ".").replace(":", ".")


def _sections(
    model: type[BaseModel], at: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    names = (named_now(".".join((*at, name))).rpartition(".")[2] for name in model.model_fields)
    yield at, tuple(name for name in names if (*at, name) != ("model_arguments",))
    for name, field in model.model_fields.items():
        for kind in get_args(field.annotation) or (field.annotation,):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _sections(kind, (*at, name))


def descriptions() -> dict[str, dict[str, str]]:
    """Returns what each field of each section means, by the section's class and the field's name."""
    models: list[type[_Section]] = [JobSpec, DataModel, AugmentModel, TrunkModel, InitModel, TrainModel]
    models += [SearchModel, AshaModel, BudgetModel, FailuresModel, ResourcesModel, TrackModel]
    notes: dict[str, dict[str, str]] = {}
    for model in models:
        inherited = {
            name: setting.summary
            for base in model.__mro__
            if "__dataclass_fields__" in vars(base)  # not inherited
            for name, setting in settings_of(base).items()
        }
        own = {
            name: text
            for name, field in model.model_fields.items()
            for text in field.metadata
            if isinstance(text, str)
        }
        notes[model.__name__] = inherited | own
    return notes


SECTIONS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    **dict(_sections(JobSpec)),
    ("space",): tuple(PARAMETERS),
}
"""The keys of each section of a job file that users write, by the keys that lead to the section."""


def parameters_of(method: str) -> tuple[str, ...]:
    """Returns the parameters that a method has, in the order of `PARAMETERS`.

    Raises:
        ValueError: If the method is unknown.
    """
    from zsharp.optim.methods import find_method

    own = find_method(method).defaults
    return tuple(name for name in PARAMETERS if name in own or name in SHARED_PARAMETERS)
