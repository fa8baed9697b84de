"""Loading a job: every problem at once, each with its place, its value and what is valid."""

from pathlib import Path

import pytest
from job_files import JOB, changed, problems_of

from tune_jobs.errors import NOTHING, JobError
from tune_jobs.job.load import dump_job, load_job, presets
from zsharp.data import DATASETS
from zsharp.models import ARCHITECTURES
from zsharp.optim.methods import METHODS

# What is changed in JOB, to what; the path of the problem; words that its message must have.
BAD = [
    ("name", "a/b", "name", "letters, digits"),
    ("name", 5, "name", "expected text"),
    ("name", "..", "name", "no two dots"),
    ("name", "x" * 101, "name", "at most 100"),
    ("storage", "s3://key:secret@bucket/x", "storage", "must not hold credentials"),
    ("storage", "gs://bucket/../x", "storage", "without . and .."),
    ("storage", "", "storage", "not empty"),
    ("storage", "gs://", "storage", "expected gs://bucket/folder"),
    ("storage", "a\0b", "storage", "expected"),
    ("extra", 1, "extra", "unknown key 'extra'; valid: name, data, architectures"),
    ("data.nmae", "digits", "data.nmae", "did you mean name? valid: name, root"),
    ("data.name", "cifar-10", "data.name", f"did you mean cifar10? valid: {', '.join(DATASETS)}"),
    ("data.arguments", {"a": 1}, "data.arguments", "module:function"),
    ("data.arguments", {"a": [1]}, "data.arguments.a", "expected a number, text"),
    ("data.image_size", 0, "data.image_size", "at least 1"),
    ("data.name", 10, "data.name", "expected text"),
    ("data.root", 5, "data.root", "expected text"),
    ("data.val_fraction", 0, "data.val_fraction", "above 0"),
    ("data.val_fraction", 1.0, "data.val_fraction", "below 1"),
    ("data.split_seed", -1, "data.split_seed", "at least 0"),
    ("data.max_images", 0, "data.max_images", "at least 1"),
    ("data.download", "yes", "data.download", "true or false"),
    ("data", None, "data", "keys among name, root"),
    ("data", ["digits"], "data", "keys among name, root"),
    ("architectures", [], "architectures", "at least 1"),
    ("architectures", "resnet8", "architectures", "expected a list"),
    ("architectures", ["resnet8", 8], "architectures[1]", "expected text"),
    ("architectures", ["resnet8", "resnt20"], "architectures[1]", "did you mean resnet20? valid: resnet8, "),
    ("architectures", ["resnet8", "q"], "architectures[1]", f"valid: {', '.join(ARCHITECTURES)}"),
    ("architectures", ["resnet8", "resnet8"], "architectures[1]", "listed twice"),
    ("methods", ["zsarp"], "methods[0]", f"did you mean zsharp? valid: {', '.join(METHODS)}"),
    ("methods", ["sam", "zsharp", "sam"], "methods[2]", "listed twice"),
    ("train.epochs", "ten", "train.epochs", "whole number"),
    ("train.epochs", 2.5, "train.epochs", "whole number"),
    ("train.epochs", True, "train.epochs", "whole number"),
    ("train.epochs", 0, "train.epochs", "at least 1"),
    ("train.epochs", 10**7, "train.epochs", "at most 1000000"),
    ("train.epoch", 10, "train.epoch", "did you mean epochs? valid: epochs, batch_size"),
    ("train.weight_decay", True, "train.weight_decay", "expected a number"),
    ("train.weight_decay", -1, "train.weight_decay", "at least 0"),
    ("train.momentum", 1, "train.momentum", "below 1"),
    ("train.label_smoothing", float("nan"), "train.label_smoothing", "finite"),
    ("train.base_optimizer", "adamv", "train.base_optimizer", "did you mean adam? valid: sgd, adam, adamw"),
    ("train.schedule", "step", "train.schedule", "valid: constant, cosine, multistep, paper"),
    ("train.precision", "fp16", "train.precision", "valid: auto, fp32, bf16"),
    ("train.ema_decay", 1, "train.ema_decay", "below 1"),
    ("train.warmup_epochs", 9, "train.warmup_epochs", "at most train.epochs, which is 8"),
    ("train.augment.flp", True, "train.augment.flp", "did you mean flip? valid: crop_padding, flip"),
    ("train.augment.flip", 1, "train.augment.flip", "true or false"),
    ("space.roh", 0.1, "space.roh", "did you mean rho? valid: q_p, rho, lr"),
    ("space.q_p", {"uniform": [0.5, 1.0]}, "space.q_p.uniform[1]", "at least 0 and below 1"),
    ("space.q_p", {"uniform": [-0.5, 0.9]}, "space.q_p.uniform[0]", "at least 0 and below 1"),
    ("space.q_p", {"uniform": [0.9, 0.5]}, "space.q_p.uniform", "low bound must be below"),
    ("space.q_p", {"uniform": [0.9]}, "space.q_p.uniform", "exactly two numbers, [low, high]"),
    ("space.q_p", {"uniform": [0.1, 0.2, 0.3]}, "space.q_p.uniform", "exactly two numbers, [low, high]"),
    ("space.q_p", {"uniform": ["a", 0.9]}, "space.q_p.uniform[0]", "expected a number"),
    ("space.q_p", {"uniform": 0.9}, "space.q_p.uniform", "expected a list"),
    ("space.q_p", {"unifrm": [0.5, 0.9]}, "space.q_p", "did you mean uniform? valid: uniform, loguniform"),
    ("space.q_p", {"uniform": [0, 0.5], "choice": [1]}, "space.q_p", "{uniform: [low, high]}"),
    ("space.q_p", "0.5", "space.q_p", "expected a number"),
    ("space.q_p", None, "space.q_p", "or a plain number"),
    ("space.q_p", {"choice": [0.5, None]}, "space.q_p.choice[1]", "number, text, true or false"),
    ("space.q_p", {"int": [0.5, 1]}, "space.q_p.int[0]", "whole number"),
    ("space.train.batch_size", {"uniform": [8, 64]}, "space.train.batch_size", "expected {int: [low, high]}"),
    ("space.train.batch_size", {"choice": [8, 64.0]}, "space.train.batch_size.choice[1]", "a whole number"),
    ("space.train.schedule", {"int": [8, 64]}, "space.train.schedule", "{choice: [value, ...]}"),
    (
        "space.train.schedule",
        {"choice": ["cosine", "step"]},
        "space.train.schedule.choice[1]",
        "one of constant",
    ),
    ("space.train.augment.flip", 1, "space.train.augment.flip", "true or false"),
    ("space.train.augment.cutot", 1, "space.train.augment.cutot", "did you mean train.augment.cutout? valid"),
    ("space.train.epochs", {"int": [8, 64]}, "space.train.epochs", "cannot be searched"),
    ("space.train.seed", {"int": [8, 64]}, "space.train.seed", "cannot be searched"),
    ("space.train.freeze", "a", "space.train.freeze", "cannot be searched"),
    ("space.train.lr_scale", 0.5, "space.train.lr_scale", "cannot be searched"),
    ("space.train.warmup_epochs", {"int": [0, 9]}, "space.train.warmup_epochs.int[1]", "which is 8"),
    ("space.train.weight_decay", 0.1, "space.train.weight_decay", "weight_decay is the same setting"),
    ("space.data.name", "digits", "space.data.name", "cannot be searched"),
    ("space.depth", {"int": [2, 9]}, "space.depth", "unknown parameter 'depth'"),
    *(
        ("space.weight_decay", {"choice": [0, 0.1], "when": when}, f"space.weight_decay.when{below}", words)
        for when, below, words in (
            ({}, "", "at least 1"),
            ({"rho": []}, ".rho", "at least 1"),
            ({"q_p": 0.5}, ".q_p", "can be a condition"),
            ({"rho": 0.2}, ".rho", "one of 0.01, 0.1"),
            ({"roh": 0.2}, ".roh", "did you mean rho?"),
            ({"train.epochs": [1, None]}, ".train.epochs[1]", "number, text"),
            ({"weight_decay": 0}, "", "in a circle: weight_decay"),
        )
    ),
    ("space.q_p", 1.0, "space.q_p", "at least 0 and below 1"),
    ("space.rho", {"loguniform": [0, 1]}, "space.rho.loguniform[0]", "above 0"),
    ("space.rho", {"choice": []}, "space.rho.choice", "at least 1"),
    ("space.rho", {"choice": [0.1, 0.1]}, "space.rho.choice", "0.1 is listed twice"),
    ("space.rho", {"choice": [0.1, -0.1]}, "space.rho.choice[1]", "at least 0"),
    ("space.lr", {"uniform": [0, 1]}, "space.lr.uniform[0]", "above 0"),
    ("space.lr", {"choice": [0, 1]}, "space.lr.choice[0]", "above 0"),
    ("space.momentum", {"uniform": [0.5, 0.9]}, "space.momentum", "train.base_optimizer is adamw"),
    ("space", [], "space", "keys among q_p, rho"),
    ("search", {"sampler": "tpe"}, "search.num_trials", "missing"),
    ("search.num_trials", 0, "search.num_trials", "at least 1"),
    ("search.sampler", "bayes", "search.sampler", "valid: tpe, random, gp, grid"),
    ("search.sampler", "cmaes", "search.sampler", "use tpe or gp"),
    ("search.sampler", "qmc", "search.sampler", "use tpe or gp"),
    ("search.first_points", [{"q_p": 0.3}], "search.first_points[0].q_p", "between 0.5 and 0.99"),
    ("search.first_points", [{"rho": 0.05}], "search.first_points[0].rho", "one of 0.01, 0.1"),
    ("search.first_points", [{"weight_decay": 0}], "search.first_points[0].weight_decay", "fixed at 5e-05"),
    ("search.first_points", [{"eta": 1}], "search.first_points[0].eta", "not in this job's space"),
    ("search.first_points", [{"lr": 0.01, "qp": 1}], "search.first_points[0].qp", "did you mean q_p? valid"),
    ("search.first_points", [{"lr": "x"}], "search.first_points[0].lr", "expected a number"),
    ("search.first_points", [{}], "search.first_points[0]", "at least 1"),
    ("search.first_points", {"lr": 0.1}, "search.first_points", "expected a list"),
    ("metric", "val_auc", "metric", "valid: val_accuracy, val_loss, train_loss, train_accuracy"),
    ("metric", "val_loss", "mode", "set `mode: min`"),
    ("mode", "min", "mode", "set `mode: max`"),
    ("asha.grace_epochs", 9, "asha.grace_epochs", "at most train.epochs, which is 8"),
    ("asha.reduction_factor", 1, "asha.reduction_factor", "at least 2"),
    ("asha.enabled", "on", "asha.enabled", "true or false"),
    ("resources.cpus_per_trial", 0, "resources.cpus_per_trial", "above 0"),
    ("resources.gpus_per_trial", "all", "resources.gpus_per_trial", "auto or a number of at least 0"),
    ("resources.gpus_per_trial", -1, "resources.gpus_per_trial", "auto or a number of at least 0"),
    ("resources.gpus_per_trial", 2, "resources.gpus_per_trial", "or workers_per_trial: 2"),
    ("resources.gpus_per_trial", 1.5, "resources.gpus_per_trial", "or workers_per_trial: 2"),
    (
        "resources",
        {"workers_per_trial": 3, "cpus_per_trial": 2},
        "resources.cpus_per_trial",
        "valid: at least 3",
    ),
    ("resources", {"workers_per_trial": 4, "gpus_per_trial": 5}, "resources.gpus_per_trial", "from 0 to 4"),
    ("resources.workers_per_trial", 0, "resources.workers_per_trial", "at least 1"),
    ("resources.workers_per_trial", 100_000, "resources.workers_per_trial", "an example of each batch"),
    ("train.sharding", "full", "train.sharding", "there is one process a trial"),
    ("train.sharding", "half", "train.sharding", "none"),
    ("resources.max_concurrent", 0, "resources.max_concurrent", "auto or a whole number of at least 1"),
    ("resources.max_concurrent", 1.5, "resources.max_concurrent", "auto or a whole number of at least 1"),
    ("resources.device", "gpu", "resources.device", "valid: auto, cpu, cuda"),
]


@pytest.mark.parametrize(
    ("setting", "value", "path", "words"), BAD, ids=[f"{row[0]}={row[1]!r:.40}" for row in BAD]
)
def test_bad_input(write, setting: str, value: object, path: str, words: str):
    with pytest.raises(JobError) as caught:
        load_job(write(changed(setting, value)))
    (problem,) = caught.value.problems
    assert problem.path == path
    assert words in problem.message
    given, text = problem.value, str(caught.value)
    assert given is NOTHING or f"{path}: " in text
    if isinstance(given, str | int | float) and not isinstance(given, bool) and len(str(given)) < 50:
        assert repr(given) in text


@pytest.mark.parametrize("key", ["name", "data", "architectures", "methods", "space", "search"])
def test_what_every_job_needs(write, key: str):
    problems = problems_of(write({name: value for name, value in JOB.items() if name != key}))
    assert "missing" in problems[key][1]


@pytest.mark.parametrize("key", ["train", "asha", "resources", "storage"])
def test_what_has_defaults(write, key: str):
    load_job(write({name: value for name, value in JOB.items() if name != key} | {"asha": {}}))


def test_every_problem_at_once(write):
    job = changed("train.epochs", "ten")
    job["methods"] = ["zsarp"]
    job["architectures"] = ["resnet8", 3, "resnt20", "resnet8"]
    job["space"] = {"q_p": {"uniform": [0.5, 1.5]}, "rho": {"uniform": [1]}, "roh": 1}
    job["search"] = {"num_trials": 0, "first_points": [{"q_p": 2, "lr": 1, "rho": "x"}]}
    job["asha"] = {"grace_epochs": 1, "reduction": 3}
    del job["data"]
    assert list(problems_of(write(job))) == [
        "data",
        "architectures[1]",
        "architectures[2]",
        "architectures[3]",
        "methods[0]",
        "train.epochs",
        "space.rho.uniform",
        "space.q_p.uniform[1]",
        "space.roh",
        "search.num_trials",
        "search.first_points[0].q_p",
        "search.first_points[0].lr",
        "search.first_points[0].rho",
        "asha.reduction",
    ]


def test_of_very_many_problems_the_first_are_shown(write):
    """Guessing what each unknown name meant would take minutes."""
    space = {f"k{i}": {"choice": [1, 2], "when": {f"k{i + 1}": 1}} for i in range(300)}
    job = {**JOB, "methods": ["zsharpp"] * 2_000, "space": space} | {f"key{i}": 1 for i in range(300)}
    problems = problems_of(write(job))
    assert len(problems) == 101
    assert "more problems" in list(problems.values())[-1][1]


def test_no_problem_is_made_up_from_what_is_wrong(write):
    job = changed("train.epochs", -1)
    job["asha"] = {"grace_epochs": 300}
    assert list(problems_of(write(job))) == ["train.epochs"], "300 may be fine once epochs is"
    job = changed("space", {"lr": {"uniform": [1]}})
    job["search"] = {"num_trials": 4}
    assert list(problems_of(write(job))) == ["space.lr.uniform"], "lr is searched once it is right"


def test_nothing_to_search(write):
    job = changed("space", {"lr": 0.1, "rho": {"uniform": [0.1, 0.2]}})
    job["search"] = {"num_trials": 4}
    _, message = problems_of(write(job))["space"]
    assert "nothing to search for method base: its 4 trials" in message
    job["search"] = {"num_trials": 1}
    assert [study.parameters for study in load_job(write(job)).studies()][:2] == [("rho",), ()]


def test_momentum_is_searched_with_sgd(write):
    job = changed("space.momentum", {"uniform": [0.5, 0.9]})
    job["train"]["base_optimizer"] = "sgd"
    assert "momentum" in load_job(write(job)).studies()[0].parameters


WHEN_SGD = {"uniform": [0.5, 0.9], "when": {"train.base_optimizer": "sgd"}}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"momentum": WHEN_SGD, "train.base_optimizer": {"choice": ["sgd", "adamw"]}}, None),
        ({"momentum": WHEN_SGD, "train.base_optimizer": "sgd"}, None),
        ({"momentum": WHEN_SGD}, None),  # train has adamw: it is never drawn
        ({"momentum": 0.5, "train.base_optimizer": "sgd"}, None),
        ({"momentum": 0.5, "train.base_optimizer": {"choice": ["sgd", "adam"]}}, "can be adam"),
        ({"momentum": 0.5, "train.base_optimizer": "adam"}, "can be adam"),
        (
            {
                "momentum": {"choice": [0.5], "when": {"train.base_optimizer": ["sgd", "adam"]}},
                "train.base_optimizer": {"choice": ["sgd", "adamw", "adam"]},
            },
            "can be adam,",
        ),
    ],
)
def test_momentum_needs_sgd_in_every_trial_that_has_it(write, space, message):
    job = changed("space", JOB["space"] | space)
    if message is None:
        load_job(write(job))
    else:
        assert message in problems_of(write(job))["space.momentum"][1]


def test_a_condition_that_cannot_hold_is_no_search(write):
    job = changed("space", {"lr": 0.1, "momentum": WHEN_SGD})
    job["search"] = {"num_trials": 1}
    assert {study.parameters for study in load_job(write(job)).studies()} == {()}
    job["train"]["base_optimizer"] = "sgd"
    assert {study.parameters for study in load_job(write(job)).studies()} == {("momentum",)}


def test_with_a_task_any_name_is_an_argument_of_it(write):
    job = {name: value for name, value in JOB.items() if name not in ("data", "architectures")}
    job |= {"task": "my_task:Task", "metric": "val_loss", "mode": "min", "model": {"width": 8, "heads": 2}}
    job["space"] = {"lr": {"uniform": [0.1, 1]}, "depth": {"int": [2, 9]}, "kind": {"choice": ["a", "b"]}}
    job["space"] |= {
        "model.width": 16,
        "wide": {"choice": [True, False], "when": {"kind": "a", "model.heads": 2}},
    }
    job["search"] = {"num_trials": 1}
    loaded = load_job(write(job))
    (study, _) = loaded.studies()
    assert study.parameters == ("lr", "depth", "kind", "wide")
    spec = loaded.trial_spec(study, {"lr": 0.5, "depth": 3, "kind": "a", "wide": False})
    assert (spec.params, spec.model) == (
        {"lr": 0.5}, {"width": 16, "heads": 2, "depth": 3, "kind": "a", "wide": False},
    )  # fmt: skip
    assert "wide" not in loaded.trial_spec(study, {"kind": "b", "wide": True}).model
    twice = changed("space.model.depth", 3) | {"task": "my_task:Task"}
    twice["space"]["depth"] = 4
    assert "depth is the same setting" in problems_of(write(twice))["space.model.depth"][1]


@pytest.mark.parametrize("section", ["space", "model"])
@pytest.mark.parametrize("name", ["batch_size", "seed"])
def test_what_every_task_is_passed_has_one_name(write, section, name):
    job = {key: value for key, value in JOB.items() if key not in ("data", "architectures")}
    job |= {"task": "my_task:Task", "metric": "val_loss", "mode": "min", "space": {"lr": 0.1}, "model": {}}
    job["search"] = {"num_trials": 1}
    job[section] = {**job[section], name: 3}
    assert f"train.{name}" in problems_of(write(job))[f"{section}.{name}"][1]
    job[section] = {**job[section], "warmup_epochs": 3}
    del job[section][name]
    load_job(write(job))


def test_weights_are_looked_up_beside_the_job_file_first(write, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    source = write(JOB | {"init": {"weights": "a.pt"}})
    for folder in (tmp_path / "elsewhere", Path(source).parent):
        (folder / "a.pt").write_bytes(b"")
        assert load_job(source).init.weights == str(folder / "a.pt")
    assert load_job(source, ["init.weights=~/a.pt"]).init.weights == "~/a.pt"


def test_a_file_and_its_resolved_form_are_the_same_job(write):
    job = changed("space.momentum", WHEN_SGD)
    job["space"] |= {
        "train.batch_size": {"int": [32, 64]},
        "model.x": True,
        "train.schedule": {"choice": ["cosine"]},
    }
    resolved = load_job(write(job))
    assert load_job(write(dump_job(resolved))) == resolved
    job = load_job(write(JOB))
    assert job.space["lr"].loguniform == (1e-4, 0.1)
    assert load_job(write(dump_job(job))) == job


def test_neither_a_preset_nor_a_file():
    value, message = problems_of("digitz")["job"]
    assert value == "digitz"
    assert f"did you mean digits? presets: {', '.join(presets())}" in message


@pytest.mark.parametrize("source", ["a\0b", "x" * 5000, "/", "", "no/such/file.yaml"])
def test_sources_that_cannot_be_read(source: str):
    assert list(problems_of(source)) == ["job"]


def test_a_preset_wins_over_a_file_of_its_name(tmp_path: Path, monkeypatch):
    (tmp_path / "digits").write_text("name: mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_job("digits").name == "digits"
    assert next(iter(problems_of("./digits"))) == "data", "the file, by its path"


def test_renamed_settings_have_both_names(write):
    sets = ["search.sampler=random", "search.first_points=[]"]
    search = {"num_trials": 8, "sampler": "random"}
    old = load_job(write(JOB | {"search": search | {"seeds": 2, "seed": 3}}))
    new = write(JOB | {"search": search | {"repeats": 2, "sampler_seed": 3}})
    assert load_job(new) == old
    assert load_job(new, ["search.seeds=4"]).search.seeds == 4
    sets = [*sets, "search.num_trials=8", "search.repeats=2", "search.sampler_seed=3"]
    assert load_job(write(JOB), sets) == old
    assert list(problems_of(write(JOB | {"search": search | {"repeats": 2, "seeds": 2}}))) == [
        "search.repeats"
    ]
