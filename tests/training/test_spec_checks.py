"""Bad specs are refused before anything is loaded, with what was given and what is valid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import small_spec, with_data

from zsharp.data.training_data import load_training_data
from zsharp.optim import METHODS
from zsharp.training import Training, TrialSpec

NAN = float("nan")


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_of_every_method_is_accepted(method):
    params = {"weight_decay": 0.1, "label_smoothing": 0.1, "momentum": 0.5, **METHODS[method].defaults}
    training = Training(small_spec(method, params=params, base_optimizer="sgd"))
    group = training.optimizer.param_groups[0]
    assert (group["weight_decay"], group["momentum"]) == (0.1, 0.5)
    for name, value in METHODS[method].defaults.items():
        scale = 8**0.5 if (method, name) == ("sam_sqrt_l", "rho") else 1  # resnet8 has 8 such tensors
        assert float(group[name]) == value * scale


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        (
            "zsharp",
            {"foo": 1.0},
            "method 'zsharp' has no parameter 'foo'; valid: lr, weight_decay, .*rho, q_p$",
        ),
        ("base", {"rho": 0.1}, "method 'base' has no parameter 'rho'; valid: lr, weight_decay"),
        ("sam", {"rhoo": 0.1}, "no parameter 'rhoo'; did you mean rho?"),
        ("zsharpe", {}, "unknown method 'zsharpe'; did you mean zsharp?"),
        ("base", {"momentum": 0.9}, "'momentum' with 'adamw'; valid: only with 'sgd'"),
        ("base", {"lr": 0.0}, "lr is 0.0; valid: 0 < lr < inf"),
        ("base", {"lr": NAN}, "lr is nan; valid: 0 < lr"),
        ("base", {"lr": float("inf")}, "lr is inf; valid: 0 < lr < inf"),
        ("base", {"lr": "0.1"}, "lr is '0.1'; valid: 0 < lr"),
        ("base", {"weight_decay": -1.0}, "weight_decay is -1.0; valid: 0 <= weight_decay"),
        ("base", {"label_smoothing": 1.0}, "label_smoothing is 1.0; valid: 0 <= label_smoothing < 1"),
        ("sam", {"rho": -0.1}, "rho is -0.1; valid: 0 <= rho"),
        ("zsharp", {"q_p": 1.0}, "q_p is 1.0; valid: 0 <= q_p < 1"),
        ("friendly_sam", {"sigma": NAN}, "sigma is nan; valid: 0 <= sigma"),
        ("friendly_sam", {"lmbda": 1.5}, "lmbda is 1.5; valid: 0 <= lmbda < 1"),
    ],
)
def test_parameters(method, params, message):
    with pytest.raises(ValueError, match=message):
        Training(small_spec(method, params=params))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 0, "train.epochs is 0; valid: whole numbers, 1 <= epochs <= 1,000,000$"),
        ("epochs", 1.5, "train.epochs is 1.5; valid: whole numbers"),
        ("batch_size", True, "train.batch_size is True; valid: whole numbers"),
        ("batch_size", 271, "batch_size is 271; valid: at most 270, the training images"),
        ("eval_batch_size", -1, "train.eval_batch_size is -1"),
        ("seed", -1, "train.seed is -1; valid: whole numbers, 0 <= seed < "),
        ("seed", 2**64, "train.seed is 18446744073709551616"),
        ("warmup_epochs", -1.0, "train.warmup_epochs is -1.0; valid: 0 <= warmup_epochs"),
        ("clip_grad_norm", 0.0, "train.clip_grad_norm is 0.0; valid: 0 < clip_grad_norm"),
        ("ema_decay", 1.0, "train.ema_decay is 1.0; valid: 0 < ema_decay < 1"),
        ("momentum", 1.0, "train.momentum is 1.0"),
        ("label_smoothing", -0.1, "train.label_smoothing is -0.1"),
        ("schedule", "cosin", "train.schedule is 'cosin'; did you mean cosine.* valid: constant, cosine"),
        ("precision", "fp16", "train.precision is 'fp16'; .*valid: auto, fp32, bf16"),
        ("base_optimizer", "lion", "train.base_optimizer is 'lion'; valid: sgd, adam, adamw"),
    ],
)
def test_training_settings(name, value, message):
    with pytest.raises(ValueError, match=message):
        Training(small_spec(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("name", "digts", "did you mean digits"),
        ("val_fraction", -0.1, "data.val_fraction is -0.1; valid: 0 <= val_fraction < 1"),
        ("val_fraction", 1.0, "data.val_fraction is 1.0"),
        ("max_images", 0, "data.max_images is 0; valid: whole numbers, 1 <= max_images"),
        ("max_images", 1439, "max_images is 1439 for data set 'digits'; valid: at most 1438"),
        ("split_seed", -1, "data.split_seed is -1"),
    ],
)
def test_data_settings(name, value, message):
    with pytest.raises(ValueError, match=message):
        Training(with_data(small_spec(), **{name: value}))


def test_a_negative_share_is_refused_by_the_data_as_well():
    with pytest.raises(ValueError, match=r"val_fraction: got -0\.1"):
        load_training_data("digits", val_fraction=-0.1)


def test_architectures_and_devices():
    with pytest.raises(ValueError, match="unknown architecture 'resnet9'; did you mean resnet8"):
        Training(TrialSpec("resnet9"))
    with pytest.raises(ValueError, match=r"device is 'tpu'; .*valid: auto, cpu, cuda"):
        Training(replace(small_spec(), device="tpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device():
    with pytest.raises(ValueError, match="no CUDA device is visible; valid: auto, cpu"):
        Training(replace(small_spec(), device="cuda"))


def test_numbers_of_numpy_are_numbers():
    training = Training(small_spec(params={"lr": np.float64(0.5), "rho": 0}))
    assert float(training.optimizer.param_groups[0]["lr"]) == 0.5
