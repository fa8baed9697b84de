"""The table of other rules: a row for each combination, values in full as JSON, and what was lost in words."""

import json
from pathlib import Path

import pytest
from command_line import call
from simulated_search import Driver, Trials, small_job

from tune_jobs.results.read import read_results
from tune_jobs.results.rules_replayed import replay_table, rule_of, rules_like
from tune_jobs.results.write import export

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "cifar10_small"


def test_a_row_for_each_combination_after_the_recorded_one():
    arguments = ("--grace", "1,2", "--reduction-factor", "2,3", "--format", "json")
    code, out, _ = call("replay", str(COMMITTED), *arguments)
    assert code == 0
    recorded, *rows = json.loads(out)
    assert [(row["grace_epochs"], row["reduction_factor"]) for row in rows] == [
        (1, 2),
        (1, 3),
        (2, 2),
        (2, 3),
    ]
    results = read_results(COMMITTED)
    assert recorded["epochs"] == results.trials["epochs_trained"].sum()
    for row in rows:
        assert row["epochs"] <= row["epochs_at_most"]
        assert (row["unknown"] == 0) == (row["epochs"] == row["epochs_at_most"])
        assert 0 <= row["winners_lost"] <= row["winners"]


def test_i_epoch_has_no_factor():
    arguments = ("--rule", "asha, i_epoch", "--grace", "1,2", "--reduction-factor", "2,3", "--format", "json")
    _, out, _ = call("replay", str(COMMITTED), *arguments)
    rows = [(row["rule"], row["reduction_factor"]) for row in json.loads(out)[1:]]
    assert rows == [*[("asha", 2), ("asha", 3)] * 2, *[("i_epoch", None)] * 2]


@pytest.mark.parametrize("failing_trunk", [False, True])
def test_of_forks_the_epochs_after_the_fork_count(tmp_path, failing_trunk):
    class FailingTrunk(Trials):
        def fails(self, trial_id, epoch, retries):
            return failing_trunk and trial_id == "resnet8-trunk-0001"

    sets = ("search={num_trials: 12, seeds: 2, sampler: random}", "asha.immortal_fraction=1.0")
    job = small_job("init.trunk={fraction: 0.6, params: {lr: 0.001}}", *sets)  # 5 of 9 epochs
    Driver(job, tmp_path, FailingTrunk()).run().close()
    export(tmp_path)
    code, out, _ = call("replay", str(tmp_path), "--rule", "i_epoch", "--grace", "6,8", "--format", "json")
    assert code == 0
    recorded, *rows = json.loads(out)
    num_trained = 3 * (6 if failing_trunk else 12)
    assert recorded["epochs"] == 4 * num_trained
    for row, grace in zip(rows, (6, 8), strict=True):
        # All reach the rung; those that are stopped there save the rest.
        saved = recorded["epochs"] - row["epochs"]
        assert saved > 0
        assert saved % (9 - grace) == 0
        assert saved / (9 - grace) < num_trained
        assert row["unknown"] == 0
    code, _, err = call("replay", str(tmp_path), "--grace", "5")
    assert code == 2
    assert "--grace: 5 is not valid" in err


@pytest.mark.parametrize("protect_top", [0, 3])
def test_of_one_rule_the_lost_winners_are_named(protect_top):
    results = read_results(COMMITTED)
    rules = rules_like(rule_of(results), grace=[1], reduction_factor=[50], protect_top=protect_top)
    table = replay_table(results, rules)
    lost = [name for name in table.rows[1]["lost"].split(", ") if name]
    assert len(lost) == table.rows[1]["winners_lost"]
    assert all(sum(note.startswith(name) for note in table.notes) == 1 for name in lost)
    assert bool(lost) == (protect_top == 0)
