"""Training that starts from weights: where they come from, what is frozen, and how fast the rest learns."""

from dataclasses import replace

import pytest
import torch
from small_runs import AUGMENT, is_same, measured, small_spec, whole_state

from zsharp.models import build_model
from zsharp.optim.methods import METHODS
from zsharp.training import InitSpec, Training, TrainSpec, TrialSpec

FROZEN = ("conv.*", "norm.*", "blocks.0.*")


def digits_weights(file, num_classes=4):
    """Writes the weights of a resnet8 for other classes."""
    torch.manual_seed(7)
    state = build_model("resnet8", (1, 8, 8), num_classes).state_dict()
    torch.save(state, file)
    return state


def from_file(spec, file):
    return replace(spec, init=InitSpec(weights=str(file)))


def frozen_part(model):
    return {key: value.clone() for key, value in model.state_dict().items() if key.startswith(PREFIXES)}


PREFIXES = tuple(pattern.removesuffix("*") for pattern in FROZEN)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_what_is_frozen_alone(method):
    training = Training(small_spec(method, freeze=FROZEN, weight_decay=0.1, ema_decay=0.9, epochs=1))
    frozen, before = (
        frozen_part(training.model),
        {k: v.clone() for k, v in training.model.state_dict().items()},
    )
    assert frozen and any("running_mean" in key for key in frozen)
    row = training.run_epoch()
    assert not row["diverged"]
    assert is_same(frozen_part(training.model), frozen)
    after = training.model.state_dict()
    assert not torch.equal(after["classifier.weight"], before["classifier.weight"])
    assert row["num_parameters"] < sum(param.numel() for param in training.model.parameters())


def test_batch_norm_is_trained_where_it_is_not_frozen():
    training = Training(small_spec(freeze=FROZEN, epochs=1))
    names = [
        name for name, module in training.model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)
    ]
    before = {name: training.model.get_submodule(name).running_mean.clone() for name in names}
    training.run_epoch()
    for name in names:
        is_kept = torch.equal(training.model.get_submodule(name).running_mean, before[name])
        assert is_kept == f"{name}.".startswith(PREFIXES), name
    training.validate()
    assert not any(training.model.get_submodule(name).training for name in names)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_learning_rates_of_groups_follow_the_schedule(schedule):
    scales = {"*": 0.5, "conv.*": 0.0, "classifier.*": 2.0}
    training = Training(small_spec(lr_scale=scales, schedule=schedule))
    before = frozen_part(training.model)
    rate = training.run_epoch()["lr"]
    names = {id(param): name for name, param in training.model.named_parameters()}
    rates = {}
    for group in training.optimizer.param_groups:
        for param in group["params"]:
            rates[names[id(param)]] = float(group["lr"]) / rate
    assert rates.keys() == set(names.values())
    for name, factor in rates.items():
        expected = 0.0 if name.startswith("conv.") else 2.0 if name.startswith("classifier.") else 0.5
        assert factor == pytest.approx(expected), name
    still = {key for key, value in frozen_part(training.model).items() if torch.equal(value, before[key])}
    assert {key for key in before if key.startswith("conv.") and key in names.values()} <= still


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"freeze": ("backbone.*",)}, r"train.freeze: 'backbone.\*' matches no parameter"),
        ({"lr_scale": {"clasifier.weight": 2.0}}, r"train.lr_scale: .*did you mean classifier.weight"),
        ({"freeze": ("*",)}, "leaves no parameter to train"),
    ],
)
def test_patterns_that_make_no_sense(train, words):
    with pytest.raises(ValueError, match=words):
        Training(small_spec(**train))


def test_a_fine_tuned_run_continues_bit_for_bit_wherever_its_weights_lie(tmp_path):
    state = digits_weights(tmp_path / "a.pt")
    spec = small_spec(freeze=("conv.*",), lr_scale={"classifier.*": 3.0}, ema_decay=0.9, augment=AUGMENT)
    whole = Training(from_file(spec, tmp_path / "a.pt"))
    assert torch.equal(whole.model.state_dict()["blocks.2.conv1.weight"], state["blocks.2.conv1.weight"])
    rows = [whole.run_epoch()]
    whole.save(tmp_path / "checkpoint.pt")
    rows.append(whole.run_epoch())
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "a.pt").rename(tmp_path / "elsewhere" / "b.pt")
    resumed = Training(from_file(spec, moved))
    resumed.load(tmp_path / "checkpoint.pt")
    assert is_same(measured([resumed.run_epoch()]), measured(rows[1:]))
    assert is_same(whole_state(resumed), whole_state(whole))
    digits_weights(moved, num_classes=5)
    with pytest.raises(ValueError, match=r"another trial.*init\.weights"):
        Training(from_file(spec, moved)).load(tmp_path / "checkpoint.pt")


def test_weights_of_a_library_bring_their_normalisation(tmp_path):
    name = "torchvision/shufflenet_v2_x0_5"
    torch.save(build_model(name, (1, 8, 8), 4).state_dict(), tmp_path / "a.pt")
    spec = small_spec(architecture=name, batch_size=90)
    own, theirs = Training(spec), Training(from_file(spec, tmp_path / "a.pt"))
    black = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    mean, std = own.data.info.mean[0], own.data.info.std[0]
    torch.testing.assert_close(own.task.normalised(black), torch.full((1, 1, 8, 8), -mean / std))
    mean, std = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3
    torch.testing.assert_close(theirs.task.normalised(black), torch.full((1, 1, 8, 8), -mean / std))
    fresh = from_file(small_spec(), tmp_path / "b.pt")
    digits_weights(tmp_path / "b.pt")
    assert torch.equal(Training(fresh).task.normalised(black), Training(small_spec()).task.normalised(black))


class Features:
    """A task whose model is a resnet8 with another head."""

    steps_per_epoch = 1

    def __init__(self, seed, affine=True):
        self.model = build_model("resnet8", (1, 8, 8), 3)
        for block in self.model.blocks:
            block.norm1 = torch.nn.BatchNorm2d(block.norm1.num_features, affine=affine)
        self.images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(seed))

    def batches(self, epoch):
        return [self.images]

    def loss(self, batch):
        return self.model(batch).square().mean()

    def validate(self):
        return {"val_loss": self.loss(self.images)}


def test_a_task_starts_from_weights_too(tmp_path):
    state = digits_weights(tmp_path / "a.pt")
    settings = TrainSpec(epochs=1, batch_size=10, warmup_epochs=0.0, freeze=FROZEN)
    spec = TrialSpec("-", "zsharp", {"lr": 0.01}, train=settings, metric="val_loss")
    training = Training(from_file(spec, tmp_path / "a.pt"), task=Features)
    assert training.loaded.left_fresh == ("classifier.weight", "classifier.bias")
    training.run_epoch()
    for key, value in training.model.state_dict().items():
        assert torch.equal(value, state[key]) == key.startswith(PREFIXES) or "num_batches" in key, key


def test_a_model_of_timm_continues_bit_for_bit_with_dropout(tmp_path):
    arguments = {"patch_size": 4, "depth": 1, "embed_dim": 16, "num_heads": 2}
    arguments |= {"drop_rate": 0.2, "drop_path_rate": 0.2}
    spec = small_spec(architecture="timm/vit_tiny_patch16_224", augment=AUGMENT, freeze=("cls_token",))
    spec = replace(spec, model=arguments)
    whole = Training(spec)
    whole.run_epoch()
    whole.save(tmp_path / "checkpoint.pt")
    row = whole.run_epoch()
    resumed = Training(spec)
    resumed.load(tmp_path / "checkpoint.pt")
    assert is_same(measured([resumed.run_epoch()]), measured([row]))
    assert is_same(whole_state(resumed), whole_state(whole))
    assert row["num_parameters"] < 10_000


def test_frozen_batch_norm_without_scales_keeps_its_statistics():
    settings = TrainSpec(epochs=1, batch_size=10, warmup_epochs=0.0, freeze=FROZEN)
    spec = TrialSpec("-", "zsharp", {"lr": 0.01}, train=settings, metric="val_loss", model={"affine": False})
    training = Training(spec, task=Features)
    training.run_epoch()
    is_kept = [not block.norm1.running_mean.any() for block in training.model.blocks]
    assert is_kept == [True, False, False]
