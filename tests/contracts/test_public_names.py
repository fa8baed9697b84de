"""The names that the documentation promises exist, with the keywords it promises, and its examples run."""

import ast
import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import tune_jobs
import zsharp
from zsharp.optim import ASAM, METHODS, SAM, FriendlySAM, ZSharp, make_optimizer
from zsharp.training import TrainSpec, TrialSpec, train

ROOT = Path(__file__).parents[2]
OPTIMIZERS = {"SAM", "ASAM"}
PACKAGES = ("tune_jobs", *(f"zsharp.{name}" for name in ("optim", "models", "data", "training", "sharpness")))
MODULES = sorted(module.name for module in pkgutil.walk_packages(zsharp.__path__, "zsharp."))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists(package):
    module = importlib.import_module(package)
    assert len(module.__all__) >= 4
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        assert isinstance(value, Mapping) if name.isupper() and name not in OPTIMIZERS else value.__doc__


def test_version_is_that_of_the_distribution():
    assert zsharp.__version__ == version("zsharp-tune")


@pytest.mark.parametrize("package", ["zsharp", *PACKAGES])
def test_a_name_that_does_not_exist_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importlib.import_module(package).no_such_name


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("run", "job out"),
        ("resume", "folder sets"),
        ("confirm", "folder num_seeds"),
        ("compare", "folders"),
        ("export", "folder"),
        ("read_results", "folder"),
        ("load_job", "source sets"),
    ],
)
def test_functions_of_a_search(name, parameters):
    assert name in tune_jobs.__all__
    names = list(inspect.signature(getattr(tune_jobs, name)).parameters)
    assert names[: len(parameters.split())] == parameters.split()


def test_every_module_says_its_job_in_its_first_line():
    files = [path for package in ("zsharp", "tune_jobs") for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = docstring.partition("\n")[0]
        assert first.endswith((".", ":")) and len(first) > 20, path


@pytest.mark.parametrize(
    ("function", "keywords"),
    [
        (ZSharp, "rho q_p variant threshold norm filter one_dim"),
        (SAM, "rho filter q_p threshold norm one_dim"),
        (ASAM, "rho eta filter q_p threshold norm one_dim"),
        (FriendlySAM, "rho sigma lmbda filter q_p threshold norm one_dim"),
    ],
)
def test_keywords_of_the_optimizers(function, keywords):
    parameters = inspect.signature(function).parameters
    assert list(parameters)[:2] == ["params", "base_optimizer"]
    for keyword in keywords.split():
        assert parameters[keyword].kind is inspect.Parameter.KEYWORD_ONLY
    for method in ("step", "first_step", "second_step", "restore", "state_dict", "load_state_dict"):
        assert callable(getattr(function, method))


def test_names_of_methods_and_trials():
    expected = {"base", "sam", "asam", "friendly_sam", "zsharp", "zsharp_official", "magnitude_sam"}
    expected |= {"random_sam", "layer_sam", "sam_sqrt_l"}
    assert expected <= set(METHODS)
    newer = {METHODS[name].rules.ascent for name in set(METHODS) - expected}
    assert newer == {"asam", "friendly_sam", "centred_sam", "msam", "stale_sam"}
    assert list(inspect.signature(make_optimizer).parameters)[:3] == ["params", "method", "base_optimizer"]
    assert list(inspect.signature(train).parameters)[:2] == ["spec", "report"]
    assert [field.name for field in fields(TrialSpec)][:3] == ["architecture", "method", "params"]
    assert (TrainSpec().epochs, TrainSpec().batch_size, TrainSpec().base_optimizer) == (200, 256, "adamw")


def test_the_examples_in_docstrings_run(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSHARP_CACHE", str(tmp_path))
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner()
    num_tests = 0
    for name in MODULES:
        for test in finder.find(importlib.import_module(name), name, extraglobs={"torch": torch}):
            if test.examples:
                num_tests += 1
                assert runner.run(test).failed == 0, test.name
    assert num_tests >= 2
