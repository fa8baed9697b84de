"""A control preset really run, on the digits: a grid with several seeds a point, to Parquet and statistics."""

import pytest

from tune_jobs.job.load import load_job
from tune_jobs.results.read import read_results
from tune_jobs.results.statistics import compare_methods
from tune_jobs.search.run import run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_with_four_gpus")]


def test_the_ablation_on_digits(tmp_path):
    sets = [
        "data={name: digits, max_images: 200}", "architectures=[resnet8]", "train.epochs=1", "train.warmup_epochs=0",
        "train.batch_size=30", "space.q_p={choice: [0, 0.95]}", "search.seeds=2", "search.num_trials=4",
        "resources={device: cpu, max_concurrent: 1}",
    ]  # fmt: skip
    run(load_job("qp_ablation", sets), tmp_path / "search")
    results = read_results(tmp_path / "search")
    trials = results.trials.sort_values("number")
    assert trials["param.q_p"].tolist() == [0, 0.95] * 2
    assert trials["seed"].tolist() == [0, 0, 1, 1]
    assert set(trials["status"]) == {"completed"}
    assert set(trials["epochs_trained"]) == {1}
    assert trials["train_loss"].nunique() == 4
    epochs = results.epochs.merge(trials[["trial_id", "param.q_p"]], on="trial_id")
    assert (epochs["kept_fraction"] - (1 - epochs["param.q_p"])).abs().max() < 0.02
    assert (epochs["perturbation_norm"] - 0.05).abs().max() < 1e-4
    by_value = {
        str(q_p): dict(zip(runs["seed"], runs["val_accuracy"], strict=True))
        for q_p, runs in trials.groupby("param.q_p")
    }
    pairs = compare_methods(by_value)
    assert [(pair.a, pair.b, pair.n) for pair in pairs] == [("0.0", "0.95", 2)]
    assert {pair.verdict for pair in pairs} == {"not enough seeds to tell"}
