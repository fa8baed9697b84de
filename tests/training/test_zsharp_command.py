"""`python -m zsharp`: what it prints, its exit codes, and resuming after an interruption."""

import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from small_runs import measured

from zsharp.__main__ import main
from zsharp.data import DATASETS
from zsharp.models import ARCHITECTURES
from zsharp.optim import METHODS

SMALL = ["--max-images", "200", "--batch-size", "50", "--threads", "1"]


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


def test_the_default_settings_learn_the_digits(capsys):
    """What the documented first command prints, after 5 epochs in place of 10."""
    assert main(["--test", "--epochs", "5", "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    first, settings, headings, *epochs, result, test = captured.out.splitlines()
    assert re.match(
        r"zsharp on resnet8, 75,002 parameters; digits: 1,294 images of .* 144 for validation", first
    )
    assert re.match(r"lr 0\.003, rho 0\.05, q_p 0\.95; adamw, batch size 64, seed 0; fp32 on c", settings)
    assert " ".join(headings.split()) == (
        "epoch train loss val acc grad norm pert norm kept images/s seconds"
    )
    assert [line.split()[0] for line in epochs] == [str(n) for n in range(1, 6)]
    assert all(len(line.split()) == 8 and len(line) == len(headings) for line in epochs)
    best, last, test_accuracy = map(float, re.findall(r"0\.\d{4}", result + test))
    assert min(best, last, test_accuracy) > 0.9
    assert "200 gradient evaluations" in result


def test_json_lines(capsys):
    code = main(
        [*SMALL, "--epochs", "2", "--json", "--test", "--method", "zsharp_asam", "--param", "eta=0.1"]
    )
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    first, *epochs, result = rows(captured.out)
    assert [row["kind"] for row in (first, *epochs, result)] == ["run", "epoch", "epoch", "result"]
    assert first["spec"]["params"] == {"lr": 0.003, "rho": 0.5, "eta": 0.1, "q_p": 0.95}
    assert (first["num_train"], first["num_val"], first["epochs_before"]) == (180, 20, 0)
    assert result["status"] == "completed"
    assert result["val_accuracy"] == epochs[1]["val_accuracy"]
    assert result["best_val_accuracy"] == max(row["val_accuracy"] for row in epochs)
    assert result["gradient_evaluations"] == epochs[1]["gradient_evaluations"] == 12
    assert 0 <= result["test_accuracy"] <= 1 and result["test_loss"] > 0


def test_no_validation_images_and_no_perturbation_are_dashes(capsys):
    assert main([*SMALL, "--epochs", "1", "--method", "base", "--val-fraction", "0"]) == 0
    *_, epoch, result = capsys.readouterr().out.splitlines()
    assert [epoch.split()[i] for i in (2, 4, 5)] == ["-"] * 3
    assert result.startswith("validation accuracy: best - (epoch -), last -; 4 gradient evaluations")


@pytest.mark.parametrize("as_json", [False, True])
def test_list_has_every_row(as_json, capsys):
    assert main(["--list", *(["--json"] if as_json else [])]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = {"method": METHODS, "architecture": ARCHITECTURES, "data": DATASETS}
    expected = [(kind, row.name, row.summary) for kind, table in tables.items() for row in table.values()]
    if as_json:
        listed = [tuple(json.loads(line).values()) for line in lines]
    else:
        listed = [tuple(re.split(r" {2,}", line, maxsplit=2)) for line in lines]
    assert listed == expected
    assert len(listed) > 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--method zsharpe", "did you mean zsharp"),
        ("--data cifar10 --root /nowhere", "/nowhere: no such folder"),
        ("--method base --rho 0.1", "no parameter 'rho'"),
        ("--param rhoo=0.1", "did you mean rho"),
        ("--param rho", "--param rho: expected NAME=VALUE"),
        ("--param rho=big", "--param rho=big: expected NAME=VALUE"),
        ("--rho 0.1 --param rho=0.2", "rho is set twice"),
        ("--q-p 1", "q_p is 1.0"),
        ("--lr fast", "argument --lr: invalid float value: 'fast'"),
        ("--epochs 0", "train.epochs is 0"),
        ("--val-fraction 1", "data.val_fraction is 1.0"),
        ("--threads 0", "--threads is 0"),
        ("--checkpoint /nowhere/checkpoint.pt", "no such folder: /nowhere"),
        ("--checkpoint /dev/zero", "/dev/zero: not a file"),
        (f"--checkpoint {__file__}", "test_zsharp_command.py: not a readable checkpoint"),
        ("--arguments a", "--arguments a: expected NAME=VALUE"),
        ("--arguments a=1", "arguments are {'a': 1}"),
        ("--data nowhere_to_be_found:load", "no module 'nowhere_to_be_found'"),
        ("--lr-scale none=0.1", "'none' matches no parameter"),
        ("--freeze none --image-size 4097", "data.image_size is 4097"),
        ("--epoch 3", "unrecognized arguments: --epoch 3"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    try:
        code = main(arguments.split())
    except SystemExit as exit:
        code = exit.code
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("python -m zsharp: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n")


def test_a_run_that_diverges_fails_with_a_sentence(capsys):
    assert main([*SMALL, "--lr", "1e20", "--base-optimizer", "sgd", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("python -m zsharp: diverged in epoch 1: a loss is not finite")
    _, epoch, result = rows(captured.out)
    assert (epoch["train_loss"], epoch["diverged"]) == (None, 1)
    assert (result["status"], result["best_val_accuracy"]) == ("diverged", None)


def test_an_unwritable_checkpoint_fails_without_a_traceback(tmp_path, capsys):
    path = tmp_path / ("x" * 250)  # a legal name, but not with the suffix of the temporary file
    assert main([*SMALL, "--epochs", "1", "--checkpoint", str(path)]) == 1
    assert "File name too long" in capsys.readouterr().err


def test_an_interrupted_run_continues_as_if_nothing_had_happened(tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    arguments = [*SMALL, "--epochs", "10", "--json", "--checkpoint", str(path)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_NUM_THREADS": "1", "OMP_DISPLAY_ENV": "TRUE"}
    with subprocess.Popen(
        [sys.executable, "-m", "zsharp", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        seen = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    last = errors.splitlines()[-1]
    assert last.startswith("python -m zsharp: interrupted") and str(path) in last
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in errors or "OMP_WAIT_POLICY" not in errors, "waiting threads spin"
    before = rows("".join(seen) + rest)
    assert [row["kind"] for row in before[:4]] == ["run", "epoch", "epoch", "epoch"]

    assert main(arguments) == 0
    first, *after = rows(capsys.readouterr().out)
    assert first["epochs_before"] >= 2  # the third was shown, but perhaps not yet written
    kept = [row for row in before[1:] if row["epoch"] <= first["epochs_before"]]
    assert main(arguments[:-2]) == 0
    _, *whole = rows(capsys.readouterr().out)
    assert measured(kept + after[:-1]) == measured(whole[:-1])
    assert torch.load(path, weights_only=True)["state"]["epoch"] == 10

    assert main([*arguments[:-3], "--checkpoint", str(path), "--test"]) == 0
    *_, nothing, test = capsys.readouterr().out.splitlines()
    assert nothing == "nothing left to train: the checkpoint is from the last epoch"
    assert test.startswith("test accuracy: 0.")


class InterruptsAtTheFirstEpoch(io.StringIO):
    """Standard output at which you press Ctrl-C when you see epoch 1."""

    def write(self, text):
        if text.lstrip().startswith("1 "):
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def test_an_interrupted_run_without_a_checkpoint_says_what_would_have_helped(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", InterruptsAtTheFirstEpoch())
    assert main([*SMALL, "--epochs", "3000"]) == 130
    errors = capsys.readouterr().err
    assert errors.startswith("python -m zsharp: interrupted; nothing was saved: --checkpoint FILE")
