"""What a search trained, in a line, from what its files know; what they do not know is left out."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from tune_jobs.results.read import Results
from tune_jobs.results.trained import busy_s, num_validated, trained_in_words

START = datetime(2026, 1, 2, tzinfo=UTC)
JOB = {
    "data": {"name": "parquet", "max_images": 3000},
    "train": {"epochs": 4, "batch_size": 128, "base_optimizer": "adamw", "loop": None},
    "space": {},
}
HARDWARE = {"num_cpus": 2, "gpus": []}


def trial(architecture="resnet8", method="sam", *, begin=0, end=60, **more):
    return {
        "study": f"{architecture}-{method}",
        "architecture": architecture,
        "dataset": "cifar10_jpeg",
        "max_epochs": 4,
        "num_parameters": 78_042,
        "device": "cpu",
        "started_at": START + timedelta(seconds=begin),
        "finished_at": START + timedelta(seconds=end),
        "wall_s": float(end - begin),
    } | more


def results(trials, confirmations=(), *, job=JOB, hardware=HARDWARE, data=None):
    columns = ["seed", "started_at", "finished_at", "train_s"]
    confirmed = pd.DataFrame(confirmations, columns=columns)
    metadata = {"job": job, "hardware": hardware, "data": data}
    return Results(Path("s"), pd.DataFrame(trials), pd.DataFrame(), confirmed, metadata)


SEARCH = [trial(), trial(method="zsharp", begin=30, end=400), trial(method="zsharp", begin=400, end=420)]
SEED = {"seed": 1, "started_at": START, "finished_at": START + timedelta(seconds=30), "train_s": 30.0}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            results(SEARCH, data={"num_train": 50_000}),
            "Trained: resnet8 (0.078 M parameters), 3,000 of 50,000 images of cifar10_jpeg, 4 epochs, batch 128, AdamW"
            "; 3 trials in 2 studies; 2 cores, 7 min.",
        ),
        (results(SEARCH, [SEED, SEED | {"seed": 2}]), "; confirmed with 2 fresh seeds in 30.0 s."),
        (results(SEARCH), "3,000 images of cifar10_jpeg, 4"),
        (
            results(SEARCH, job=JOB | {"data": {"name": "parquet", "max_images": 3000, "val_fraction": 0.1}}),
            "3,000 images of cifar10_jpeg (300 of them held out for validation), 4",
        ),
        (
            results(SEARCH, job=JOB | {"data": {"name": "folder", "max_images": 3000, "val_fraction": 0.1}}),
            "3,000 images of cifar10_jpeg, 4",
        ),
        (results(SEARCH, job=JOB | {"data": {}}, data={"num_train": 900}), "all 900 images of"),
        (results(SEARCH, job=JOB | {"space": {"train.batch_size": {}}}), "4 epochs, AdamW; "),
        (
            results([trial(num_parameters=None)], job=None, hardware=None),
            "resnet8, all images of cifar10_jpeg, 4 ep",
        ),
        (
            results([trial(num_parameters=900), trial("vit", num_parameters=11_000_000)]),
            "(900 parameters), vit (11 M",
        ),
        (
            results([trial("my:Task", dataset="my:Task")]),
            "Trained: my:Task (0.078 M parameters), 4 epochs, AdamW; ",
        ),
        (
            results([trial("my:loop", dataset="my:loop")], job=JOB | {"train": {"loop": "my:loop"}}),
            "Trained: my:loop (0.078 M parameters), 4 epochs; 1 trial in 1 study; ",
        ),
        (
            results([trial(device="cuda: H100")], hardware={"gpus": ["H100", "H100"]}),
            "; 2 x H100, 1 min.",
        ),
        (results([trial(max_epochs=1)]), ", 1 epoch, "),
    ],
)
def test_the_line(given, said):
    assert said in trained_in_words(given)


@pytest.mark.parametrize(
    ("job", "data", "number"),
    [
        (JOB, {"num_train": 50_000, "num_val": 270}, 270),
        (JOB | {"data": {"max_images": 3000, "val_fraction": 0.1}}, None, 300),
        (JOB | {"data": {"name": "my:data", "val_fraction": 0.1}}, {"num_train": 900}, None),
        (None, None, None),
    ],
)
def test_the_number_of_validation_images(job, data, number):
    assert num_validated(results(SEARCH, job=job, data=data)) == number


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0),
        ([(0, 10), (5, 20), (100, 110)], 30),
        ([(0, 100), (10, 20)], 100),
    ],
)
def test_pauses_between_sessions_do_not_count(spans, seconds):
    frame = pd.DataFrame(
        [trial(begin=begin, end=end) for begin, end in spans], columns=["started_at", "finished_at", "wall_s"]
    )
    assert busy_s(frame) == seconds
    interrupted = frame.assign(wall_s=frame["wall_s"] / 10)
    assert busy_s(interrupted) == pytest.approx(sum(end - begin for begin, end in spans) / 10)
