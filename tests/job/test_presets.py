"""The presets: they load, their comments tell the truth, and the paper's is the paper's."""

import re
from importlib.resources import files

import pytest

from tune_jobs.job.load import load_job, presets
from zsharp.data import DATASETS, prepare
from zsharp.models import check_architecture
from zsharp.optim.methods import METHODS

# Training images and image shape of the official data sets, which are not on every machine.
OFFICIAL = dict.fromkeys(("cifar10", "cifar100"), (50_000, (3, 32, 32)))
OFFICIAL["tiny_imagenet"] = (100_000, (3, 64, 64))
NAMES = sorted(presets())
SEARCHES = ("cifar10", "cifar100", "digits", "late_phase", "tiny_imagenet")
CONTROLS = ("mask_controls", "qp_ablation", "radius_controls", "transfer")  # more in test_controls.py


def comment_of(name: str) -> str:
    text = (files("tune_jobs.job") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    return " ".join(lines)


def images_of(name: str) -> tuple[int, tuple[int, int, int]]:
    if DATASETS[name].needs_root:
        return OFFICIAL[name]
    info = prepare(name).info
    return info.num_train, info.image_shape


def test_the_presets():
    assert sorted([*SEARCHES, *CONTROLS, "paper"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_name_and_summary(name: str):
    assert load_job(name).name == name, "so that results of two presets never share a folder"
    assert 30 < len(presets()[name]) < 120
    assert presets()[name].endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_the_comment_states_the_upper_bounds_and_no_time(name: str):
    job, comment = load_job(name), comment_of(name)
    epochs = r"at most: ([\d,]+) studies x ([\d,]+) trials? x ([\d,]+) epochs = ([\d,]+) epochs"
    factors = [int(text.replace(",", "")) for text in re.search(epochs, comment).groups()]
    own_epochs = job.train.epochs - job.fork_epoch
    assert factors[:3] == [len(job.studies()), job.search.num_trials, own_epochs]
    assert factors[3] == factors[0] * factors[1] * factors[2]
    in_trunks = len(job.trunks()) * job.search.seeds * job.fork_epoch
    trunks = re.search(r"(\d+) trunks x (\d+) epochs = (\d+) epochs", comment)
    assert (int(trunks[3]) if trunks else 0) == in_trunks
    gradients = r"Gradient evaluations, at most: ([\d,]+) steps an epoch = ([\d,]+)"
    steps, total = (int(text.replace(",", "")) for text in re.search(gradients, comment).groups())
    num_images, _ = images_of(job.data.name)
    assert steps == round(num_images * (1 - job.data.val_fraction)) // job.train.batch_size
    per_step = sum(METHODS[study.method].gradient_evaluations_per_step for study in job.studies())
    assert total == (per_step * job.search.num_trials * own_epochs + in_trunks) * steps
    assert not re.search(r"\b(seconds?|minutes?|hours?|days?)\b", comment)


@pytest.mark.parametrize("name", NAMES)
def test_the_architectures_can_take_the_images(name: str):
    job = load_job(name)
    for architecture in job.architectures:
        check_architecture(architecture, images_of(job.data.name)[1])


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_compare_with_the_base_optimizer_and_begin_at_the_papers_point(name: str):
    job = load_job(name)
    assert {"zsharp", "sam", "base"} <= set(job.methods)
    assert job.search.first_points[0] == {"q_p": 0.95, "rho": 0.05, "lr": 1e-3}
    assert job.asha.enabled
    assert job.grace_epochs * 4 >= job.train.epochs, "slow starters, with a large rho or q_p, survive"


@pytest.mark.parametrize("name", NAMES)
def test_few_epochs_by_one_change(name: str):
    fewest = 2 if load_job(name).trunks() else 1
    job = load_job(name, (f"train.epochs={fewest}", "train.warmup_epochs=0"))
    assert (job.train.epochs, job.grace_epochs) == (fewest, fewest)


def test_the_papers_settings():
    job = load_job("paper")
    assert job.architectures == ("resnet56", "resnet110", "vgg16_bn", "vit_7_8_8_384", "vit_7_8_12_768")
    assert job.methods == ("base", "sam", "asam", "friendly_sam", "zsharp", "zsharp_official")
    train = job.train
    assert (train.base_optimizer, train.weight_decay) == ("adamw", 5e-5)
    assert (train.batch_size, train.epochs) == (256, 200)
    assert (train.schedule, train.warmup_epochs) == ("paper", 0)
    for study in job.studies():
        params = dict(METHODS[study.method].defaults) | dict(job.trial_spec(study, {}).params)
        assert study.parameters == ()
        assert params["lr"] == 1e-3
        assert params.get("q_p", 0.95) == 0.95
        assert params.get("rho", 0.05) == (0.5 if study.method == "asam" else 0.05)
    assert (job.search.num_trials, job.asha.enabled) == (1, False)


def test_the_paper_can_be_searched_as_its_comment_says():
    sets = ("space.q_p={uniform: [0.75, 0.95]}", "search.num_trials=8", "methods=[zsharp]")
    assert load_job("paper", sets).studies()[0].parameters == ("q_p",)
