"""A real search confirmed on fresh seeds: the test set is read once a run, what is done stays done."""

import pandas as pd
import pytest

from tune_jobs.confirmation.run import confirm
from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.run import run
from zsharp.data.training_data import load_test_data
from zsharp.training import Training

pytestmark = pytest.mark.usefixtures("ray_with_four_gpus")

SETS = [
    "architectures=[resnet8]", "methods=[zsharp, base]", "data.max_images=200", "train.batch_size=32",
    "train.epochs=2", "train.warmup_epochs=0", "search.num_trials=1", "resources={device: cpu, max_concurrent: 1}",
]  # fmt: skip


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory, ray_with_four_gpus):
    folder = tmp_path_factory.mktemp("confirmed") / "search"
    run(load_job("digits", SETS), folder)
    return folder, confirm(folder, 2, sharpness_images=32)


def test_every_winner_and_seed_is_a_row_with_its_measures(confirmed):
    folder, rows = confirmed
    table = pd.read_parquet(folder / "parquet" / "confirmations.parquet")
    assert len(rows) == len(table) == 4
    assert sorted(zip(table["method"], table["seed"], strict=True)) == [
        ("base", 1), ("base", 2), ("zsharp", 1), ("zsharp", 2),
    ]  # fmt: skip
    assert set(table["status"]) == {"completed"}
    assert table["test_accuracy"].between(0, 1).all()
    assert table["sharpness.worst_1step"].notna().all()
    # all 200 images are trained on, 6 steps an epoch, where the search had 160
    assert table.set_index("method")["gradient_evaluations"].to_dict() == {"base": 12, "zsharp": 24}


def test_a_confirmation_is_the_run_that_it_says(confirmed):
    folder, rows = confirmed
    row = next(row for row in rows if row["method"] == "zsharp" and row["seed"] == 2)
    with Ledger.open(folder, read_only=True) as ledger:
        (trial,) = [trial for trial in ledger.trials() if trial["trial_id"] == row["trial_id"]]
    from dataclasses import replace

    job = load_job("digits", SETS)
    study = next(study for study in job.studies() if study.method == "zsharp")
    spec = job.trial_spec(study, trial["params"])
    spec = replace(spec, train=replace(spec.train, seed=2), data=replace(spec.data, val_fraction=0.0))
    training = Training(spec)
    while not training.is_finished:
        training.run_epoch()
    loss, accuracy = training.evaluate(*load_test_data("digits"))
    assert row["test_accuracy"] == pytest.approx(accuracy, abs=2 / 359)
    assert row["test_loss"] == pytest.approx(loss, rel=1e-3)


def test_what_is_done_is_not_run_again(confirmed):
    folder, rows = confirmed
    counts, new = [], []
    again = confirm(
        folder, 3, sharpness_images=0, on_start=lambda *found: counts.append(found), on_row=new.append
    )
    assert counts == [(6, 4)]
    assert [row["seed"] for row in new] == [3, 3]
    assert again[:4] == rows
