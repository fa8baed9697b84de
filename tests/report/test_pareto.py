"""Which trials no other one beats, and what they can be set against."""

import pandas as pd
import pytest
from generated_search import write_search

from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.report.data import load
from tune_jobs.report.pareto import costs, front_of, has_tradeoff, pareto_picture, with_cost

LOSS = Metric("val_loss", "min")


@pytest.mark.parametrize(
    ("metric", "rows", "front"),
    [
        (VAL_ACCURACY, [(1, 0.5), (2, 0.7), (3, 0.6), (4, 0.8)], [0, 1, 3]),
        (LOSS, [(1, 0.5), (2, 0.7), (3, 0.4)], [0, 2]),
        (VAL_ACCURACY, [(1, 0.5), (1, 0.5), (1, 0.4), (2, 0.5)], [0, 1]),  # equals do not beat each other
        (VAL_ACCURACY, [(3, 0.9), (1, 0.9)], [1]),
        (VAL_ACCURACY, [], []),
    ],
)
def test_the_front(metric, rows, front):
    trials = pd.DataFrame(rows, columns=["cost", "value"], dtype="float64")
    assert list(front_of(trials, "cost", metric).index) == front


def test_sharpness_is_a_cost_of_confirmed_trials(tmp_path):
    report = load([write_search(tmp_path, seeds=3, places=2)])
    column = "sharpness.hessian_trace"
    assert costs(report)[column] == "sharpness: hessian_trace"
    assert has_tradeoff(report, "resnet8", column)
    trials = with_cost(report, "resnet8", column)
    confirmed = report.confirmations[report.confirmations["architecture"] == "resnet8"]
    assert set(trials["trial_id"]) == set(confirmed["trial_id"])
    first = trials.iloc[0]
    own = confirmed.loc[confirmed["trial_id"] == first["trial_id"], column]
    assert first[column] == pytest.approx(own.mean())
    assert "hessian_trace" in pareto_picture(report, "resnet8", column).caption


def test_without_confirmations_there_is_none(tmp_path):
    report = load([write_search(tmp_path)])
    assert not [cost for cost in costs(report) if cost.startswith("sharpness")]
    assert not has_tradeoff(load([write_search(tmp_path / "b", metric=LOSS)]), "resnet8", "val_loss")
