"""What one trial is: data, architecture, method, training settings and the numbers being tuned."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BaseOptimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "multistep", "paper"]
Precision = Literal["auto", "fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class DataSpec:
    """Which images, and how they are split.

    Attributes:
        name: A row of `zsharp.data.DATASETS`.
        root: Folder of the files; not needed for embedded data.
        val_fraction: Share of the training set held out for validation, stratified.
        split_seed: Seed of that split; the same for all trials of a job.
        max_images: Train on a stratified subset of this many images (validation included); None means all.
        download: Fetch missing files where the data set has a public address.
    """

    name: str = "digits"
    root: str | None = None
    val_fraction: float = 0.1
    split_seed: int = 0
    max_images: int | None = None
    download: bool = False


@dataclass(frozen=True)
class AugmentSpec:
    """Random changes of the training images, applied to whole batches on the device.

    Attributes:
        crop_padding: Zero padding in pixels before a random crop back to size; None is an eighth of the side.
        flip: Random horizontal flips; None flips where the data set allows it.
        cutout: Side in pixels of the zeroed square.
        randaugment: Number of RandAugment operations.
        mixup: Beta parameter of mixup; 0 is off.
        cutmix: Beta parameter of cutmix; 0 is off.
    """

    crop_padding: int | None = None
    flip: bool | None = None
    cutout: int = 0
    randaugment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass(frozen=True)
class TrainSpec:
    """How a trial trains; the same for all trials of a job.

    Attributes:
        epochs: Full fidelity: the epochs of a trial that is not stopped.
        batch_size: Images per optimizer step; the incomplete last batch of an epoch is dropped.
        base_optimizer: The `torch.optim` optimizer that takes the descent step.
        momentum: Momentum of SGD; Adam and AdamW use betas 0.9 and 0.999.
        weight_decay: Decoupled for AdamW, L2 for SGD and Adam.
        decay_norms_and_biases: Apply weight decay to tensors of at most one dimension too.
        schedule: Learning-rate schedule, a pure function of the step.
        warmup_epochs: Length of the linear warm-up, which trains from its first step.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        clip_grad_norm: Largest norm of the gradient that the base optimizer sees; None is off.
        ema_decay: Decay per step of an average of the weights that is evaluated instead; None is off.
        precision: `bf16` is autocast with float32 weights; `auto` takes it where the hardware gains.
        eval_batch_size: Images per evaluation batch.
        seed: Seed of the weights, the order of the images and the augmentation.
        augment: Random changes of the training images.
    """

    epochs: int = 200
    batch_size: int = 256
    base_optimizer: BaseOptimizer = "adamw"
    momentum: float = 0.9
    weight_decay: float = 5e-5
    decay_norms_and_biases: bool = False
    schedule: Schedule = "cosine"
    warmup_epochs: float = 5.0
    label_smoothing: float = 0.0
    clip_grad_norm: float | None = None
    ema_decay: float | None = None
    precision: Precision = "auto"
    eval_batch_size: int = 1024
    seed: int = 0
    augment: AugmentSpec = field(default_factory=AugmentSpec)


@dataclass(frozen=True)
class TrialSpec:
    """One training run with one configuration.

    Attributes:
        architecture: A row of `zsharp.models.ARCHITECTURES`.
        method: A row of `zsharp.optim.METHODS`.
        params: The tuned numbers: `lr`, those of the method (`rho`, `q_p`, ...), and `weight_decay`,
            `label_smoothing` or `momentum` where they are searched too. What is missing takes its default.
        data: Which images.
        train: How it trains.
        device: `auto` takes CUDA where there is a device.
    """

    architecture: str
    method: str = "zsharp"
    params: Mapping[str, float] = field(default_factory=dict)
    data: DataSpec = field(default_factory=DataSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    device: Device = "auto"
