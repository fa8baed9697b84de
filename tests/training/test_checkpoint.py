"""A run continued from its checkpoint is the uninterrupted one; what cannot be continued says so."""

import io
import itertools
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from small_runs import is_same, measured, small_spec, whole_state

from zsharp.optim import METHODS
from zsharp.training import AugmentSpec, Training, train
from zsharp.training.checkpoint import read_checkpoint, write_checkpoint

CPU = torch.device("cpu")
EVERYTHING = {
    "clip_grad_norm": 0.5,
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
    "augment": AugmentSpec(flip=True, cutout=2, randaugment=2, mixup=0.2, cutmix=0.5),
}
# A method's state and its base optimizer's are kept apart, so each method need not meet each base optimizer.
CASES = [
    *(
        pytest.param(method, "resnet8", {"base_optimizer": base}, id=f"{method}-{base}")
        for method, base in zip(METHODS, itertools.cycle(["sgd", "adam", "adamw"]), strict=False)
    ),
    pytest.param("random_sam", "vit_tiny", {}, id="vit-random_sam"),
    pytest.param("zsharp_friendly_sam", "resnet8", EVERYTHING, id="everything-on"),
    pytest.param("base", "resnet8", EVERYTHING | {"precision": "bf16"}, id="everything-on-bf16"),
]


@pytest.mark.parametrize(("method", "architecture", "settings"), CASES)
def test_continuing_is_bit_identical(method, architecture, settings, tmp_path):
    spec = small_spec(method, architecture, max_images=150, epochs=3, **settings)
    first = Training(spec)
    before = first.run_epoch()
    first.save(tmp_path / "checkpoint.pt")
    expected = [first.run_epoch() for _ in range(2)]
    state = whole_state(first)

    second = Training(replace(spec, data=replace(spec.data, root="elsewhere")))
    torch.manual_seed(99)
    second.load(tmp_path / "checkpoint.pt")
    reports = [second.run_epoch() for _ in range(2)]

    assert measured(reports) == measured(expected)
    assert is_same(whole_state(second), state)
    assert reports[0]["train_s"] > before["train_s"]
    assert reports[0]["wall_s"] > before["wall_s"]


def test_saving_changes_nothing_and_a_finished_run_is_not_trained_again(tmp_path):
    spec = small_spec("zsharp", max_images=150, epochs=3)
    path, rows = tmp_path / "checkpoint.pt", []
    saved = train(spec, rows.append, checkpoint=path)
    assert measured(saved.reports) == measured(train(spec).reports)
    assert list(tmp_path.iterdir()) == [path]
    again = train(spec, rows.append, checkpoint=path)
    assert (again.status, again.reports, len(rows)) == ("completed", [], 3)


def test_numbers_may_come_as_integers_and_in_any_mapping(tmp_path):
    training = Training(small_spec(params={"lr": 1, "rho": 0}))
    training.save(tmp_path / "checkpoint.pt")
    Training(replace(training.spec, params=MappingProxyType({"rho": 0.0, "lr": 1.0}))).load(
        tmp_path / "checkpoint.pt"
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "checkpoint.pt"
    training = Training(small_spec("zsharp_friendly_sam", ema_decay=0.9))
    training.run_epoch()
    training.save(path)
    return training.spec, path


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def test_a_pickle_in_a_checkpoint_is_not_run(written, tmp_path):
    spec, path = written
    content = torch.load(path, weights_only=True)
    torch.save(content | {"state": Runs(tmp_path / "made by the pickle")}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt: not a readable checkpoint"):
        Training(spec).load(tmp_path / "evil.pt")
    assert not (tmp_path / "made by the pickle").exists()


def resaved(change):
    """The file with changed content."""

    def damage(data):
        file = io.BytesIO()
        torch.save(change(torch.load(io.BytesIO(data), weights_only=True)), file)
        return file.getvalue()

    return damage


UNREADABLE = "not a readable checkpoint"
DAMAGE = {
    "empty": (lambda data: b"", UNREADABLE),
    "text": (lambda data: b"not a checkpoint\n", UNREADABLE),
    "cut in half": (lambda data: data[: len(data) // 2], UNREADABLE),
    "without its last byte": (lambda data: data[:-1], UNREADABLE),
    "only its header": (lambda data: data[:64], UNREADABLE),
    "one byte of the weights changed": (
        lambda data: (
            b"%b%c%b" % (data[: len(data) // 2], data[len(data) // 2] ^ 0xFF, data[len(data) // 2 + 1 :])
        ),
        UNREADABLE,
    ),
    "no file": (None, f"{UNREADABLE} .*No such file"),
    "another version": (resaved(lambda content: content | {"version": 99}), "version 99; valid: 1"),
    "without a spec": (resaved(lambda content: content | {"spec": None}), UNREADABLE),
    "without a state": (resaved(lambda content: content | {"state": 5}), UNREADABLE),
    "of something else": (resaved(lambda content: content["state"]), UNREADABLE),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(damage, written, tmp_path):
    spec, path = written
    change, message = DAMAGE[damage]
    damaged = tmp_path / "damaged.pt"
    if change is not None:
        damaged.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"damaged\.pt: .*{message}") as caught:
        Training(spec).load(damaged)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        (None, {"method": "sam"}, "method is 'zsharp_friendly_sam' there and 'sam' here"),
        (None, {"params": {"lr": 0.5}}, "params.lr is 0.01 there and 0.5 here"),
        (None, {"architecture": "vit_tiny"}, "architecture is"),
        ("train", {"seed": 1}, "train.seed is"),
        ("train", {"epochs": 3}, "train.epochs is"),
        ("train", {"batch_size": 51}, "train.batch_size is"),
        ("data", {"split_seed": 1}, "data.split_seed is 0 there and 1 here"),
    ],
)
def test_a_checkpoint_of_another_trial_is_refused(written, part, changed, message):
    spec, path = written
    if part is not None:
        changed = {part: replace(getattr(spec, part), **changed)}
    with pytest.raises(ValueError, match=f"checkpoint.pt: checkpoint of another trial .*{message}"):
        Training(replace(spec, **changed)).load(path)


def test_a_checkpoint_of_other_data_is_refused(written):
    """The same name and folder may hold other images: the user's own Parquet files, for one."""
    spec, path = written
    training = Training(spec)
    training.task.data = replace(training.data, info=replace(training.data.info, checksum="0" * 32))
    with pytest.raises(ValueError, match=r"checkpoint\.pt: checkpoint of other data"):
        training.load(path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # between open() and `with`
@pytest.mark.parametrize("delay_s", [0.004, 0.016, 0.064])
def test_an_interrupt_while_saving_stays_an_interrupt(delay_s, written, tmp_path):
    """The alarm goes off wherever the save happens to be, often inside torch's writer."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    state = {str(i): torch.zeros(1_000_000) for i in range(20)}
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            while True:
                write_checkpoint(tmp_path / "checkpoint.pt", written[0], state)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not list(tmp_path.glob("*.tmp"))
    if (tmp_path / "checkpoint.pt").exists():
        assert is_same(read_checkpoint(tmp_path / "checkpoint.pt", written[0], CPU), state)


STOPPED_WHILE_SAVING = """
import resource, signal, sys
from pathlib import Path
from small_runs import small_spec
from zsharp.training import Training

path = Path(sys.argv[1])
training = Training(small_spec(max_images=100, epochs=4))
training.run_epoch()
training.save(path)
training.run_epoch()
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    training.save(path)
except OSError as error:
    assert error.filename == str(path)
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    print("an error, and no stray file", flush=True)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
training.save(path)
"""


def test_a_save_that_is_cut_off_leaves_the_old_file(tmp_path):
    """The limit on the size of files stops later saves after 100 kB: first by an error, then by its signal."""
    path = tmp_path / "checkpoint.pt"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_WHILE_SAVING, path], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "an error, and no stray file\n", done.stderr
    assert done.returncode == -signal.SIGXFSZ, done.stderr
    assert path.stat().st_size > 100_000
    strays = [other for other in tmp_path.iterdir() if other != path]
    assert len(strays) == 1

    spec = small_spec(max_images=100, epochs=4)
    continued = train(spec, checkpoint=path)
    assert measured(continued.reports) == measured(train(spec).reports[1:])
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000
