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


def small_job(*sets):
    return load_job("digits", [*SMALL, *sets])


def test_every_trial_is_in_parquet_and_the_comparison_names_the_best(searched):
    trials = pd.read_parquet(searched.folder / "parquet" / "trials.parquet")
    assert trials["trial_id"].nunique() == len(trials) == 4
    assert set(trials["status"]) == {"completed", "pruned"}
    assert (trials.loc[trials["status"] == "completed", "epochs_trained"] == 4).all()
    assert (trials.loc[trials["status"] == "pruned", "epochs_trained"] < 4).all()
    assert trials["val_accuracy"].between(0, 1).all()
    passes = trials["method"].map({"base": 1, "zsharp": 2})
    assert (trials["gradient_evaluations"] == trials["epochs_trained"] * (160 // 32) * passes).all()
    assert trials.loc[trials["method"] == "base", ["param.rho", "param.q_p"]].isna().all(axis=None)
    epochs = pd.read_parquet(searched.folder / "parquet" / "epochs.parquet")
    assert len(epochs) == trials["epochs_trained"].sum()
    kept = epochs.merge(trials[["trial_id", "param.q_p"]], on="trial_id").dropna(subset="param.q_p")
    assert (kept["kept_fraction"] - (1 - kept["param.q_p"])).abs().max() < 0.02
    table = comparison([searched.folder]).set_index("rank")
    assert table.loc[1, "val_accuracy"] == trials.query("status == 'completed'")["val_accuracy"].max()


@pytest.mark.slow  # how soon its second worker comes depends on the machine
def test_one_search_with_gpus_dying_workers_and_divergence(tmp_path):
    rates = ["1.0e+30", "0.05", "0.04", "0.03"]
    job = small_job(
        "architectures=[resnet8]", "methods=[base]", "search.num_trials=4", "train.base_optimizer=sgd",
        "train.epochs=6", "asha.enabled=false", "failures.max_retries=1",
        "resources={gpus_per_trial: 1, device: auto, max_concurrent: 2}",
        f"space={{lr: {{choice: [{', '.join(rates)}]}}}}",
        f"search.first_points=[{', '.join(f'{{lr: {rate}}}' for rate in rates)}]",
    )  # fmt: skip
    diverges, dies_twice = "resnet8-base-0000", "resnet8-base-0001"
    live, at_once, slots, killed = {}, [], [], set()

    def watch(trial):
        live[trial.trial_id] = trial
        at_once.append(sum(t.status is None and t.epoch > 0 for t in live.values()))
        if trial.trial_id == dies_twice and trial.epoch >= 2:
            with Ledger.open(tmp_path / "search", read_only=True) as ledger:
                pid = ledger.reports(trial.trial_id)[-1]["worker_pid"]
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)

    result = run(job, tmp_path / "search", on_change=watch, on_start=lambda *given: slots.append(given[0]))
    assert max(at_once) <= slots[0].num_slots == 2
    assert result.counts == {"completed": 2, "failed": 1, "diverged": 1}
    trials = pd.read_parquet(tmp_path / "search" / "parquet" / "trials.parquet").set_index("trial_id")
    assert trials["retries"].to_dict() == dict.fromkeys(trials.index, 0) | {dies_twice: 1}
    assert len(killed) == 2
    assert trials.loc[dies_twice, "status"] == "failed"
    assert trials.loc[dies_twice, "error"]
    columns = ["param.lr", "epochs_trained", "stop_reason"]
    assert trials.loc[diverges, columns].tolist() == [1e30, 1, "a loss is not finite"]
    assert pd.isna(trials.loc[diverges, "val_loss"])
    assert set(trials["gpu_ids"]) <= {"0", "1", "2", "3"}
    epochs = pd.read_parquet(tmp_path / "search" / "parquet" / "epochs.parquet")
    spans = epochs.groupby("trial_id")["reported_at"].agg(["min", "max"]).drop(dies_twice).sort_values("min")
    for gpu, on_gpu in spans.groupby(trials["gpu_ids"]):
        assert (on_gpu["min"].iloc[1:].to_numpy() > on_gpu["max"].iloc[:-1].to_numpy()).all(), gpu


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
