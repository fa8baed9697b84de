"""The job's models: no drift from zsharp's specs, strict values, studies and trials."""

import jsonschema
import pytest

from tune_jobs.job.load import load_job, presets, schema
from tune_jobs.job.space import bounds
from tune_jobs.job.spec import JobSpec
from zsharp.training.spec import AugmentSpec, DataSpec, TrainSpec, check_spec

JOB = {
    "name": "small",
    "data": {"name": "digits"},
    "architectures": ["resnet8", "vit_tiny"],
    "methods": ["zsharp", "base"],
    "space": {"lr": {"loguniform": [1e-4, 0.1]}, "rho": 0.1, "q_p": {"uniform": [0.5, 0.99]}},
    "search": {"num_trials": 4},
}


def test_defaults_of_a_job():
    job = JobSpec.model_validate(JOB)
    assert (job.search.sampler, job.search.seed, job.search.first_points) == ("tpe", 0, ())
    assert (job.asha.enabled, job.asha.reduction_factor) == (True, 3)
    auto = dict.fromkeys(("gpus_per_trial", "max_concurrent", "device", "sharing"), "auto")
    assert job.resources.model_dump() == {"cpus_per_trial": 1.0, "workers_per_trial": 1} | auto
    assert job.storage == "results"


@pytest.mark.parametrize(("epochs", "grace"), [(1, 1), (3, 1), (4, 1), (5, 2), (16, 4), (200, 50), (201, 51)])
def test_grace_is_resolved_to_a_quarter_rounded_up(epochs: int, grace: int):
    job = JobSpec.model_validate(JOB | {"train": {"epochs": epochs}})
    assert job.grace_epochs == grace
    assert job.model_dump(mode="json")["asha"]["grace_epochs"] == grace
    assert JobSpec.model_validate(JOB | {"asha": {"grace_epochs": 7}}).grace_epochs == 7


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_resolved_preset_round_trips_fits_its_schema_and_can_be_trained(name: str):
    job = load_job(name)
    assert JobSpec.model_validate_json(job.model_dump_json()) == job
    jsonschema.validate(job.model_dump(mode="json"), schema())
    for study in job.studies():
        ends = {parameter: bounds(job.space[parameter]) for parameter in study.parameters}
        for end in (0, -1):
            check_spec(
                job.trial_spec(study, {parameter: values[end][1] for parameter, values in ends.items()})
            )


def test_studies_in_order_with_the_parameters_that_are_searched():
    studies = JobSpec.model_validate(JOB).studies()
    assert [(study.name, study.parameters) for study in studies] == [
        ("resnet8-zsharp", ("q_p", "lr")),  # rho is fixed; the order is that of the table, not of the file
        ("resnet8-base", ("lr",)),
        ("vit_tiny-zsharp", ("q_p", "lr")),
        ("vit_tiny-base", ("lr",)),
    ]
    assert {(study.architecture, study.method) for study in studies} == {
        (architecture, method) for architecture in JOB["architectures"] for method in JOB["methods"]
    }


def test_trial_spec_carries_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = JOB | {
        "data": {"name": "cifar10", "root": "data", "val_fraction": 0.2, "max_images": 500},
        "train": {"epochs": 3, "warmup_epochs": 1, "augment": {"cutout": 4, "mixup": 0.2}},
        "resources": {"device": "cpu"},
    }
    job = JobSpec.model_validate(values)
    zsharp, base, *_ = job.studies()
    spec = job.trial_spec(zsharp, {"lr": 0.01, "q_p": 0.9})
    assert (spec.architecture, spec.method, spec.device) == ("resnet8", "zsharp", "cpu")
    assert spec.params == {"q_p": 0.9, "rho": 0.1, "lr": 0.01}
    assert spec.data == DataSpec("cifar10", root=str(tmp_path / "data"), val_fraction=0.2, max_images=500)
    assert spec.train == TrainSpec(epochs=3, warmup_epochs=1, augment=AugmentSpec(cutout=4, mixup=0.2))
    assert job.trial_spec(base, {"lr": 0.01}).params == {"lr": 0.01}, "rho is not base's"


def test_a_home_folder_is_expanded_for_the_workers(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    job = JobSpec.model_validate(JOB | {"data": {"root": "~/data"}})
    assert job.data.root == "~/data", "the job itself stays as it was written"
    assert job.trial_spec(job.studies()[0], {}).data.root == "/somewhere/data"


def test_trial_spec_refuses_what_the_method_does_not_have():
    job = JobSpec.model_validate(JOB)
    with pytest.raises(AssertionError, match="q_p"):
        job.trial_spec(job.studies()[1], {"lr": 0.1, "q_p": 0.5})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a/b"},
        {"methods": ["zsarp"]},
        {"architectures": []},
        {"train": {"epochs": 2.5}},
        {"train": {"epoch": 3}},
        {"train": {"epochs": 0}},
        {"space": {"roh": 1}},
        {"space": {"rho": {"uniform": [1]}}},
        {"space": {"rho": {"loguniform": [0, 1]}}},
        {"search": {"num_trials": 4, "sampler": "bayes"}},
        {"resources": {"gpus_per_trial": "all"}},
    ],
)
def test_the_json_schema_says_the_same(change: dict):
    validator = jsonschema.Draft202012Validator(schema())
    assert validator.is_valid(JOB), "the schema accepts a valid job"
    more = {
        "model.depth": {"int": [1, 3], "when": {"train.base_optimizer": "sgd"}},
        "train.base_optimizer": "sgd",
    }
    assert validator.is_valid(JOB | {"space": more})
    assert not validator.is_valid(JOB | change)


@pytest.mark.parametrize(
    ("train", "epochs"),
    [({"epochs": 3}, 0.75), ({"epochs": 5}, 5.0), ({}, 5.0), ({"epochs": 3, "warmup_epochs": 2}, 2.0)],
)
def test_the_warm_up_follows_from_the_epochs_where_it_is_not_given(train, epochs):
    job = {"name": "x", "methods": ["base"], "space": {}, "search": {"num_trials": 1}}
    assert JobSpec.model_validate({**job, "train": train}).train.warmup_epochs == epochs
    assert TrainSpec(**train).warmup == epochs
