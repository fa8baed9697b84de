"""Whole searches on a real Ray: job -> trials -> ledger -> Parquet -> comparison."""

import os
import signal

import pandas as pd
import pytest

from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.compare import comparison
from tune_jobs.search.run import run

pytestmark = pytest.mark.usefixtures("ray_with_four_gpus")

SMALL = [
    "data.max_images=200",
    "train.batch_size=32",
    "train.epochs=4",
    "train.warmup_epochs=0",
    "asha.grace_epochs=1",
    "asha.reduction_factor=2",
    "asha.protect_top=0",
    "resources.device=cpu",
]
# What differs between two runs of one search: clocks and processes.
TIMES = ["epoch_s", "train_s", "wall_s", "images_per_s", "peak_memory_bytes", "reported_at", "worker_pid"]


def small_job(*sets):
    return load_job("digits", [*SMALL, *sets])


def reports(folder):
    with Ledger.open(folder, read_only=True) as ledger:
        rows = ledger.reports()
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def everything(folder):
    """All that the ledger holds, clocks too."""
    with Ledger.open(folder, read_only=True) as ledger:
        return ledger.trials(), ledger.reports(), ledger.events(), ledger.jobs()


@pytest.fixture(scope="module")
def searched(tmp_path_factory, ray_with_four_gpus):
    """Two architectures of different families x three methods, one slot."""
    folder = tmp_path_factory.mktemp("searches") / "one"
    job = small_job("search.num_trials=2", "resources.max_concurrent=1")
    return job, folder, run(job, folder)


def test_every_trial_is_in_parquet_with_how_it_ended(searched):
    job, folder, result = searched
    trials = pd.read_parquet(folder / "parquet" / "trials.parquet")
    assert len(trials) == 12
    assert sorted(trials["study"].unique()) == sorted(study.name for study in job.studies())
    assert trials["status"].value_counts().to_dict() == result.counts
    assert set(result.counts) == {"completed", "pruned"}
    assert (trials.loc[trials["status"] == "completed", "epochs_trained"] == 4).all()
    assert (trials.loc[trials["status"] == "pruned", "epochs_trained"] < 4).all()
    assert trials["val_accuracy"].between(0, 1).all()
    steps = 160 // 32
    passes = trials["method"].map({"base": 1, "sam": 2, "zsharp": 2})
    assert (trials["gradient_evaluations"] == trials["epochs_trained"] * steps * passes).all()
    assert trials.loc[trials["method"] == "base", "param.rho"].isna().all()
    assert trials.loc[trials["method"] != "zsharp", "param.q_p"].isna().all()
    epochs = pd.read_parquet(folder / "parquet" / "epochs.parquet")
    assert len(epochs) == trials["epochs_trained"].sum()
    kept = epochs.merge(trials[["trial_id", "method", "param.q_p"]], on="trial_id").query(
        "method == 'zsharp'"
    )
    assert (kept["kept_fraction"] - (1 - kept["param.q_p"])).abs().max() < 0.02


def test_the_same_job_on_one_slot_is_the_same_search(searched, tmp_path):
    job, folder, _ = searched
    run(job, tmp_path / "two")
    assert reports(tmp_path / "two") == reports(folder)


def test_the_comparison_names_a_winner_per_architecture(searched):
    _, folder, _ = searched
    table = comparison([folder])
    assert len(table) == 6
    winners = table[table["rank"] == 1]
    assert sorted(winners["architecture"].unique()) == ["resnet8", "vit_tiny"]
    trials = pd.read_parquet(folder / "parquet" / "trials.parquet")
    best = trials[trials["status"] == "completed"].groupby("architecture")["val_accuracy"].max()
    assert winners.set_index("architecture")["best_val_accuracy"].to_dict() == best.to_dict()


def test_a_finished_search_is_left_as_it_is_and_another_job_is_refused(searched):
    job, folder, result = searched
    before = everything(folder)
    assert run(job, folder).counts == result.counts
    other = small_job("search.num_trials=2", "resources.max_concurrent=1", "train.seed=1")
    with pytest.raises(JobError, match="holds another job"):
        run(other, folder)
    assert everything(folder) == before


def test_trials_run_at_once_and_each_sees_its_own_gpu(tmp_path):
    job = small_job(
        "architectures=[resnet8]", "methods=[zsharp]", "search.num_trials=4", "train.epochs=20", "asha.enabled=false",
        "resources.gpus_per_trial=1", "resources.device=auto", "resources.max_concurrent=2",
    )  # fmt: skip
    at_once = []
    live = {}

    def watch(trial):
        live[trial.trial_id] = trial
        at_once.append(sum(t.status is None and t.epoch > 0 for t in live.values()))

    slots = []
    run(job, tmp_path / "gpus", on_change=watch, on_start=lambda *given: slots.append(given[0]))
    assert slots[0].num_slots == 2
    assert max(at_once) == 2
    trials = pd.read_parquet(tmp_path / "gpus" / "parquet" / "trials.parquet")
    assert trials["gpu_ids"].nunique() == 2
    for gpu, on_gpu in trials.groupby("gpu_ids"):
        ordered = on_gpu.sort_values("started_at")
        ends = ordered["finished_at"].iloc[:-1].to_numpy()
        assert (ordered["started_at"].iloc[1:].to_numpy() >= ends).all(), f"two trials at once on GPU {gpu}"


@pytest.mark.parametrize("retries", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_worker_costs_a_try_and_the_search_goes_on(tmp_path, retries):
    job = small_job("architectures=[resnet8]", "methods=[sam]", "search.num_trials=3", "train.epochs=15",
                    "asha.enabled=false", "resources.max_concurrent=2",
                    f"failures.max_retries={retries}")  # fmt: skip
    killed = []

    def kill_one(trial):
        if trial.epoch == 2 and not killed:
            killed.append(trial.trial_id)
            with Ledger.open(tmp_path / "killed", read_only=True) as ledger:
                os.kill(ledger.reports(trial.trial_id)[-1]["worker_pid"], signal.SIGKILL)

    result = run(job, tmp_path / "killed", on_change=kill_one)
    trials = pd.read_parquet(tmp_path / "killed" / "parquet" / "trials.parquet")
    assert len(trials) == 3
    assert list(trials.loc[trials["retries"] > 0, "trial_id"]) == (killed if retries else [])
    failed = trials[trials["status"] == "failed"]
    if retries:
        assert result.counts == {"completed": 3}
        return
    assert list(failed["trial_id"]) == killed
    assert failed["error"].str.len().min() > 0
    assert result.counts == {"completed": 2, "failed": 1}


def test_diverged_and_raising_trials_are_rows_with_a_reason(tmp_path):
    job = small_job(
        "architectures=[resnet8]", "methods=[base]", "search.num_trials=3", "train.base_optimizer=sgd",
        "resources.max_concurrent=1",
        "space={lr: {choice: [0.05, 1.0e+30]}}", "search.first_points=[{lr: 0.05}, {lr: 1.0e+30}]",
    )  # fmt: skip
    result = run(job, tmp_path / "diverged")
    trials = pd.read_parquet(tmp_path / "diverged" / "parquet" / "trials.parquet").set_index("param.lr")
    diverged = trials[trials["status"] == "diverged"]
    assert set(diverged.index) == {1e30}
    assert (diverged["epochs_trained"] == 1).all()
    assert diverged["val_loss"].isna().all()
    assert set(diverged["stop_reason"]) == {"a loss is not finite"}
    assert result.counts["completed"] >= 1


def test_data_that_do_not_fit_are_refused_before_anything_starts(tmp_path):
    cases = {
        "architectures=[vgg16_bn]": r"architectures\[0\]: 'vgg16_bn'",
        "train.batch_size=1000": "train.batch_size: 1000",
        "data.max_images=5000": "data.max_images: 5000",
        "resources={gpus_per_trial: 5}": "gpus_per_trial",
        "resources.cpus_per_trial=64": "cpus_per_trial",
    }
    for change, message in cases.items():
        with pytest.raises(JobError, match=message):
            run(small_job(change), tmp_path / "refused")
        assert not (tmp_path / "refused").exists(), change
