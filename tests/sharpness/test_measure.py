"""All measures as one row: names, agreement with the single functions, bounds, and `python -m zsharp --sharpness`."""

import json
import math

import pytest
import torch
from surfaces import mlp
from torch.nn import functional as F

from zsharp.__main__ import main
from zsharp.run_output import show_text
from zsharp.sharpness import (
    MEASURES,
    LossSurface,
    average_case,
    hessian_trace,
    largest_eigenvalue,
    m_sharpness,
    measure,
    measure_training,
    worst_case,
)
from zsharp.training import DataSpec, TrainSpec, TrialSpec, train

SMALL = ["--max-images", "100", "--batch-size", "50", "--threads", "1", "--epochs", "1", "--sharpness"]


def test_every_number_is_that_of_its_function():
    model, batch = mlp()
    row = measure(model, [batch], rho=0.1, m=5, seed=3, adaptive_rho=0.4, sigma=0.02)
    surface = LossSurface(model, [batch], F.cross_entropy, seed=3)
    average = average_case(surface, sigma=0.02, seed=3)
    largest = largest_eigenvalue(surface, max_products=20, seed=3)
    trace = hessian_trace(surface, num_vectors=8, seed=3)
    assert row == {
        "loss": surface.loss(),
        "worst_1step": worst_case(surface, rho=0.1).increase,
        "worst_nstep": worst_case(surface, rho=0.1, num_steps=10).increase,
        "m_sharpness": m_sharpness(surface, rho=0.1, m=5).increase,
        "adaptive": worst_case(surface, rho=0.4, adaptive=True).increase,
        "average": average.increase,
        "average_se": average.standard_error,
        "hessian_max": largest.value,
        "hessian_max_residual": largest.residual,
        "hessian_max_converged": 1.0,
        "hessian_trace": trace.value,
        "hessian_trace_se": trace.standard_error,
    }
    assert list(row) == list(MEASURES)
    other = measure(model, [batch], rho=0.1, m=5, seed=4, adaptive_rho=0.4, sigma=0.02)
    for name in ("average", "hessian_max_residual", "hessian_trace"):
        assert row[name] != other[name]
    assert row["worst_nstep"] >= row["worst_1step"] > 0
    assert all(type(value) is float for value in row.values())


def test_the_cost_is_bounded_as_documented(monkeypatch):
    calls = dict.fromkeys(["loss", "loss_and_gradient", "hessian_product"], 0)

    def counting(name, method):
        def counted(self, *args):
            calls[name] += self.num_examples
            return method(self, *args)

        return counted

    for name in calls:
        monkeypatch.setattr(LossSurface, name, counting(name, getattr(LossSurface, name)))
    model, (inputs, targets) = mlp()
    measure(model, [(inputs.repeat(100, 1), targets.repeat(100))] * 3)
    passes = {name: count / 1024 for name, count in calls.items()}
    assert (passes["loss"], passes["loss_and_gradient"]) == (20, 12)
    assert 10 <= passes["hessian_product"] <= 28


def test_examples_beyond_the_maximum_are_left_out():
    model, (inputs, targets) = mlp()
    batches = [(inputs[:5], targets[:5]), (inputs[5:], targets[5:])]
    row = measure(model, batches, max_examples=7)
    assert row == measure(model, [batches[0], (inputs[5:7], targets[5:7])])
    assert row["loss"] == pytest.approx(F.cross_entropy(model(inputs[:7]), targets[:7]).item())


def test_what_is_not_finite_is_none():
    model, batch = mlp()
    with torch.no_grad():
        model[2].bias[0] = math.nan
    row = measure(model, [batch])
    assert row.pop("hessian_max_converged") == 0
    assert set(row.values()) == {None}


def small_training(seed=0):
    settings = TrainSpec(epochs=1, batch_size=50, warmup_epochs=0.0, precision="fp32", seed=seed)
    spec = TrialSpec("resnet8", "sam", {"lr": 0.01}, DataSpec(max_images=100), settings, "cpu")
    return train(spec).training


def test_a_training_run_is_measured_on_its_training_images():
    training = small_training()
    data = training.data
    loss, _ = training.evaluate(data.images[data.train_indices], data.labels[data.train_indices])
    assert measure_training(training)["loss"] == pytest.approx(loss, rel=1e-5)
    row = measure_training(training, num_images=10)
    assert row == measure_training(training, num_images=10)
    assert row["loss"] != pytest.approx(loss, rel=1e-5)
    assert row != measure_training(small_training(seed=1), num_images=10)


def test_in_json_and_in_text(capsys):
    assert main([*SMALL, "--json", "--test"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = [f"sharpness.{name}" for name in MEASURES]
    assert [name for name in result if name.startswith("sharpness.")] == names
    assert all(isinstance(result[name], float) for name in names)
    show_text("result", result)
    lines = capsys.readouterr().out.splitlines()[-len(MEASURES) :]
    assert [line.split()[0] for line in lines] == names
    assert [float(line.split()[1]) for line in lines] == pytest.approx(
        [result[name] for name in names], rel=0.01
    )


def test_a_run_that_diverged_is_not_measured(capsys):
    assert main([*SMALL, "--lr", "1e20", "--base-optimizer", "sgd", "--json"]) == 1
    assert "sharpness" not in capsys.readouterr().out
