"""A job's models are tried before a search starts: what is refused, with the user's line, and what is told."""

from pathlib import Path

import pytest
import torch
from command_line import call

from tune_jobs.errors import JobError
from tune_jobs.job.data_checks import check_data, try_job
from tune_jobs.job.load import dump_job, load_job
from tune_jobs.job.model_checks import memory_bytes
from tune_jobs.job.rehearsal import rehearse
from tune_jobs.search.searcher import StudySearch
from zsharp.models import build_model

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, forward, *parts):
        super().__init__()
        self.parts, self.run = nn.ModuleList(parts), forward

    def forward(self, images):
        return self.run(self, images.flatten(1))

def mixer(image_shape, num_classes, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))

def pair(image_shape, num_classes):
    return Net(lambda self, x: (self.parts[0](x), x), nn.Linear(64, num_classes))

"""
JOB = """
name: mixed
data: {name: digits, val_fraction: 0.2}
architectures: [resnet8, "nets:mixer", torchvision/shufflenet_v2_x0_5, timm/resnet10t]
methods: [zsharp, base]
model: {width: 16, drop_rate: 0.1}
train: {epochs: 2, batch_size: 64, warmup_epochs: 0}
space: {lr: {loguniform: [1.0e-4, 0.1]}}
search: {num_trials: 2}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def job(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "job.yaml").write_text(JOB)
    return str(tmp_path / "job.yaml")


def refusal(job, *sets):
    with pytest.raises(JobError) as refused:
        check_data(load_job(job, sets))
    return {problem.path: problem.message for problem in refused.value.problems}


def test_every_problem_says_where(job):
    where = refusal(job, "architectures=[nets:pair, resnet8, torchvision/alexnet]", "model={}")
    assert list(where) == ["architectures[0]", "architectures[2]"]  # alexnet needs larger images
    assert list(refusal(job, "model={width: 3, drop_rat: 0.1}")) == ["model.drop_rat"]
    assert list(refusal(job, "architectures=[resnet8]")) == ["model.width", "model.drop_rate"]
    assert "matches no parameter" in refusal(job, "train.freeze=['layers.*']")["architectures[0]"]


def test_what_the_models_weigh(job):
    spec = load_job(job, ["train.freeze=['*.bias']"])
    before = torch.get_rng_state()
    tried = try_job(spec)
    assert torch.equal(torch.get_rng_state(), before)
    assert tried.steps_per_epoch == 1150 // 64
    assert list(tried.models) == list(spec.architectures)
    mixer = tried.models["nets:mixer"]
    assert (mixer.num_parameters, mixer.num_trained) == (64 * 16 + 16 + 16 * 10 + 10, 64 * 16 + 16 * 10)
    # Gradient, AdamW's two moments and the perturbation, of what is trained.
    assert memory_bytes(spec, mixer) == 4 * (mixer.num_parameters + 4 * mixer.num_trained)
    assert tried.models["resnet8"].num_parameters == sum(
        param.numel() for param in build_model("resnet8", (1, 8, 8), 10).parameters()
    )


def test_what_is_searched_is_as_large_as_it_can_be(job):
    tried = try_job(load_job(job, ["model={drop_rate: 0.1}", "space.model.width={choice: [4, 32]}"]))
    assert tried.models["nets:mixer"].num_parameters == 64 * 32 + 32 + 32 * 10 + 10
    assert list(refusal(job, "space.model.depth={choice: [4, 32]}")) == ["space.model.depth"]


def test_weights_that_do_not_fit_are_told(job, tmp_path):
    model = build_model("torchvision/shufflenet_v2_x0_5", (1, 8, 8), 5)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    sets = [
        "architectures=[torchvision/shufflenet_v2_x0_5]",
        f"init.weights={tmp_path / 'weights.pt'}",
        "model={}",
    ]
    fresh, size = rehearse(load_job(job, sets)).notes
    assert "fc.weight, fc.bias" in fresh
    assert "224 x 224" in size and "8 x 8" in size
    sets[1] = f"init.weights={tmp_path / 'none.pt'}"
    assert "no such file" in refusal(job, *sets)["architectures[0]"]
    with pytest.raises(JobError, match=r"init\.weights"):
        rehearse(load_job(job, sets))


@pytest.mark.parametrize(
    ("sets", "path", "words"),
    [
        (["architectures=[timm/convnext_ato]"], "architectures[0]", "did you mean convnext_atto"),
        (["architectures=[torchvision/resnet]"], "architectures[0]", "torchvision.models.list_models"),
        (["init.pretrained=true"], "init.pretrained", "resnet8"),
        (["init.pretrained=true", "architectures=[nets:mixer]"], "init.pretrained", "as an argument"),
        (["init.pretrained=true", "init.weights=a.pt", "architectures=[timm/resnet10t]"], "init", "both"),
    ],
)
def test_names_are_checked_without_building(job, sets, path, words):
    with pytest.raises(JobError) as refused:
        load_job(job, sets)
    (problem,) = refused.value.problems
    assert problem.path == path and words in problem.message


def test_paths_of_weights_become_absolute(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = load_job(job, ["init.weights=a.pt"])
    assert spec.with_absolute_root().init.weights == str(tmp_path / "a.pt")
    assert spec.trial_spec(spec.studies()[0], {}).init.weights == str(tmp_path / "a.pt")


def test_validate_shows_what_the_models_weigh(job):
    code, out, err = call("validate", job)
    assert (code, err) == (0, "")
    for name in ("resnet8", "nets:mixer", "torchvision/shufflenet_v2_x0_5", "timm/resnet10t"):
        assert name in out
    assert "1,210" in out  # parameters of the mixer


def test_validate_without_the_data_checks_the_rest(tmp_path):
    code, out, _ = call("validate", "cifar10", "--set", f"data.root={tmp_path}")
    assert code == 0 and "Not checked" in out and "the models" in out


def test_validate_refuses_data_of_a_function_that_cannot_be_used():
    code, _, err = call("validate", "digits", "--set", "data.name=no_such_pixels:load")
    assert code == 2 and "no module 'no_such_pixels'" in err.replace("\n", " ")


WIDTH = "space={lr: 0.01, model.width: {choice: [4, 8]}}"


def parameters(job, *sets):
    return {study.architecture: study.parameters for study in try_job(load_job(job, sets)).job.studies()}


def test_an_argument_is_searched_only_where_the_architecture_takes_it(job):
    taken = parameters(
        job,
        "methods=[base]",
        "model={}",
        "space={model.width: {choice: [2, 3]}, model.drop_rate: {uniform: [0, 0.5], when: {model.width: 3}}, "
        "lr: {loguniform: [0.001, 0.1]}}",
    )
    assert taken == {
        "resnet8": ("lr",),
        "nets:mixer": ("lr", "model.width"),
        "torchvision/shufflenet_v2_x0_5": ("lr",),
        "timm/resnet10t": ("lr",),  # its drop rate comes with a width, which it has not
    }
    only = ("architectures=[nets:mixer, timm/resnet10t]", "model={}", "methods=[base]")
    drop_rate = "model.drop_rate: {uniform: [0, 0.5], when: {train.schedule: constant}}"
    space = (
        f"space={{train.schedule: {{choice: [cosine, constant]}}, model.width: {{int: [2, 4]}}, {drop_rate}}}"
    )
    assert parameters(job, *only, space) == {
        "nets:mixer": ("train.schedule", "model.width"),
        "timm/resnet10t": ("train.schedule", "model.drop_rate"),
    }


def test_trials_have_only_the_arguments_that_their_architecture_takes(job):
    spec = try_job(
        load_job(job, ["methods=[base]", "space.model.width=8", "search.first_points=[{lr: 0.01}]"])
    ).job
    drawn = {study.architecture: spec.draw(study, lambda *_: 0.01) for study in spec.studies()}
    assert [name for name, values in drawn.items() if "model.width" in values] == ["nets:mixer"]
    assert load_job(str(dumped(job, spec))) == spec


def dumped(job, spec):
    file = Path(job).with_name("resolved.yaml")
    file.write_text(dump_job(spec))
    return file


@pytest.mark.parametrize(
    ("sets", "where", "words"),
    [
        ((WIDTH,), "space", "resnet8 with method base"),
        ((WIDTH, "architectures=[nets:mixer, timm/resnet10t]"), "space", "timm/resnet10t with method base"),
        (("space.model.widht={int: [1, 4]}",), "space.model.widht", "'widht'; did you mean width"),
        ((WIDTH, "search.sampler=grid"), "search.num_trials", "the grid of resnet8 with method"),
    ],
)
def test_what_is_left_to_search_is_checked_for_each_architecture(job, sets, where, words):
    assert words in refusal(job, *sets)[where]


def test_shared_configurations_are_the_same_in_what_all_architectures_take(job):
    spec = load_job(
        job,
        [
            "architectures=[resnet8, nets:mixer]",
            "methods=[base]",
            "model={}",
            "space={model.width: {int: [2, 8]}, train.schedule: {choice: [cosine, constant]}, "
            "train.ema_decay: {uniform: [0.1, 0.9]}, lr: {loguniform: [0.001, 0.1]}}",
            "search={num_trials: 4, sampler: random, shared_configurations: true}",
        ],
    )
    ours, theirs = ([*suggested(spec, study)] for study in try_job(spec).job.studies())
    assert ours == [
        {name: value for name, value in point.items() if name != "model.width"} for point in theirs
    ]
    assert all("model.width" in point for point in theirs)


def suggested(job, study):
    search = StudySearch(job, study)
    return [search.suggest_next()[0].params for _ in range(4)]
