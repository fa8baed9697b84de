"""A search with finalists, for real: killed and resumed, its winner by the mean, and its incumbents confirmed."""

import json

import pandas as pd
import pytest
from command_line_searches import call, kill_after, reports

from tune_jobs.results.read import read_results

pytestmark = pytest.mark.slow

SETS = (
    "data={name: digits, max_images: 200, val_fraction: 0.2}", "architectures=[resnet8]", "methods=[base]",
    "train={epochs: 4, batch_size: 32, warmup_epochs: 1}", "init.trunk={fraction: 0.5, params: {lr: 0.01}}",
    "search={num_trials: 3, finalists: 2, finalist_seeds: 2}", "asha.enabled=false",
    "resources={device: cpu, max_concurrent: 1}",
)  # fmt: skip
RUN = ("run", "digits", *(word for change in SETS for word in ("--set", change)), "--out")


def test_a_search_that_was_killed_has_the_same_finalists_and_its_incumbents_are_confirmed(tmp_path):
    code, printed = call(tmp_path, *RUN, "whole")
    assert code == 0, printed
    assert "Winner's curse" in printed
    for least in (9, 13):  # in the trunks of finalists, and in their trials
        kill_after(least, tmp_path / "killed", tmp_path, *RUN, "killed")
    code, printed = call(tmp_path, "resume", "killed")
    assert code == 0, printed
    assert reports(tmp_path / "killed") == reports(tmp_path / "whole")
    results = read_results(tmp_path / "killed")
    assert len(results.trials) == 3 and len(results.trunks) == 3
    assert results.finalists.groupby("finalist_of")["seed"].agg(list).tolist() == [[1001, 1002]] * 2
    assert set(results.finalists["status"]) == {"completed"}
    kept = {file.stem for file in (tmp_path / "killed" / "checkpoints").iterdir()}
    assert set(results.trials["trial_id"]) <= kept and not kept & set(results.finalists["trial_id"])
    code, printed = call(tmp_path, "confirm", "killed", "--seeds", "2", "--incumbents")
    assert code == 0, printed
    assert "Overtuning, resnet8-base" in printed
    rows = pd.read_parquet(tmp_path / "killed" / "parquet" / "confirmations.parquet")
    assert set(rows["status"]) == {"completed"} and set(rows["role"]) == {"winner", "incumbent"}
    code, printed = call(tmp_path, "compare", "killed", "--format", "json")
    (row,) = json.loads(printed)
    winners = rows[rows["role"] == "winner"]
    assert set(winners["trial_id"]) == {row["best_trial_id"]} and row["num_seeds"] == len(winners) == 2
    both = rows[rows["trial_id"] == row["best_trial_id"]].groupby("seed")["test_accuracy"]
    assert (both.size() == 2).all() and (both.nunique() == 1).all(), "the same run, for both"
