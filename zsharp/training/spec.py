"""What one trial is: data, architecture, method, training settings and the numbers being tuned."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from zsharp.data.augmentation import AugmentSpec as AugmentSpec
from zsharp.data.placement import OnDevice
from zsharp.names import did_you_mean
from zsharp.parameters import PARAMETERS, SHARED_PARAMETERS, LabelSmoothing, Momentum, WeightDecay
from zsharp.settings import check_settings, settings_of

BaseOptimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "multistep", "paper"]
Precision = Literal["auto", "fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
Sharding = Literal["none", "full"]
Compile = Literal["auto", "true", "false"]

Value = bool | int | float | str
"""What an argument of a model, a task or a function that makes data may be."""

# Far above any sane value: a slipped digit becomes a message instead of a run without end.
_Count = Annotated[int, Ge(1), Le(1_000_000)]
_Seed = Annotated[int, Ge(0), Lt(2**62)]


@dataclass(frozen=True)
class DataSpec:
    """Which images, and how they are split."""

    name: Annotated[
        str, "the data set, or the `module:function` that makes it; `tune-jobs list` shows all"
    ] = "digits"
    root: Annotated[str | None, MinLen(1), "folder with the files of the data set; `digits` needs none"] = (
        None
    )
    val_fraction: Annotated[
        float,
        Ge(0),
        Lt(1),
        "share of the training images held out for validation; ignored where the data bring validation images",
    ] = 0.1
    split_seed: Annotated[_Seed, "seed of that split, which all trials of a job share"] = 0
    max_images: Annotated[
        int | None,
        Ge(1),
        Le(1_000_000),
        "use only this many of the training images, validation included; null uses all",
    ] = None
    download: Annotated[bool, "download missing files, if the data set has a public address"] = False
    image_column: Annotated[
        str | None, MinLen(1), "column of Parquet files with the images; null looks for the usual names"
    ] = None
    label_column: Annotated[
        str | None, MinLen(1), "column of Parquet files with the labels; null looks for the usual names"
    ] = None
    image_size: Annotated[
        int | None,
        Ge(1),
        Le(4096),
        "side in pixels of the square that images are resized and cropped to; null keeps their size",
    ] = None
    arguments: Annotated[
        Mapping[str, Value], "what a function of the user's own that makes the data is called with, by name"
    ] = field(default_factory=dict)
    on_device: Annotated[
        OnDevice,
        "whether all images lie in the device's memory; `auto` while they fit into a quarter of what is free. "
        "Otherwise each batch is copied to it, with the same results",
    ] = "auto"

    @property
    def source(self) -> dict[str, Any]:
        """What `zsharp.data.prepare` takes, but for the folders of the user's code."""
        names = ("name", "root", "download", "image_column", "label_column", "image_size", "arguments")
        return {name: getattr(self, name) for name in names}

    @property
    def split(self) -> dict[str, Any]:
        """What of the data set is trained on, and where it lies."""
        return {
            name: getattr(self, name) for name in ("val_fraction", "split_seed", "max_images", "on_device")
        }


def default_warmup_epochs(epochs: int) -> float:
    """Returns the length of the warm-up of so many epochs where it is not given."""
    return 5.0 if epochs >= 5 else epochs / 4


@dataclass(frozen=True)
class TrainSpec:
    """How a trial trains; the same for all trials of a job."""

    epochs: Annotated[_Count, "epochs of a trial that is not stopped early"] = 200
    batch_size: Annotated[
        _Count,
        "images per step, over all processes of a trial; an incomplete last batch of an epoch is dropped",
    ] = 256
    base_optimizer: Annotated[BaseOptimizer, "the `torch.optim` optimizer that takes the descent step"] = (
        "adamw"
    )
    momentum: Annotated[Momentum, "momentum of SGD; Adam and AdamW use betas 0.9 and 0.999"] = 0.9
    weight_decay: Annotated[WeightDecay, "weight decay: decoupled for AdamW, L2 for SGD and Adam"] = 5e-5
    decay_norms_and_biases: Annotated[bool, "apply weight decay to tensors of at most one dimension too"] = (
        False
    )
    schedule: Annotated[Schedule, "learning-rate schedule, a pure function of the step"] = "cosine"
    warmup_epochs: Annotated[
        float | None,
        Ge(0),
        "length of the linear warm-up, which trains from its first step; null makes it 5 epochs, or a quarter of the "
        "epochs where those are fewer than 5",
    ] = None
    label_smoothing: LabelSmoothing = 0.0
    clip_grad_norm: Annotated[
        float | None, Gt(0), "the base optimizer's gradient is scaled down to this norm; null disables it"
    ] = None
    ema_decay: Annotated[
        float | None,
        Gt(0),
        Lt(1),
        "decay per step of an average of the weights, which is evaluated in their place; null disables it",
    ] = None
    precision: Annotated[
        Precision,
        "`bf16` uses autocast with float32 weights; `auto` does so where the hardware gains from it",
    ] = "auto"
    eval_batch_size: Annotated[_Count, "images per evaluation batch"] = 1024
    seed: Annotated[_Seed, "seed of the weights, the order of the images and the augmentation"] = 0
    freeze: Annotated[
        tuple[str, ...],
        "parameters that are not trained, as patterns of their names, such as `backbone.*`",
    ] = ()
    lr_scale: Annotated[
        Mapping[str, float],
        "factors of the learning rate by patterns of parameters' names; of several that match, the last counts",
    ] = field(default_factory=dict)
    loop: Annotated[
        str | None, MinLen(3), "`module:function` of a training loop of the user's own, which does all of it"
    ] = None
    compile: Annotated[
        Compile,
        "whether `torch.compile` compiles the model for training; `auto` does so where a trial is long: from five "
        "million examples on, epochs times images times gradients a step",
    ] = "false"
    sync_ascent: Annotated[
        bool,
        "with several processes: whether they ascend along their averaged gradient; otherwise each along that of its "
        "own part of the batch (m-sharpness, as in the SAM paper)",
    ] = False
    sharding: Annotated[
        Sharding,
        "with several processes: `full` divides the parameters and the optimizer's state over them (FSDP2)",
    ] = "none"
    augment: AugmentSpec = field(default_factory=AugmentSpec)

    @property
    def warmup(self) -> float:
        """The number of epochs of the warm-up, given or not."""
        return default_warmup_epochs(self.epochs) if self.warmup_epochs is None else self.warmup_epochs


@dataclass(frozen=True)
class InitSpec:
    """Which weights training starts from."""

    pretrained: Annotated[bool, "start from the weights that the architecture's library publishes"] = False
    weights: Annotated[
        str | None, MinLen(1), "file of weights to start from: safetensors, or a state dict that torch saved"
    ] = None


@dataclass(frozen=True)
class TrialSpec:
    """One training run with one configuration.

    Attributes:
        params: The tuned numbers: `lr`, those of the method (`rho`, `q_p`, ...), and `weight_decay`,
            `label_smoothing` or `momentum` where they are searched too. What is missing takes its default.
        data: Which images; ignored with a task.
        train: How it trains.
        init: Which weights it starts from.
        model: Arguments of the user's own model or task, by name.
    """

    architecture: Annotated[
        str, "a row of `zsharp.models.ARCHITECTURES`, `timm/NAME`, `torchvision/NAME`, or `module:function`"
    ]
    method: Annotated[str, "a row of `zsharp.optim.METHODS`"] = "zsharp"
    params: Mapping[str, float] = field(default_factory=dict)
    data: DataSpec = field(default_factory=DataSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    device: Annotated[Device, "`auto` uses a CUDA device if there is one"] = "auto"
    init: InitSpec = field(default_factory=InitSpec)
    model: Mapping[str, Value] = field(default_factory=dict)
    task: Annotated[str | None, "`module:function` of a task of the user's own"] = None
    code: Annotated[tuple[str, ...], "folders that `module:function` is looked up in"] = ()
    metric: Annotated[str, "the number that is searched for, which must stay finite"] = "val_accuracy"


def check_spec(spec: TrialSpec) -> None:
    """Raises ValueError at the first name or number that is not valid; whether the spec fits the data shows later."""
    settings_of(TrialSpec)["device"].check(spec.device)
    check_settings(spec.data, "data.")
    check_settings(spec.train, "train.")
    check_settings(spec.init, "init.")
    for pattern, factor in spec.train.lr_scale.items():
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < math.inf:
            raise ValueError(f"train.lr_scale[{pattern!r}] is {factor!r}; valid: numbers of at least 0")
    _check_params(spec)


def _check_params(spec: TrialSpec) -> None:
    from zsharp.optim.methods import find_method  # imports torch

    method = find_method(spec.method)
    valid = [*SHARED_PARAMETERS, *method.defaults]
    for name, value in spec.params.items():
        if name not in valid:
            hint = did_you_mean(str(name), valid)
            raise ValueError(
                f"method {method.name!r} has no parameter {name!r}; {hint}valid: {', '.join(valid)}"
            )
        PARAMETERS[name].check(value)
    has_momentum = spec.params.get("momentum", spec.train.momentum) or spec.train.base_optimizer != "sgd"
    if method.rules.ascent == "msam" and not has_momentum:
        raise ValueError(
            f"train.momentum is 0 with {spec.method!r}, which ascends against it; valid: 0 < momentum < 1"
        )
    if "momentum" in spec.params and spec.train.base_optimizer != "sgd":
        raise ValueError(f"parameter 'momentum' with {spec.train.base_optimizer!r}; valid: only with 'sgd'")
