"""A search rebuilt from its ledger at any moment goes on as the uninterrupted one, to the same Optuna studies."""

import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import IN_MEMORY
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher
from simulated_search import Driver, Trials, small_job, timeless

from tune_jobs.confirmation.plan import plan_confirmations
from tune_jobs.job.spec import Sampler
from tune_jobs.search.optuna_journal import FILE_NAME, new_journal
from zsharp.training.spec import check_spec

SAMPLERS = Sampler.__args__
# Whole numbers, names, settings of `train` and conditions, on a choice and on another conditional parameter.
ALL_KINDS = (
    "space.train.batch_size={choice: [32, 64, 128]}",
    "space.momentum={uniform: [0.5, 0.99], when: {train.base_optimizer: sgd}}",
    "space.train.base_optimizer={choice: [sgd, adamw]}",
    "space.train.augment.cutout={int: [0, 4], when: {train.base_optimizer: [sgd], train.augment.flip: true}}",
    "space.train.augment.flip={choice: [true, false], when: {train.base_optimizer: sgd}}",
    "space.train.schedule=cosine",
)
GRID = "space={rho: {choice: [0.01, 0.05, 0.2]}, lr: {choice: [0.001, 0.01]}}"


@pytest.fixture(autouse=True, scope="module")
def silent():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        yield Path(name)


def job_of(sampler, *sets):
    if sampler == "grid":
        sets = ("methods=[sam]", GRID, "search.first_points=[]", *sets)
    else:
        sets = ("methods=[zsharp, base]", *sets)
    num_trials = 6 if sampler in ("gp", "grid") else 12  # a generation of CMA-ES is 7 points
    return small_job(
        f"search.num_trials={num_trials}", f"search.sampler={sampler}", "failures.max_retries=1", *sets
    )


def record(driver):
    return timeless(driver.ledger.trials()), timeless(driver.ledger.reports())


def shown(study):
    """What Optuna knows of a study, without clocks and what it keeps for itself."""
    return [
        (t.number, t.state, t.params, t.values, t.intermediate_values, t.distributions) for t in study.trials
    ]


def optuna_studies(driver):
    return {name: shown(search.optuna_study) for name, search in driver.search._searches.items()}


@pytest.mark.parametrize(
    ("sampler", "sets"), [*((sampler, ()) for sampler in SAMPLERS), ("tpe", ALL_KINDS), ("gp", ALL_KINDS)]
)
def test_killed_every_few_steps_it_is_the_same_search(folder, sampler, sets):
    """One slot, with failing and diverging trials: every trial, report and decision, and what Optuna was told."""
    job, trials = job_of(sampler, *sets), Trials(seed=3, diverging=0.02, failing=0.04)
    whole = Driver(job, folder / "whole", trials).run()
    assert {trial["status"] for trial in whole.ledger.trials()} > {"completed"}
    sessions = 0
    while True:
        driver = Driver(job, folder / "killed", trials, seed=sessions)
        if not driver.run(7 + sessions % 5)._slots and driver.finished:
            break
        driver.close()
        sessions += 1
    assert sessions > 5
    assert record(driver) == record(whole)
    assert optuna_studies(driver) == optuna_studies(whole)
    for one in (driver, whole):
        one.close()


def test_a_trial_has_the_parameters_whose_conditions_hold(folder):
    """In the order of the space, conditions first; a worker and a confirmation make the same trial of the record."""
    driver = Driver(job_of("random", "search.num_trials=40", "methods=[base]", *ALL_KINDS), folder).run()
    job, (study,) = driver.recorder.job, driver.recorder.job.studies()
    rows = driver.ledger.trials()
    confirmations = plan_confirmations(job, driver.ledger, "here", 1, 3, "epochs")
    driver.close()
    by_id = {row["trial_id"]: row for row in rows}
    seen = Counter()
    for row, config in zip(rows, driver.suggested, strict=True):
        params = row["params"]
        has_sgd = params["train.base_optimizer"] == "sgd"
        assert params["train.batch_size"] in (32, 64, 128)
        assert type(params["train.batch_size"]) is int
        assert ("momentum" in params) == ("train.augment.flip" in params) == has_sgd
        assert ("train.augment.cutout" in params) == (params.get("train.augment.flip") is True)
        assert params["train.schedule"] == "cosine"
        seen[has_sgd, params.get("train.augment.cutout")] += 1
        spec = job.trial_spec(study, config["params"], config["number"])
        assert spec == job.trial_spec(study, params, row["number"])
        assert spec.params == {name: params[name] for name in ("lr", "momentum") if name in params}
        assert spec.train.base_optimizer == params["train.base_optimizer"]
        assert spec.train.augment.cutout == params.get("train.augment.cutout", 0)
        check_spec(spec)
    assert len(seen) > 4
    assert len(confirmations) == 3
    for confirmation in confirmations:
        params, fresh = by_id[confirmation.winner.trial_id]["params"], confirmation.spec
        original = job.trial_spec(study, params)
        assert fresh.model == original.model
        assert replace(fresh.train, seed=0) == replace(original.train, seed=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_many_slots_the_next_suggestion_is_the_same(folder, sampler):
    """Before each suggestion: a copy of the record, rebuilt, hands out the unfinished trials and suggests the same."""
    driver = Driver(job_of(sampler), folder / "whole", Trials(1, 0.02, 0.04), num_slots=3, seed=2)
    compared = 0
    while not driver.finished:
        begun = len(driver.recorder.trials)
        copied = folder / "copy"
        shutil.copytree(folder / "whole", copied)
        driver.step()
        if len(driver.recorder.trials) > begun:
            compared += 1
            again = Driver(driver.recorder.job, copied, num_slots=3)
            unfinished = [
                again.search.suggest(f"old-{n}")["trial_id"] for n in range(len(again.recorder.waiting))
            ]
            assert set(unfinished) == {c["trial_id"] for _, c, _ in driver._slots.values()} - {
                driver.suggested[-1]["trial_id"]
            }
            assert again.search.suggest("new") == driver.suggested[-1]
            again.close()
        shutil.rmtree(copied)
    assert compared == driver.recorder.job.num_trials
    driver.run().close()


SEARCHES = {
    "seed": st.integers(0, 2**31),
    "num_slots": st.integers(1, 4),
    "retries": st.integers(0, 2),
    "moments": st.lists(st.integers(0, 60), max_size=4),
}


@given(**SEARCHES)
def test_any_killed_search_ends_whole(seed, num_slots, retries, moments):
    """Unfinished trials first, each id once, first points once, retries counted, and nothing left open in Optuna."""
    sets = ("search.sampler=random", f"failures.max_retries={retries}", "methods=[sam, base]")
    points = "search.first_points=[{rho: 0.05, lr: 0.001}, {lr: 0.002}]"
    job = small_job("search.num_trials=5", *sets, points)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        for session, moment in enumerate([*moments, None]):
            driver = Driver(
                job, Path(name), Trials(seed, 0.02, 0.08), num_slots=num_slots, seed=seed + session
            )
            unfinished = [t.trial_id for t in driver.recorder.trials.values() if t.status is None]
            driver.run(moment)
            handed_out = [config["trial_id"] for config in driver.suggested]
            assert handed_out[: len(unfinished)] == unfinished[: len(handed_out)] or retries
            if moment is not None:
                driver.close()
        trials, events = driver.ledger.trials(), driver.ledger.events()
        assert sorted(trial["trial_id"] for trial in trials) == [
            f"resnet8-{method}-{number:04d}" for method in ("base", "sam") for number in range(5)
        ]
        retried = Counter(event["trial_id"] for event in events if event["kind"] == "retry")
        assert retried == {trial["trial_id"]: trial["retries"] for trial in trials if trial["retries"]}
        assert all(trial["retries"] <= retries for trial in trials)
        assert all(trial["retries"] == retries for trial in trials if trial["status"] == "failed")
        assert driver.recorder.is_over
        assert not driver.recorder.waiting
        params = {(trial["study"], trial["number"]): trial["params"] for trial in trials}
        assert params["resnet8-sam", 0] == {"rho": 0.05, "lr": 0.001}
        assert params["resnet8-base", 0] == {"lr": 0.001}
        for study, lr, number in (("resnet8-sam", 0.002, 1), ("resnet8-base", 0.001, 0)):
            assert [n for (name, n), point in params.items() if (name, point["lr"]) == (study, lr)] == [
                number
            ]
        for study, search in driver.search._searches.items():
            told = [trial.state for trial in search.optuna_study.trials]
            expected = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
            of_study = [trial for trial in trials if trial["study"] == study]
            assert told == [expected.get(trial["status"], TrialState.FAIL) for trial in of_study]
        driver.close()


def test_a_retried_trial_keeps_its_id_its_place_and_its_optuna_trial(tmp_path):
    job = small_job("methods=[sam]", "search.num_trials=2", "failures.max_retries=1", "asha.enabled=false")
    driver = Driver(job, tmp_path)
    recorder, search = driver.recorder, driver.search
    first = search.suggest("a")
    second = search.suggest("b")
    recorder.report("a", row := {"epoch": 1, "val_accuracy": 0.5, "diverged": 0})
    search.on_report("a", row)
    recorder.fail("a", "ValueError: once")
    search.on_trial_complete("a", error=True)
    again = search.suggest("c")
    assert again == first | {"epoch": 1}
    assert len(search._searches["resnet8-sam"].optuna_study.trials) == 2
    assert recorder.report("c", row) is None, "it was recorded before"
    recorder.report("c", row := {"epoch": 2, "val_accuracy": 0.6, "diverged": 0})
    search.on_report("c", row)
    assert search.suggest("d") is None, "the other one may fail"
    recorder.fail("c", "ValueError: twice")
    search.on_trial_complete("c", error=True)
    recorder.fail("b", "torch.OutOfMemoryError: CUDA out of memory")
    search.on_trial_complete("b", error=True)
    assert search.suggest("d") == Searcher.FINISHED
    failed, too_large = driver.ledger.trials()
    assert (failed["trial_id"], failed["retries"]) == (first["trial_id"], 1)
    assert failed["stop_reason"] == "failed 2 times"
    assert (too_large["trial_id"], too_large["retries"]) == (second["trial_id"], 0)
    assert too_large["stop_reason"] == "out of GPU memory"
    told = search._searches["resnet8-sam"].optuna_study.trials
    assert [trial.state for trial in told] == [TrialState.FAIL] * 2
    assert told[0].intermediate_values == {1: 0.5, 2: 0.6}
    driver.close()


def test_a_full_disk_stops_the_search_and_fails_no_trial(tmp_path):
    driver = Driver(small_job("methods=[sam]"), tmp_path)
    driver.search.suggest("a")
    driver.recorder.fail("a", "Traceback\nOSError: [Errno 28] No space left on device: 'x'")
    assert driver.recorder.wind_down.kind == "error"
    assert driver.recorder.wind_down.reason.startswith("the disk is full: OSError: [Errno 28]")
    driver.search.on_trial_complete("a", error=True)
    driver.recorder.interrupt()
    (trial,) = driver.ledger.trials()
    assert (trial["status"], trial["retries"]) == ("interrupted", 0)
    driver.close()


@pytest.mark.parametrize("moment", [0, 5, None])
@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_optuna_opens_the_journal_and_finds_what_the_search_told_it(tmp_path, sampler, moment):
    """Also of a search that was taken up again, and while it runs."""
    job, trials = job_of(sampler), Trials(seed=5, diverging=0.02, failing=0.04)
    Driver(job, tmp_path, trials, num_slots=2).run(25).close()
    with new_journal(tmp_path) as journal:
        driver = Driver(job, tmp_path, trials, num_slots=2, storage=journal).run(moment)
        storage = JournalStorage(JournalFileBackend(str(tmp_path / FILE_NAME)))
        names = [f"digits/{study.name}" for study in job.studies()]
        assert sorted(summary.study_name for summary in storage.get_all_studies()) == sorted(names)
        read = {name: optuna.load_study(study_name=name, storage=storage) for name in names}
        told = optuna_studies(driver)
        assert {name.removeprefix("digits/"): shown(study) for name, study in read.items()} == told
        assert sum(len(study) for study in told.values()) >= 2
        states = {trial.state for study in read.values() for trial in study.trials}
        is_open = any(trial.status is None for trial in driver.recorder.trials.values())
        assert (TrialState.RUNNING in states) == is_open
        assert is_open == (moment is not None)
        assert all(study.direction == optuna.study.StudyDirection.MAXIMIZE for study in read.values())
        driver.close()


def test_the_journal_is_made_anew(tmp_path):
    job = job_of("random")
    for _ in range(2):
        with new_journal(tmp_path) as journal:
            driver = Driver(job, tmp_path, storage=journal)
            driver.run()
            driver.close()
        sizes = (tmp_path / FILE_NAME).read_text().count('"op_code":0')
        assert sizes == len(job.studies())
