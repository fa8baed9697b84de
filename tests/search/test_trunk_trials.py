"""Trunks in a search: when they are handed out, what waits for them, and what they count."""

import random
from collections import Counter

import pandas as pd
import pytest
from simulated_search import Driver, Trials, small_job, timeless

from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.results.compare import compare
from tune_jobs.results.live import LiveResults
from tune_jobs.results.read import read_results
from tune_jobs.results.write import export
from tune_jobs.search.extend import extended
from tune_jobs.serve.summary import summarize
from tune_jobs.stopping.asha import Rule
from tune_jobs.stopping.replay import replay

TRUNK = "init.trunk={fraction: 0.6, params: {lr: 0.001}}"  # 5 of 9 epochs
SEEDS = ("search.seeds=2", "search.sampler=random", "search.first_points=[]", "search.num_trials=4")


class OneFails(Trials):
    """The first trunk fails before its third epoch, at every try."""

    def fails(self, trial_id, epoch, retries):
        return trial_id == "resnet8-trunk-0000" and epoch == 3


@pytest.mark.parametrize("num_slots", [1, 2, 5])
def test_no_trial_starts_before_its_trunk_is_complete(tmp_path, num_slots):
    job = small_job(TRUNK, *SEEDS, "architectures=[resnet8, vit_tiny]")
    driver = Driver(job, tmp_path, num_slots=num_slots).run()
    forks = driver.ledger.forks()
    last = {report["trial_id"]: report["seq"] for report in driver.ledger.reports()}
    first = {report["trial_id"]: report for report in reversed(driver.ledger.reports())}
    trials = {trial["trial_id"]: trial for trial in driver.ledger.trials()}
    trunks = {name: trial for name, trial in trials.items() if trial["method"] == "trunk"}
    assert Counter((trunk["study"], trunk["seed"]) for trunk in trunks.values()) == dict.fromkeys(
        [("resnet8-trunk", 0), ("resnet8-trunk", 1), ("vit_tiny-trunk", 0), ("vit_tiny-trunk", 1)], 1
    )
    assert set(forks) == set(trials) - set(trunks)
    assert len(forks) == job.num_trials == 24
    for name, fork in forks.items():
        trunk = trials[fork.trunk]
        assert (trunk["architecture"], trunk["seed"]) == (trials[name]["architecture"], trials[name]["seed"])
        assert last[fork.trunk] < first[name]["seq"]
        assert first[name]["epoch"] == fork.epoch + 1 == 6
        assert trunk["max_epochs"] == 5
        assert driver.ledger.reports_after(name, 0) == driver.ledger.reports(name)
    driver.close()


def test_each_trunk_counts_once(tmp_path):
    job = small_job(TRUNK, *SEEDS, "methods=[sam, base]", "asha.enabled=false")
    driver = Driver(job, tmp_path, num_slots=2).run()
    spent = driver.recorder.meter.spent
    # 2 trunks of 5 epochs and 8 trials of the other 4, 10 gradient evaluations each
    assert (spent.epochs, spent.gradient_evaluations) == (42, 420)
    driver.close()
    again = Driver(job, tmp_path)
    assert (again.recorder.meter.spent.epochs, again.recorder.meter.spent.gradient_evaluations) == (42, 420)
    assert again.recorder.is_over
    again.close()
    export(tmp_path)
    results = read_results(tmp_path)
    assert results.trunks["gradient_evaluations"].tolist() == [50, 50]
    assert set(results.trials["gradient_evaluations"]) == {40}
    assert set(results.trials["fork_epoch"]) == {5}
    live = LiveResults(tmp_path)
    live.update()
    pd.testing.assert_frame_equal(live.results().trials, results.trials)
    assert live.results().trunks["trial_id"].tolist() == results.trunks["trial_id"].tolist()
    summary = summarize(live, None)
    assert (summary.num_trials, summary.epochs, summary.gradient_evaluations) == (10, 42, 420)
    assert {best.study for best in summary.best} == {"resnet8-sam", "resnet8-base"}
    # a study's budget has both of its trunks, once each
    table = compare([tmp_path])
    assert table["gradient_evaluations"].tolist() == [4 * 40 + 2 * 50] * 2
    assert table["epochs"].tolist() == [26, 26]
    assert set(table["method"]) == {"sam", "base"}


def test_no_trial_is_judged_before_the_fork(tmp_path):
    job = small_job(TRUNK, "asha.grace_epochs=2", "asha.protect_top=0", "search.num_trials=8")
    assert Rule.of_job(job.model_dump()).milestones == (6,)
    driver = Driver(job, tmp_path, num_slots=2).run()
    trials, reports = driver.ledger.trials(), driver.ledger.reports()
    assert {report["rung"] for report in reports} == {None, 6}
    assert {trial["status"] for trial in trials} == {"completed", "pruned"}
    assert replay([(0, Rule.of_job(driver.ledger.job))], trials, reports) == []
    driver.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_search_killed_anywhere_ends_as_the_uninterrupted_one(tmp_path, seed):
    job = small_job(TRUNK, *SEEDS)
    whole = Driver(job, tmp_path / "whole", num_slots=1).run()
    expected = timeless(whole.ledger.trials()), timeless(whole.ledger.reports())
    whole.close()
    rng = random.Random(seed)
    for _ in range(4):
        Driver(job, tmp_path / "killed", num_slots=1).run(rng.randrange(25)).close()
    killed = Driver(job, tmp_path / "killed", num_slots=1).run()
    assert (timeless(killed.ledger.trials()), timeless(killed.ledger.reports())) == expected
    killed.close()


def test_the_trials_of_a_trunk_that_failed_say_so(tmp_path):
    job = small_job(TRUNK, *SEEDS)
    driver = Driver(job, tmp_path, OneFails(), num_slots=2).run()
    assert driver.recorder.is_over
    trials = {trial["trial_id"]: trial for trial in driver.ledger.trials()}
    assert trials["resnet8-trunk-0000"]["retries"] == 2
    for trial in trials.values():
        assert trial["status"] == ("failed" if trial["seed"] == 0 else "completed")
        if trial["seed"] == 0 and trial["method"] != "trunk":
            assert "resnet8-trunk-0000" in trial["error"]
    driver.close()


def test_a_search_with_trunks_takes_more_trials_but_not_more_epochs(tmp_path):
    driver = Driver(small_job(TRUNK, "train.schedule=constant", "search.num_trials=2"), tmp_path).run()
    with pytest.raises(JobError) as raised:
        extended(driver.ledger, ["train.epochs=12"])
    assert [problem.path for problem in raised.value.problems] == ["train.epochs"]
    _, job = extended(driver.ledger, ["search.num_trials=3"])
    driver.close()
    more = Driver(job, tmp_path).run()
    trials = Counter(trial["method"] for trial in more.ledger.trials())
    assert trials == {"trunk": 1, "zsharp": 3, "sam": 3, "base": 3}
    more.close()


@pytest.mark.parametrize(
    ("sets", "path"),
    [
        ([TRUNK, "space.train.batch_size={choice: [16, 32]}"], "space.train.batch_size"),
        ([TRUNK, "train.epochs=1"], "init.trunk"),
        (["init.trunk={fraction: 0.8}"], "init.trunk.params.lr"),
        (["init.trunk={fraction: 0.8, params: {lr: -1}}"], "init.trunk.params.lr"),
        (["init.trunk={fraction: 0.8, params: {lr: 0.1, momentum: 0.5}}"], "init.trunk.params.momentum"),
        (["init.trunk={fraction: 0.8, params: {rho: 0.1}}"], "init.trunk.params.rho"),
        (["init.trunk={fraction: 1.0, params: {lr: 0.1}}"], "init.trunk.fraction"),
        (["init.trunk={epochs: 8}"], "init.trunk.epochs"),
    ],
)
def test_what_a_trunk_cannot_be(sets, path):
    with pytest.raises(JobError) as raised:
        load_job("digits", sets)
    assert path in [problem.path for problem in raised.value.problems]


def test_what_a_trunk_trains():
    sets = ["init.trunk.fraction=0.8", "init.trunk.params.weight_decay=0.1", "methods=[sam]", "space.lr=0.02"]
    job = load_job("digits", [*sets, "search.first_points=[]"])
    (trunk, _), study = job.trunks(), job.studies()[0]
    spec = job.trial_spec(trunk, {}, 1)
    assert (spec.method, spec.params, spec.train.seed, spec.train.epochs) == (
        "base", {"lr": 0.02, "weight_decay": 0.1}, 1, 20,
    )  # fmt: skip
    assert job.fork_epoch == 16
    assert job.grace_epochs == 17
    assert job.trunk_of(study, 3) == (trunk, 0)
    assert not load_job("digits").trunks()
