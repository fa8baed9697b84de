"""Finalists in a search: which they are, when they are trained, on what, and which of them wins."""

import random
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from ledgers import IN_MEMORY
from simulated_search import Driver, Trials, chance, small_job, timeless

from tune_jobs.confirmation.plan import plan_confirmations, winners
from tune_jobs.job.finalists import finalist_of
from tune_jobs.ledger.writer import Ledger
from tune_jobs.report.cost import cost_section
from tune_jobs.report.data import load
from tune_jobs.report.finalists import finalists_parts
from tune_jobs.results.compare import compare, render_table
from tune_jobs.results.live import LiveResults
from tune_jobs.results.read import read_results
from tune_jobs.results.stopping_account import receipts, summarise
from tune_jobs.results.tables import Table
from tune_jobs.results.write import export
from tune_jobs.search.checkpoints import Checkpoints
from tune_jobs.search.extend import extended, reopen_for_more_epochs
from tune_jobs.search.folder import SearchFolder
from tune_jobs.serve.summary import summarize

FINALISTS = ("search.finalists=2", "search.finalist_seeds=3", "search.num_trials=6", "asha.protect_top=3")
TRUNK = "init.trunk={fraction: 0.6, params: {lr: 0.001}}"


@pytest.fixture
def tmp_path():
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        yield Path(name)


class Lucky(Trials):
    """What finalists reach says nothing of what their trials of the search did."""

    def value(self, trial_id, params, epoch):
        if "-finalists-" in trial_id:
            return round(0.3 + 0.2 * chance(sorted(params.items())) + 0.01 * chance(trial_id), 4)
        return super().value(trial_id, params, epoch)


def finalists_in(driver):
    """Trials of finalists by the trial whose configuration they have."""
    rows = [row for row in driver.ledger.trials() if finalist_of(row["study"], row["number"])]
    return rows, Counter(finalist_of(row["study"], row["number"]) for row in rows)


def best_of(driver, study, num):
    last = {report["trial_id"]: report for report in driver.ledger.reports()}
    full = [row for row in driver.ledger.trials() if row["study"] == study and row["status"] == "completed"]
    full.sort(key=lambda row: (-last[row["trial_id"]]["val_accuracy"], row["trial_id"]))
    return [row["trial_id"] for row in full[:num]]


@pytest.mark.parametrize("num_slots", [1, 3])
@pytest.mark.parametrize("sets", [(), (TRUNK,), ("search.sampler=random",)])
def test_the_best_of_each_study_are_trained_with_the_same_seeds_and_splits(tmp_path, num_slots, sets):
    job = small_job(*FINALISTS, *sets, "methods=[sam, base]")
    driver = Driver(job, tmp_path, Lucky(), num_slots=num_slots).run()
    assert driver.recorder.is_over
    rows, again = finalists_in(driver)
    best = [name for study in job.studies() for name in best_of(driver, study.name, 2)]
    assert again == dict.fromkeys(best, 3)
    studies = {study.name: study for study in job.all_studies()}
    trials = {row["trial_id"]: row for row in driver.ledger.trials()}
    drawn = set()
    for row in rows:
        spec = job.trial_spec(studies[row["study"]], row["params"], row["number"])
        first = trials[finalist_of(row["study"], row["number"])]
        assert (row["params"], row["method"]) == (first["params"], first["method"])
        assert row["status"] == "completed", "none is stopped"
        assert row["seed"] == spec.train.seed
        drawn.add((spec.train.seed, spec.data.split_seed))
    assert drawn == {(1001, 1), (1002, 2), (1003, 3)}
    assert not {seed for seed, _ in drawn} & {
        row["seed"] for row in trials.values() if row not in rows and row["method"] != "trunk"
    }
    if TRUNK in sets:
        for name, fork in driver.ledger.forks().items():
            trunk, trial = trials[fork.trunk], trials[name]
            of_both = [
                job.trial_spec(studies[row["study"]], row["params"], row["number"]) for row in (trunk, trial)
            ]
            assert of_both[0].data == of_both[1].data, "or it would have trained on what is held out"
            assert trunk["seed"] == trial["seed"]
    driver.close()


def test_while_the_last_trials_train_those_finalists_start_that_are_certain(tmp_path):
    job = small_job(*FINALISTS, "search.finalists=3", "methods=[sam]", "asha.enabled=false")
    driver = Driver(job, tmp_path, Lucky(), num_slots=3)
    early = set()
    while not driver.finished:
        driver.step()
        trials = driver.recorder.trials.values()
        if any(trial.is_searched and trial.is_unfinished for trial in trials):
            early |= {trial.finalist_of for trial in trials if trial.finalist_of}
    best = best_of(driver, "resnet8-sam", 3)
    assert early and early < set(best), "some of them, and no other"
    assert finalists_in(driver.run())[1] == dict.fromkeys(best, 3)
    driver.close()


@pytest.mark.parametrize("sets", [(), (TRUNK,)])
@pytest.mark.parametrize("seed", range(2))
def test_a_search_killed_anywhere_has_the_same_finalists(tmp_path, seed, sets):
    job, trials = small_job(*FINALISTS, *sets, "methods=[sam]"), Lucky(diverging=0.01, failing=0.02)
    whole = Driver(job, tmp_path / "whole", trials).run()
    expected = timeless(whole.ledger.trials()), timeless(whole.ledger.reports())
    whole.close()
    rng = random.Random(seed)
    for _ in range(6):
        Driver(job, tmp_path / "killed", trials).run(rng.randrange(30)).close()
    killed = Driver(job, tmp_path / "killed", trials).run()
    assert (timeless(killed.ledger.trials()), timeless(killed.ledger.reports())) == expected
    killed.close()


def test_an_extended_search_has_the_finalists_of_a_longer_one(tmp_path):
    sets = ("search.sampler=random", "methods=[sam]", "search.finalists=2", "asha.enabled=false")
    none = Driver(small_job(*sets, "search.num_trials=3", "search.finalists=0"), tmp_path / "a").run()
    assert none.recorder.is_over and not finalists_in(none)[0]
    _, job = extended(none.ledger, ["search.finalists=2", "search.finalist_seeds=3"])
    assert job == small_job(*sets, "search.num_trials=3")
    none.close()
    few = Driver(small_job(*sets, "search.num_trials=3"), tmp_path / "a").run()
    assert finalists_in(few)[1] == dict.fromkeys(best_of(few, "resnet8-sam", 2), 3)
    few.close()
    more = Driver(small_job(*sets, "search.num_trials=12"), tmp_path / "a").run()
    best = set(best_of(more, "resnet8-sam", 2))
    rows, again = finalists_in(more)
    assert best <= set(again) and set(again.values()) == {3}
    assert len(rows) == 3 * len(again) > 6
    more.close()


def test_with_more_epochs_finalists_train_on_too(tmp_path):
    sets = (
        "methods=[sam]",
        "search.num_trials=3",
        "search.finalists=2",
        "train.schedule=constant",
        "asha.enabled=false",
    )
    Driver(small_job(*sets), tmp_path).run().close()
    job, checkpoints = small_job(*sets, "train.epochs=12"), Checkpoints(SearchFolder(tmp_path))
    checkpoints.folder.mkdir()
    for number in range(3):
        checkpoints.file(f"resnet8-sam-000{number}").touch()
    with Ledger.open(tmp_path) as ledger:
        reopen_for_more_epochs(job, ledger, checkpoints)
    driver = Driver(job, tmp_path).run()
    rows, again = finalists_in(driver)
    best = best_of(driver, "resnet8-sam", 2)
    assert {again[name] for name in best} == {3}
    epochs = Counter(report["trial_id"] for report in driver.ledger.reports())
    assert {(row["status"], epochs[row["trial_id"]]) for row in rows} == {("completed", 12)}
    assert winners(job, driver.ledger.trials(), driver.ledger.reports(), 1)[0].trial_id in best
    driver.close()


def test_the_mean_decides_everywhere(tmp_path):
    job = small_job(*FINALISTS, "search.finalists=3", "methods=[sam, base]", "asha.enabled=false")
    driver = Driver(job, tmp_path, Lucky(), num_slots=2).run()
    last = {report["trial_id"]: report for report in driver.ledger.reports()}
    rows, _ = finalists_in(driver)
    means = {}
    for row in rows:
        means.setdefault(finalist_of(row["study"], row["number"]), []).append(
            last[row["trial_id"]]["val_accuracy"]
        )
    means = {name: sum(values) / 3 for name, values in means.items()}
    best = {
        study.name: max((name for name in means if name.startswith(study.name)), key=means.get)
        for study in job.studies()
    }
    lucky = {study.name: best_of(driver, study.name, 1)[0] for study in job.studies()}
    assert best != lucky, "or nothing is shown"
    confirmed = winners(job, driver.ledger.trials(), driver.ledger.reports(), 9)
    assert {winner.study.name: winner.trial_id for winner in confirmed if winner.rank == 1} == best
    assert len(confirmed) == 12, "those that are no finalists follow"
    fresh = {run.seed for run in plan_confirmations(job, driver.ledger, "DIR", 1000, 1, "epochs")}
    assert not fresh & {trial["seed"] for trial in driver.ledger.trials()}
    driver.close()
    export(tmp_path)
    results, table = read_results(tmp_path), compare([tmp_path])
    assert len(results.trials) == 12 and len(results.finalists) == 18
    assert dict(zip(table["job"] + table["method"], table["best_trial_id"], strict=True)) == {
        f"digits{study.removeprefix('resnet8-')}": name for study, name in best.items()
    }
    assert table["finalist_mean"].tolist() == pytest.approx(
        sorted((means[name] for name in best.values()), reverse=True)
    )
    assert table["rank"].tolist() == [1, 2] and table["finalist_seeds"].tolist() == [3, 3]
    # 6 trials and 9 of finalists, 9 epochs each
    assert table["epochs"].tolist() == [135, 135]
    assert table["gradient_evaluations"].tolist() == [1350, 1350]
    by_study = {receipt.study: receipt for receipt in receipts(results)}
    for study, receipt in by_study.items():
        assert (receipt.winner, receipt.curse.winner, receipt.curse.lucky) == (
            best[study],
            best[study],
            lucky[study],
        )
        value = last[lucky[study]]["val_accuracy"]
        assert receipt.curse.excess == pytest.approx(value - means[lucky[study]])
        assert receipt.used_epochs == 54
    assert sum("curse" in line for line in summarise([results])) == 2
    assert results.best_first(results.trials)["trial_id"].iloc[0] == max(best.values(), key=means.get)
    live = LiveResults(tmp_path)
    live.update()
    pd.testing.assert_frame_equal(live.results().trials, results.trials)
    summary = summarize(live, None)
    assert {one.study: one.trial_id for one in summary.best} == best
    assert (summary.state, summary.num_trials, summary.num_ended) == ("finished", 30, 30)
    report = load([tmp_path])
    parts = [*finalists_parts(report), *cost_section(report).parts]
    tables = {part.name: part for part in parts if isinstance(part, Table)}
    assert [row["trial_id"] for row in tables["finalists"].rows if row["is_best"]] == list(best.values())
    assert {"sam, finalists", "base, finalists"} <= {row["label"] for row in tables["cost"].rows}


def test_a_finalist_of_which_a_seed_is_lost_cannot_win(tmp_path):
    class OneFails(Lucky):
        def fails(self, trial_id, epoch, retries):
            return trial_id in failing

    job = small_job(*FINALISTS, "methods=[sam]", "asha.enabled=false")
    failing = ()
    with_all = Driver(job, tmp_path / "all", OneFails()).run()
    first = winners(job, with_all.ledger.trials(), with_all.ledger.reports(), 1)[0].trial_id
    with_all.close()
    failing = (f"resnet8-sam-finalists-{int(first[-4:]) * 100 + 2:04d}",)
    driver = Driver(job, tmp_path / "one", OneFails()).run()
    assert driver.recorder.is_over
    assert Counter(row["status"] for row in finalists_in(driver)[0]) == {"completed": 5, "failed": 1}
    other = winners(job, driver.ledger.trials(), driver.ledger.reports(), 1)[0].trial_id
    assert other != first and other in best_of(driver, "resnet8-sam", 2)
    driver.close()


def test_without_all_of_its_finalists_a_search_goes_by_single_trials(tmp_path):
    job = small_job(*FINALISTS, "methods=[sam]", "asha.enabled=false")
    driver = Driver(job, tmp_path, Lucky()).run(75)
    assert 0 < len(finalists_in(driver)[0]) < 6
    best = winners(job, driver.ledger.trials(), driver.ledger.reports(), 1)[0].trial_id
    assert best == best_of(driver, "resnet8-sam", 1)[0]
    driver.close()
    export(tmp_path)
    table = compare([tmp_path])
    assert table["best_trial_id"].tolist() == [best] and table["finalist_mean"].isna().all()
    assert receipts(read_results(tmp_path))[0].curse is None
    assert render_table(table)
