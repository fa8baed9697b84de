"""Bad specs are refused before anything is loaded, with what was given and what is valid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import small_spec

from zsharp.optim import METHODS
from zsharp.training import Training

NAN = float("nan")
WITHOUT_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_of_every_method_is_accepted(method):
    params = {
        "weight_decay": np.float64(0.1),
        "label_smoothing": 0.1,
        "momentum": 0.5,
        **METHODS[method].defaults,
    }
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
        ("base", {"rho": 0.1}, "method 'base' has no parameter 'rho'; valid: lr"),
        ("sam", {"rhoo": 0.1}, "did you mean rho"),
        ("zsharpe", {}, "did you mean zsharp"),
        ("base", {"momentum": 0.9}, "'momentum' with 'adamw'; valid: only with 'sgd'"),
        ("base", {"lr": 0.0}, "lr is 0.0; valid: 0 < lr < inf"),
        ("base", {"lr": NAN}, "lr is nan"),
        ("base", {"lr": float("inf")}, "lr is inf"),
        ("base", {"lr": "0.1"}, "lr is '0.1'"),
        ("base", {"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ("sam", {"rho": -0.1}, "rho is -0.1"),
        ("zsharp", {"q_p": 1.0}, "q_p is 1.0; valid: 0 <= q_p < 1"),
    ],
)
def test_parameters(method, params, message):
    with pytest.raises(ValueError, match=message):
        Training(small_spec(method, params=params))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.epochs", 0, "valid: whole numbers, 1 <= epochs <= 1,000,000$"),
        ("train.epochs", 1.5, "valid: whole numbers"),
        ("train.batch_size", True, "valid: whole numbers"),
        ("train.batch_size", 271, "valid: at most 270, the training images"),
        ("train.seed", 2**64, "valid: whole numbers, 0 <= seed < "),
        ("train.warmup_epochs", -1.0, "valid: 0 <= warmup_epochs"),
        ("train.clip_grad_norm", 0.0, "valid: 0 < clip_grad_norm"),
        ("train.ema_decay", 1.0, "valid: 0 < ema_decay < 1"),
        ("train.schedule", "cosin", "did you mean cosine.* valid: constant, cosine"),
        ("train.precision", "fp16", "valid: auto, fp32, bf16"),
        ("train.base_optimizer", "lion", "valid: sgd, adam, adamw"),
        ("data.name", "digts", "did you mean digits"),
        ("data.val_fraction", -0.1, "valid: 0 <= val_fraction < 1"),
        ("data.max_images", 0, "valid: whole numbers, 1 <= max_images"),
        ("data.max_images", 1439, "for data set 'digits'; valid: at most 1438"),
        ("architecture", "resnet9", "did you mean resnet8"),
        ("device", "tpu", "valid: auto, cpu, cuda"),
        pytest.param("device", "cuda", "no CUDA device is visible; valid: auto, cpu", marks=WITHOUT_CUDA),
    ],
)
def test_settings(name, value, message):
    part, _, setting = name.rpartition(".")
    spec = small_spec()
    if part:
        value = replace(getattr(spec, part), **{setting: value})
    with pytest.raises(ValueError, match=message) as caught:
        Training(replace(spec, **{part or setting: value}))
    assert setting in str(caught.value) or setting == "name"
