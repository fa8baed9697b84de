"""Fifty mistakes that new users make: each is answered by one line that says where, what is valid and what to do."""

import pytest
from command_line import call
from simulated_search import Driver, Trials, small_job

from tune_jobs.results.write import export

JOB = """name: mine
data: {name: digits}
architectures: [resnet8]
methods: [zsharp, base]
train: {epochs: 4}
space: {rho: {uniform: [0.1, 0.5]}, lr: {loguniform: [1.0e-4, 0.1]}}
search: {num_trials: 2}
"""

# What is typed, and what the line must have besides the place: what was probably meant, or what is valid.
COMMANDS = [
    ("runn digits", "did you mean run?"),
    ("run", "Missing argument 'JOB'"),
    ("run digit", "did you mean digits?"),
    ("run there.yaml", "presets: cifar10"),
    ("run search", "neither a preset nor a file|cannot be read"),
    ("run digits --epochs 3", "--set train.epochs=3"),
    ("run digits --lr=0.1", "--set space.lr=0.1"),
    ("run digits --batch-size 64", "--set train.batch_size=64"),
    ("run digits --learning-rate 0.1", "--set space.lr=0.1"),
    ("run digits --seed 1", "--set train.seed=1"),
    ("run digits --output results", "--out"),
    ("run digits --set", "requires an argument"),
    ("run digits --set train.epochs", "path=value"),
    ("run digits --set lr=0.1", "space.lr"),
    ("run digits --set train.lr=0.1", "space.lr"),
    ("run digits --set epochs=3", "train.epochs"),
    ("run digits --set num_trials=3", "search.num_trials"),
    ("run digits --set train.epoch=3", "did you mean epochs?"),
    ("run digits --set train.epochs=ten", "whole number"),
    ("run digits --set train.epochs=0", "at least 1"),
    ("run digits --set train.epochs=2.5", "whole number"),
    ("run digits --set train.base_optimizer=adamW", "did you mean adamw?"),
    ("run digits --set architectures=resnet8", "[a, b]"),
    ("run digits --set architectures=[resnet18x]", "did you mean resnet18?"),
    ("run digits --set methods=[zsharpe]", "did you mean zsharp?"),
    ("run digits --set methods=[]", "at least 1"),
    ("run digits --set data.name=mnist", "did you mean fashion_mnist?|valid: digits"),
    ("run digits --set space.q_p=1.5", "below 1"),
    ("run digits --set space.lr=[0.1,0.2]", "uniform"),
    ("run digits --set space.lr={log:[0.1,0.2]}", "loguniform"),
    ("run digits --set space.lr={loguniform:[0,0.2]}", "above 0"),
    ("run digits --set space.learning_rate=0.1", "did you mean lr?"),
    ("run digits --set train.warmup_epochs=30", "null"),
    ("run digits --set train.batch_size=5000", "at most"),
    ("run digits --set resources.gpus_per_trial=2", "from 0 to 1"),
    ("run digits --set resources.gpus_per_trial=1", "valid: auto, 0"),
    ("run digits --set resources.cpus_per_trial=1000", "at most"),
    ("run digits --set metric=accuracy", "did you mean val_accuracy?"),
    ("run digits --set metric=val_loss", "mode: min"),
    ("run digits --set search.sampler=optuna", "tpe"),
    ("run cifar10 --set data.root=nowhere", "--set data.download=true"),
    ("plan digits --set storage=http://bucket/x", "s3://"),
    ("run digits --out file.txt", "nothing can be written|is not a search folder"),
    ("run mine.yaml --out search", "--fresh"),
    ("resume nowhere", "tune-jobs run"),
    ("resume search --set train.batch_size=999", "another folder"),
    ("confirm nowhere", "tune-jobs run"),
    ("compare nowhere", "nowhere"),
    ("compare search --html nowhere/deep/x.html", "make it first"),
    ("compare search --format excel", "csv"),
    ("compare search --trials", "--format csv"),
    ("export", "Missing argument 'DIR'"),
    ("fetch x", "--address"),
    ("status --address 127.0.0.1:1", "8265"),
    ("status --address nonsense://x", "http://host:port"),
    ("submit --address 127.0.0.1:1", "--resume DIR"),
    ("validate broken.yaml", "of line 2 is not closed"),
    ("validate tabs.yaml", "spaces"),
    ("validate typo.yaml", "did you mean methods?"),
    ("validate missing.yaml", "missing"),
    ("validate list.yaml", "key: value"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    job = small_job("search.num_trials=2", "search.sampler=random", "methods=[base]")
    Driver(job, folder / "search", Trials(1)).run().close()
    export(folder / "search")
    (folder / "file.txt").write_text("x")
    texts = {
        "mine": JOB,
        "broken": JOB.replace("{name: digits}", "{name: digits"),
        "tabs": JOB.replace("data: {name: digits}", "data:\n\tname: digits"),
        "typo": JOB.replace("methods:", "method:"),
        "missing": JOB.replace("search: {num_trials: 2}\n", ""),
        "list": "- digits\n- cifar10\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(("command", "remedy"), COMMANDS)
def test_a_mistake_is_answered_by_a_line(folder, monkeypatch, command, remedy):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = sorted(path.name for path in folder.rglob("*"))
    code, out, err = call(*command.split())
    assert (code, out) == (2, "")
    assert any(part in err for part in remedy.split("|")), err
    assert len(err.splitlines()) == (2 if command == "validate typo.yaml" else 1), err
    assert sorted(path.name for path in folder.rglob("*")) == before
