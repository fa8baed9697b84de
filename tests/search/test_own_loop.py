"""Training loops of a user's own: what they report, how they end, and what they find again."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from tune_jobs.errors import JobError
from tune_jobs.job.spec import JobSpec
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.own_code import with_code
from tune_jobs.search.own_loop import LoopStopped, build_run
from zsharp.optim import METHODS
from zsharp.training import TrainSpec, TrialSpec
from zsharp.user_code import UserCodeError


def spec_of(method="zsharp", epochs=3):
    train = TrainSpec(epochs=epochs, batch_size=5, warmup_epochs=0, loop="loops:train")
    return TrialSpec("loops:train", method, {"lr": 0.01}, train=train, model={"width": 3}, metric="val_loss")


def loop(trial):
    model = nn.Linear(3, 1)
    optimizer = trial.optimizer(model)
    if (state := trial.load()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(trial.epoch, trial.epochs):
        for _ in range(4):
            inputs = torch.randn(5, 3)

            def closure(inputs=inputs):
                optimizer.zero_grad()
                loss = (model(inputs) - 1).square().mean()
                loss.backward()
                return loss

            loss = optimizer.step(closure)
        trial.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        trial.report(epoch=epoch + 1, val_loss=loss, train_loss=loss, width=trial.params["width"])


def measured(row):
    return {name: row[name] for name in ("epoch", "val_loss", "metrics", "gradient_evaluations", "diverged")}


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_continues_where_it_saved(method, tmp_path):
    whole = build_run(spec_of(method), loop)
    rows = []
    while not whole.is_finished:
        rows.append(measured(whole.run_epoch()))
        if whole.epoch == 1:
            whole.save(tmp_path / "c.pt")
    whole.close()
    assert rows[2]["gradient_evaluations"] == 12 * METHODS[method].gradient_evaluations_per_step
    assert rows[2]["metrics"] == {"width": 3}
    resumed = build_run(spec_of(method), loop)
    resumed.load(tmp_path / "c.pt")
    assert measured(resumed.last_report) == rows[0]
    assert [measured(resumed.run_epoch()) for _ in range(2)] == rows[1:]
    resumed.close()


def test_a_loop_that_saves_nothing_starts_again(tmp_path):
    def forgetful(trial):
        for epoch in range(trial.epoch, trial.epochs):
            trial.report(epoch=epoch + 1, val_loss=1.0)

    run = build_run(spec_of(), forgetful)
    run.run_epoch()
    run.save(tmp_path / "c.pt")
    run.close()
    again = build_run(spec_of(), forgetful)
    again.load(tmp_path / "c.pt")
    assert (again.epoch, again.last_report) == (0, None)
    assert again.run_epoch()["epoch"] == 1
    again.close()


def test_a_trial_that_is_over_ends_its_loop():
    ended = []

    def stubborn(trial):
        try:
            loop(trial)
        except Exception:
            ended.append("caught")
        except LoopStopped:
            ended.append("stopped")
            raise

    num_threads = threading.active_count()
    run = build_run(spec_of(), stubborn)
    run.run_epoch()
    run.close()
    assert ended == ["stopped"]
    assert threading.active_count() == num_threads


def reporting(**numbers):
    return lambda trial: trial.report(**{"epoch": 1, "val_loss": 1.0} | numbers)


def saving(trial):
    trial.save({"model": nn.Linear(1, 1)})


BAD = {
    "skips an epoch": (reporting(epoch=2), "reported epoch 2 after epoch 0"),
    "goes back": (reporting(epoch=0), "reported epoch 0"),
    "counts in halves": (reporting(epoch=1.0), "reported epoch 1.0"),
    "reports text": (reporting(val_loss="low"), "a str"),
    "reports many numbers": (reporting(extra=torch.ones(3)), "3 elements"),
    "reports a name of ours": (reporting(num_parameters=3), "num_parameters"),
    "reports no metric": (lambda trial: trial.report(epoch=1, mae=1.0), "the job's metric is 'val_loss'"),
    "saves a whole module": (saving, "without unpickling"),
    "returns early": (lambda trial: None, "returned after epoch 0"),
}


@pytest.mark.parametrize(("bad", "said"), BAD.values(), ids=BAD)
def test_what_a_loop_must_not_do_is_told(bad, said):
    with pytest.raises(UserCodeError) as caught:
        build_run(spec_of(), bad).run_epoch()
    assert said in str(caught.value)


def test_what_a_loop_raises_is_raised():
    def broken(trial):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        build_run(spec_of(), broken).run_epoch()


def test_a_loss_that_is_not_finite_is_divergence():
    run = build_run(spec_of(), reporting(train_loss=float("inf")))
    assert run.run_epoch()["diverged"] == 1
    run.close()


@pytest.mark.parametrize(("job", "keyword"), [({"task": "m:T"}, "task"), ({"train": "m:f"}, "train")])
def test_what_a_program_passed_is_to_be_passed_again(job, keyword):
    values = {"name": "own", "methods": ["base"], "space": {}, "search": {"num_trials": 1}}
    spec = JobSpec.model_validate(values | job)
    with pytest.raises(JobError, match=rf"tune_jobs\.resume\(folder, {keyword}=\.\.\.\)"):
        with_code(spec, SearchFolder("nowhere"), None)


EXITING = """
import signal
import torch
from test_own_loop import build_run, spec_of

def endless(trial):
    model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.ReLU(), torch.nn.Linear(300, 1))
    optimizer = trial.optimizer(model)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.randn(64, 300)).square().mean()
        loss.backward()
        return loss

    for _ in range(50):
        optimizer.step(closure)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    while True:
        optimizer.step(closure)

def leave(*_):
    raise SystemExit(3)

signal.signal(signal.SIGALRM, leave)
run = build_run(spec_of(), endless)
run.run_epoch()
"""


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))  # without care most abort
def test_a_program_that_ends_in_the_middle_of_a_loop_ends_quietly(attempt):
    done = subprocess.run(
        [sys.executable, "-c", EXITING],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "")
