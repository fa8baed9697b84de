"""Incumbents: which they are, that they are trained once and never compared, and how overtuning is told."""

import pytest
from test_confirm import search

from tune_jobs.confirmation.plan import done_already, incumbents, plan_confirmations, result_row, to_train
from tune_jobs.report.data import load
from tune_jobs.report.overtuning import overtuning_sections
from tune_jobs.results.compare import compare
from tune_jobs.results.overtuning import describe, overtuning
from tune_jobs.results.read import read_results
from tune_jobs.results.write import export

# The first, third and fourth were the best so far; the second was pruned.
TRIALS = [(0.5, 0.001), (None, 0.002), (0.6, 0.003), (0.7, 0.004), (0.65, 0.005)]
TEST = {"0000": 0.50, "0002": 0.58, "0003": 0.55}


def ids(job, ledger):
    return [
        (one.study.method, one.rank, one.trial_id[-4:])
        for one in incumbents(job, ledger.trials(), ledger.reports())
    ]


def confirmed(folder, *sets, seeds=3):
    """A search whose incumbents have the test accuracies of TEST, a little more with each seed."""
    job, ledger = search(folder, TRIALS, *sets)
    runs = plan_confirmations(job, ledger, "DIR", seeds, 1, "epochs", with_incumbents=True)
    trained = to_train(runs, ledger.confirmations())
    for run in trained:
        accuracy = TEST[run.winner.trial_id[-4:]] + 0.01 * run.seed
        ledger.confirm(run.key, result_row(run, job, {"status": "completed", "test_accuracy": accuracy}))
    for run, row in list(done_already(runs, ledger.confirmations())):
        ledger.confirm(run.key, row)
    return job, ledger, runs, trained


def test_incumbents_are_the_best_so_far_in_the_order_of_completion(tmp_path):
    job, ledger = search(tmp_path, TRIALS)
    assert ids(job, ledger) == [
        (method, rank, name) for method in ("sam", "base") for rank, name in enumerate(TEST, 1)
    ]


def test_of_configurations_with_several_seeds_the_means_count(tmp_path):
    trials = [(0.9, 0.001), (0.7, 0.002), (0.1, 0.001), (0.6, 0.002)]
    sets = ("search.seeds=2", "search.num_trials=4", "search.sampler=random", "methods=[base]")
    assert ids(*search(tmp_path, trials, *sets)) == [("base", 1, "0000"), ("base", 2, "0001")]


def test_what_is_an_incumbent_and_the_winner_is_trained_once(tmp_path):
    job, ledger, runs, trained = confirmed(tmp_path)
    assert len(trained) == 2 * 3 * 3, "two methods, three seeds, three trials each"
    assert len(runs) == 2 * 3 * 4 == len({run.key for run in runs})
    recorded = ledger.confirmations()
    assert not to_train(runs, recorded)
    for run in runs:
        row = recorded[run.key]
        assert (row["role"], row["place"]) == (run.role, 1 if run.role == "winner" else None)
    assert {run.spec.data.val_fraction for run in runs} == {0.0}
    # those without incumbents are the same runs as ever
    ever = plan_confirmations(job, ledger, "DIR", 3, 1, "epochs")
    assert {run.key for run in ever} < set(recorded)


def test_incumbents_never_enter_the_comparison_and_overtuning_is_told(tmp_path):
    confirmed(tmp_path)
    export(tmp_path)
    results = read_results(tmp_path)
    assert set(results.confirmations["trial_id"].str[-4:]) == {"0003"}
    assert set(results.incumbents["trial_id"].str[-4:]) == set(TEST)
    assert compare([tmp_path])["num_seeds"].tolist() == [3, 3]
    for study in overtuning(results):
        assert [one.trial_id[-4:] for one in study.incumbents] == list(TEST)
        assert (study.winner.trial_id[-4:], study.best_earlier.trial_id[-4:]) == ("0003", "0002")
        assert study.difference.mean == pytest.approx(0.55 - 0.58)
        assert study.winner.search_value == 0.7
    assert [("overtuned by 0.0300" in line, "0002" in line) for line in describe([results])] == [
        (True, True)
    ] * 2
    (section,) = overtuning_sections(load([tmp_path]))
    (table,) = section.tables
    assert [row["incumbent"] for row in table.rows] == [1, 2, 3] * 2
    assert [row["is_best"] for row in table.rows] == [False, False, True] * 2
    assert [list(trace.y) for trace in section.pictures[0].figure.data] == [
        pytest.approx([value + 0.02 for value in TEST.values()])
    ] * 2


def test_without_incumbents_there_is_no_section(tmp_path):
    search(tmp_path, TRIALS)
    export(tmp_path)
    assert not list(overtuning_sections(load([tmp_path])))
    assert not describe([read_results(tmp_path)])
