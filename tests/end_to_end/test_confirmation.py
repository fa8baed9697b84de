"""A real search confirmed on fresh seeds: the test set is read once a run, what is done stays done."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from tune_jobs.confirmation.run import confirm
from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from zsharp.data import prepare
from zsharp.data.training_data import load_test_data
from zsharp.training import Training


@pytest.fixture(scope="module")
def confirmed(searched, ray_with_four_gpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("confirmed") / "search"
    shutil.copytree(searched.folder, folder)
    return folder, confirm(folder, 1, sharpness_images=32)


def test_every_winner_and_seed_is_a_row_with_its_measures(confirmed):
    folder, rows = confirmed
    table = pd.read_parquet(folder / "parquet" / "confirmations.parquet")
    assert len(rows) == len(table) == 2
    assert sorted(zip(table["method"], table["seed"], strict=True)) == [("base", 1), ("zsharp", 1)]
    assert set(table["status"]) == {"completed"}
    assert table["test_accuracy"].between(0, 1).all()
    assert table["sharpness.worst_1step"].notna().all()
    # all 200 images are trained on, 6 steps in each of 4 epochs, where the search had 160
    assert table.set_index("method")["gradient_evaluations"].to_dict() == {"base": 24, "zsharp": 48}


def test_a_confirmation_is_the_run_that_it_says(confirmed):
    folder, rows = confirmed
    row = next(row for row in rows if row["method"] == "zsharp")
    with Ledger.open(folder, read_only=True) as ledger:
        (trial,) = [trial for trial in ledger.trials() if trial["trial_id"] == row["trial_id"]]
    job = load_job(str(folder / "job.yaml"))
    study = next(study for study in job.studies() if study.method == "zsharp")
    spec = job.trial_spec(study, trial["params"])
    spec = replace(spec, train=replace(spec.train, seed=1), data=replace(spec.data, val_fraction=0.0))
    training = Training(spec)
    while not training.is_finished:
        training.run_epoch()
    loss, accuracy = training.evaluate(*load_test_data(prepare("digits")))
    assert row["test_accuracy"] == pytest.approx(accuracy, abs=2 / 359)
    assert row["test_loss"] == pytest.approx(loss, rel=1e-3)


def test_what_is_done_is_not_run_again(confirmed):
    folder, rows = confirmed
    outlooks, new = [], []
    again = confirm(folder, 2, on_start=outlooks.append, on_row=new.append)
    (outlook,) = outlooks
    assert (len(outlook.runs), len(outlook.waiting), outlook.deciding_seeds) == (4, 2, 6)
    assert outlook.countdown.left_s == 0, "all that waited has ended"
    assert [row["seed"] for row in new] == [2, 2]
    assert outlook.countdown.epochs == {run.key: 4 for run in outlook.waiting}, "told as they come"
    assert again[:2] == rows
