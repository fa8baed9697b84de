"""The loop against an independent slow one, and what each setting does to a step."""

import copy
import itertools
import math
import os
from pathlib import Path

import pytest
import torch
from slow_loop import digits, fresh_model, slow_epoch
from small_runs import PLAIN, is_same, one_step_spec, small_spec, with_data
from torch.nn import functional as F

from zsharp.optim import METHODS
from zsharp.training import Training, train
from zsharp.training.peak_memory import peak_memory_bytes
from zsharp.training.precision import uses_bf16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("method", "architecture", "tolerance"),
    [
        ("sam", "vit_tiny", 1e-3),
        ("zsharp", "vit_tiny", 1e-3),
        ("base", "resnet8", 0.1),
        ("zsharp", "resnet8", 0.1),
    ],
)
def test_an_epoch_equals_the_slow_loop(method, architecture, tolerance):
    """ViT is smooth. In a ResNet the last bit of an activation near zero decides whether ReLU passes it."""
    settings = {"batch_size": 40, "momentum": 0.8, "weight_decay": 0.01, "seed": 3}
    as_slow = {"base_optimizer": "sgd", "label_smoothing": 0.1, "schedule": "constant", "warmup_epochs": 0.5}
    training = Training(small_spec(method, architecture, {"lr": 0.05}, augment=PLAIN, **as_slow, **settings))
    (images, labels), (val_images, val_labels) = digits(300)
    row = training.run_epoch()

    model, start = fresh_model(architecture, seed=3), fresh_model(architecture, seed=3)
    lrs = [0.05 / 3, 0.1 / 3, 0.05, 0.05, 0.05, 0.05]
    losses, norms = slow_epoch(model, images, labels, method, lrs=lrs, smoothing=0.1, **settings)
    assert row["train_loss"] == pytest.approx(sum(losses) / 6, rel=tolerance / 20)
    assert row["grad_norm"] == pytest.approx(sum(norms) / 6, rel=tolerance)
    ours, theirs, before = (
        torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (training.model, model, start)
    )
    assert (ours - theirs).norm() < tolerance * (theirs - before).norm()

    with torch.no_grad():
        logits = model.eval()(val_images)
    assert row["val_loss"] == pytest.approx(float(F.cross_entropy(logits, val_labels)), rel=tolerance)
    correct = float((logits.argmax(1) == val_labels).float().mean())
    assert row["val_accuracy"] == pytest.approx(correct, abs=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_reported_loss_norms_and_counts_of_one_step(method):
    """The loss is that at w, with smoothing; batch norm sees the batch once; a sharp step costs two gradients."""
    training = Training(one_step_spec(method, params={"label_smoothing": 0.2}, label_smoothing=0.1))
    (images, labels), _ = digits(100)
    model = fresh_model("resnet8")
    logits = model(images).detach()
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2)
    row = training.run_epoch()
    assert row["train_loss"] == pytest.approx(float(expected), rel=1e-5)
    assert row["train_accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    for (name, ours), theirs in zip(training.model.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)
    of_the_ascent = (row["perturbation_norm"], row["kept_fraction"], row["gradient_evaluations"])
    if method == "base":
        assert of_the_ascent == (None, None, 1)
    else:
        kept = 0.05 if "q_p" in METHODS[method].defaults else 1
        evaluations = METHODS[method].gradient_evaluations_per_step
        if evaluations == 1:  # these have no step to remember yet
            assert of_the_ascent == (0, 1, 1)
        else:
            assert of_the_ascent[0] > 0
            assert of_the_ascent[1:] == (pytest.approx(kept, abs=0.02), evaluations)


@pytest.mark.parametrize("method", ["base", "zsharp"])
def test_counts_of_a_run(method):
    result = train(small_spec(method))
    steps = [5, 10]
    assert [row["epoch"] for row in result.reports] == [1, 2]
    per_step = 1 if method == "base" else 2
    assert [row["gradient_evaluations"] for row in result.reports] == [per_step * n for n in steps]
    assert int(result.training.model.norm.num_batches_tracked) == 10
    for row in result.reports:
        assert row["images_per_s"] > 0
        assert row["peak_memory_bytes"] > 10**7
        assert 0 < row["epoch_s"] <= row["train_s"] <= row["wall_s"]
        assert row["num_parameters"] == sum(p.numel() for p in fresh_model("resnet8").parameters())
        assert row["device"].startswith("cpu ")
        assert row["diverged"] == 0
    assert result.reports[1]["images_per_s"] == pytest.approx(500 / result.reports[1]["train_s"])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system cannot forget a peak")
def test_the_peak_memory_is_that_of_the_trial():
    block = bytearray(b"x") * 400_000_000
    before = peak_memory_bytes(CPU)
    del block
    assert train(small_spec("base")).reports[-1]["peak_memory_bytes"] < before - 200_000_000


@pytest.mark.parametrize("base", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("method", ["base", "zsharp"])
def test_groups_of_the_optimizer(method, base):
    """Norms and biases are a group without decay; lr, rho and q_p are tensors; the base optimizer is fused."""
    training = Training(small_spec(method, base_optimizer=base, weight_decay=0.3))
    matrices, others = training.optimizer.param_groups
    assert matrices["params"] and all(p.ndim > 1 for p in matrices["params"])
    assert others["params"] and all(p.ndim <= 1 for p in others["params"])
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    for group in (matrices, others):
        assert group["fused"]
        names = ("lr",) if method == "base" else ("lr", "rho", "q_p")
        assert all(isinstance(group[name], torch.Tensor) and group[name].dim() == 0 for name in names)


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("method", ["base", "zsharp"])
def test_weight_decay_leaves_norms_and_biases_alone(method, everything):
    """With gradients of zero, AdamW's step is the decay alone: w -> (1 - lr * decay) * w."""
    params = {"lr": 0.01, "weight_decay": 20.0}
    spec = one_step_spec(method, params=params, weight_decay=1.0, decay_norms_and_biases=everything)
    training = Training(spec)
    before = [p.detach().clone() for p in training.model.parameters()]
    for p in training.model.parameters():
        p.grad = torch.zeros_like(p)
    (training.optimizer.step if method == "base" else training.optimizer.second_step)()
    decayed = 0
    for p, w in zip(training.model.parameters(), before, strict=True):
        decays = everything or p.ndim > 1
        torch.testing.assert_close(p, 0.8 * w if decays else w)
        decayed += decays and bool(w.any())
    assert decayed > 5


@pytest.mark.parametrize("method", ["base", "zsharp", "friendly_sam"])
def test_clipping_bounds_the_gradient_of_the_descent(method):
    sgd = {"base_optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0}

    def step(clip):
        training = Training(one_step_spec(method, params={"lr": 0.1}, clip_grad_norm=clip, **sgd))
        before = [p.detach().clone() for p in training.model.parameters()]
        row = training.run_epoch()
        moved = zip(training.model.parameters(), before, strict=True)
        return row, torch.cat([(p.detach() - w).flatten() for p, w in moved])

    (free_row, free), (row, clipped) = step(None), step(0.05)
    assert free.norm() > 0.1 * 0.5
    torch.testing.assert_close(clipped, free * (0.1 * 0.05 / free.norm()), rtol=1e-3, atol=1e-7)
    assert row["grad_norm"] == free_row["grad_norm"]
    assert torch.equal(step(1e6)[1], free)


@pytest.mark.parametrize("method", ["base", "zsharp"])
def test_the_average_of_the_weights_equals_a_slow_twin_and_is_evaluated(method):
    plain, averaged = (Training(one_step_spec(method, epochs=5, ema_decay=decay)) for decay in (None, 0.6))
    twin = [p.detach().clone().double() for p in plain.model.parameters()]
    _, (val_images, val_labels) = digits(100)
    for _ in range(5):
        plain_row, row = plain.run_epoch(), averaged.run_epoch()
        twin = [0.6 * a + 0.4 * p.detach() for a, p in zip(twin, plain.model.parameters(), strict=True)]
        assert row["train_loss"] == plain_row["train_loss"]
    assert is_same(averaged.model.state_dict(), plain.model.state_dict())
    model = copy.deepcopy(plain.model).eval()
    with torch.no_grad():
        for p, a in zip(model.parameters(), twin, strict=True):
            p.copy_(a)
        expected = float(F.cross_entropy(model(val_images), val_labels))
    assert row["val_loss"] == pytest.approx(expected, rel=1e-4)
    assert abs(row["val_loss"] - plain_row["val_loss"]) > 0.01 * expected


@pytest.mark.parametrize("architecture", ["resnet8", "vit_tiny"])
def test_bf16_is_close_to_fp32(architecture):
    runs = {p: train(small_spec("zsharp", architecture, precision=p, epochs=1)) for p in ("fp32", "bf16")}
    half, full = (runs[p].reports[-1] for p in ("bf16", "fp32"))
    assert runs["bf16"].training.precision == "bf16"
    assert half["train_loss"] != full["train_loss"]
    assert half["train_loss"] == pytest.approx(full["train_loss"], rel=0.05)
    assert half["grad_norm"] == pytest.approx(full["grad_norm"], rel=0.1)
    training = runs["bf16"].training
    assert all(p.dtype == torch.float32 for p in training.model.parameters())
    _, (val_images, val_labels) = digits(300)
    with torch.no_grad():
        in_fp32 = float(F.cross_entropy(training.model.eval()(val_images), val_labels))
    assert half["val_loss"] != in_fp32
    assert half["val_loss"] == pytest.approx(in_fp32, rel=0.05)


def test_auto_precision():
    is_amd = "AMD" in Path("/proc/cpuinfo").read_text()
    fast = torch.cpu._is_amx_tile_supported() or (is_amd and torch.cpu._is_avx512_bf16_supported())
    assert uses_bf16("auto", CPU, (3, 32, 32), "resnet20") is bool(fast)
    assert uses_bf16("auto", CPU, (1, 16, 16), "vit_7_8_8_384") is bool(fast)
    assert uses_bf16("auto", CPU, (1, 15, 17), "resnet20") is False
    assert uses_bf16("auto", CPU, (3, 32, 32), "vit_tiny") is False
    for unmeasured in ("timm/resnet18", "torchvision/resnet18", "nets:mixer"):
        assert uses_bf16("auto", CPU, (3, 32, 32), unmeasured) is False
        assert uses_bf16("bf16", CPU, (3, 32, 32), unmeasured) is True
    for shape in ((1, 8, 8), (3, 64, 64)):
        assert uses_bf16("bf16", CPU, shape, "vit_tiny") is True
        assert uses_bf16("fp32", CPU, shape, "resnet20") is False
    assert Training(small_spec(precision="auto")).precision == "fp32"


@pytest.mark.parametrize(
    ("method", "base"), list(zip(METHODS, itertools.cycle(["sgd", "adamw"]), strict=False))
)
def test_a_run_that_diverges_is_a_result(method, base, tmp_path):
    spec = small_spec(method, params={"lr": 1e20}, base_optimizer=base, warmup_epochs=0.0, epochs=3)
    result = train(spec, checkpoint=tmp_path / "checkpoint.pt")
    assert result.status == "diverged"
    assert [row["diverged"] for row in result.reports] == [1]
    assert not (tmp_path / "checkpoint.pt").exists()


def test_without_validation_images_divergence_in_the_last_step_shows():
    """The loss was taken before the step and is finite: what is left to look at is the weights."""
    spec = one_step_spec("base", params={"lr": 1e30}, epochs=1, batch_size=100, base_optimizer="sgd")
    result = train(with_data(spec, val_fraction=0.0))
    (row,) = result.reports
    assert math.isfinite(row["train_loss"])
    assert (row["val_loss"], row["val_accuracy"]) == (None, None)
    assert result.status == "diverged"
