"""What is suggested and what Optuna is told, with a real ledger and real Optuna studies."""

import math

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher
from simulated_search import Driver, Trials, small_job

from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.recorder import Recorder, dataset_name
from tune_jobs.search.samplers import num_startup_trials, suggestion_seed
from tune_jobs.search.searcher import JobSearch, first_points
from tune_jobs.stopping.asha import Rule
from tune_jobs.stopping.replay import replay
from zsharp.training.spec import DataSpec


def make_search(folder, *sets):
    job = load_job("digits", ["architectures=[resnet8]", "train.epochs=4", "asha.grace_epochs=1", *sets])
    ledger = Ledger.create(folder, job.model_dump(mode="json"), {})
    recorder = Recorder(job, ledger, SearchFolder(folder))
    return JobSearch(job, recorder), recorder


def quality(params):
    """A smooth objective with its best point inside the space."""
    off = (math.log10(params["lr"]) + 2.5) ** 2
    off += (math.log10(params.get("rho", 0.1)) + 1) ** 2 + (params.get("q_p", 0.8) - 0.8) ** 2
    return 0.9 * math.exp(-off)


def run_serially(search, recorder, ray_ids="t{}"):
    """What Ray would do with one slot: suggest, report epoch by epoch as decided, complete."""
    suggested = []
    while (config := search.suggest(ray_ids.format(len(suggested)))) != Searcher.FINISHED:
        ray_id = ray_ids.format(len(suggested))
        suggested.append(config)
        for epoch in range(1, 5):
            value = quality(config["params"]) * (1 - 0.5**epoch)
            row = {"epoch": epoch, "val_accuracy": value, "diverged": 0}
            decision = recorder.report(ray_id, row)
            search.on_report(ray_id, row)
            if decision.action != "continue":
                break
        search.on_trial_complete(ray_id, row)
    return suggested


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_the_same_job_is_searched_the_same_way_whatever_rays_ids(sampler, tmp_path):
    sets = ("search.num_trials=6", f"search.sampler={sampler}")
    one = run_serially(*make_search(tmp_path / "one", *sets))
    two = run_serially(*make_search(tmp_path / "two", *sets), ray_ids="other-{}")
    assert one == two
    assert len(one) == 18
    num_different = len({str(config["params"]) for config in one})
    assert num_different >= (12 if sampler == "gp" else 18)  # it may repeat a corner of the space
    other_seed = run_serially(*make_search(tmp_path / "three", *sets, "search.seed=1"))
    assert [c["params"] for c in other_seed[3:]] != [c["params"] for c in one[3:]]


def test_suggestions_cover_the_space_and_stay_inside(tmp_path):
    search, recorder = make_search(
        tmp_path, "search.num_trials=60", "search.sampler=random", "methods=[zsharp]"
    )
    params = [config["params"] for config in run_serially(search, recorder)[1:]]
    for name, low, high, log in (
        ("q_p", 0.5, 0.99, False),
        ("rho", 0.01, 0.5, True),
        ("lr", 3e-4, 3e-2, True),
    ):
        values = [point[name] for point in params]
        assert all(low <= value <= high for value in values)
        scale = math.log if log else float
        below = sum(scale(v) < (scale(low) + scale(high)) / 2 for v in values)
        assert 18 <= below <= 41, f"{name}: {below} of {len(values)} in the lower half"


def test_studies_take_turns_and_each_starts_with_the_jobs_first_point(tmp_path):
    suggested = run_serially(*make_search(tmp_path, "search.num_trials=3"))
    assert [config["study"] for config in suggested] == ["resnet8-zsharp", "resnet8-sam", "resnet8-base"] * 3
    assert [config["trial_id"][-5:] for config in suggested[:4]] == ["-0000", "-0000", "-0000", "-0001"]
    first = {"q_p": 0.95, "rho": 0.05, "lr": 0.001}
    for config, names in zip(suggested, (("q_p", "rho", "lr"), ("rho", "lr"), ("lr",)), strict=False):
        assert config["params"] == {name: first[name] for name in names}


def test_first_points_that_differ_only_in_what_a_method_lacks_are_tried_once():
    points = "[{q_p: 0.9, rho: 0.05, lr: 0.001}, {q_p: 0.8, rho: 0.05, lr: 0.001}, {q_p: 0.7}]"
    job = load_job("digits", [f"search.first_points={points}"])
    counts = {study.method: len(first_points(job, study)) for study in job.studies()}
    assert counts == {"zsharp": 3, "sam": 1, "base": 1}


def test_a_model_based_sampler_finds_better_points_than_random_ones(tmp_path):
    best = {}
    for sampler in ("tpe", "random"):
        sets = ("search.num_trials=30", f"search.sampler={sampler}", "methods=[zsharp]", "asha.enabled=false")
        suggested = run_serially(*make_search(tmp_path / sampler, *sets))
        best[sampler] = sorted(quality(config["params"]) for config in suggested)[-10:]
    assert sum(best["tpe"]) > sum(best["random"])


def test_optuna_is_told_how_trials_really_ended(tmp_path):
    sets = ("methods=[base]", "asha.protect_top=0", "failures.max_retries=0")
    search, recorder = make_search(tmp_path, "search.num_trials=8", *sets)
    endings = ["complete", "prune", "diverge", "crash", "crash before a report"]
    for i, ending in enumerate(endings):
        ray_id = f"t{i}"
        search.suggest(ray_id)
        values = {"complete": [0.5, 0.6, 0.7, 0.8], "prune": [0.1], "diverge": [0.6, None], "crash": [0.9]}
        for epoch, value in enumerate(values.get(ending, []), 1):
            row = {"epoch": epoch, "val_accuracy": value, "diverged": int(value is None)}
            recorder.report(ray_id, row)
            search.on_report(ray_id, row)
        if ending.startswith("crash"):
            recorder.fail(ray_id, "Traceback\nValueError: broken")
        search.on_trial_complete(ray_id, error=ending.startswith("crash"))
    study = search._searches["resnet8-base"].optuna_study
    states = [trial.state for trial in study.trials]
    fail, pruned, complete = TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE
    assert states == [complete, pruned, fail, fail, fail]
    assert study.best_trial.value == 0.8
    assert study.trials[0].intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8}
    assert study.trials[1].intermediate_values == {1: 0.1}
    statuses = [trial["status"] for trial in recorder.ledger.trials()]
    assert statuses == ["completed", "pruned", "diverged", "failed", "failed"]
    assert recorder.ledger.trials()[3]["error"].endswith("ValueError: broken")


def test_each_suggestion_has_a_seed_of_its_own():
    seeds = {suggestion_seed(s, study, n) for s in (0, 1) for study in ("a", "b") for n in range(100)}
    assert len(seeds) == 400
    assert suggestion_seed(0, "resnet8-zsharp", 3) == 67063412  # pinned: a change would alter every search


def test_small_searches_leave_the_sampler_room_to_learn():
    assert [num_startup_trials(n) for n in (1, 3, 8, 12, 30, 1000)] == [1, 1, 2, 4, 10, 10]


def test_a_job_that_fixes_everything_is_run_once_a_study(tmp_path):
    search, recorder = make_search(
        tmp_path, "space={lr: 0.01, rho: 0.1}", "search.num_trials=1", "search.first_points=[]"
    )
    suggested = run_serially(search, recorder)
    with_rho = {"rho": 0.1, "lr": 0.01}
    assert [config["params"] for config in suggested] == [with_rho, with_rho, {"lr": 0.01}]
    for study in search._searches.values():
        assert [trial.state for trial in study.optuna_study.trials] == [TrialState.COMPLETE]


def test_results_name_a_folder_of_images_by_its_own_name():
    assert dataset_name(DataSpec("parquet", "/data/cifar10_jpeg")) == "cifar10_jpeg"
    assert dataset_name(DataSpec("cifar10", "/data/cifar10_jpeg")) == "cifar10"


def test_a_stop_waits_for_epochs_that_run_and_not_for_workers_that_start(tmp_path):
    from types import SimpleNamespace

    from tune_jobs.search.scheduler import JobASHA
    from tune_jobs.search.tuner import EndOfRun

    search, recorder = make_search(tmp_path, "search.num_trials=4", "methods=[base]")
    scheduler, stopper = JobASHA(recorder, search), EndOfRun(recorder)
    for ray_id in ("trains", "starts"):
        search.suggest(ray_id)
    row = {"epoch": 1, "val_accuracy": 0.5, "diverged": 0}
    assert scheduler.on_trial_result(None, SimpleNamespace(trial_id="trains"), row) == "CONTINUE"
    assert not stopper.stop_all()
    recorder.wind_down.begin("interrupted by SIGTERM", "signal")
    assert not stopper.stop_all()  # an epoch runs
    assert scheduler.on_trial_result(None, SimpleNamespace(trial_id="trains"), row | {"epoch": 2}) == "STOP"
    scheduler.on_trial_complete(None, SimpleNamespace(trial_id="trains"), row)
    assert stopper.stop_all()  # what is left has none to end


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_metric_of_which_less_is_better_is_searched_as_its_mirror_image(tmp_path, sampler):
    """The same trials, once reporting a score and once its negative, some diverging or failing: all else is equal."""
    sets = ("search.num_trials=14", f"search.sampler={sampler}", "methods=[sam, base]", "asha.protect_top=0")
    played = []
    for mode, sign in (("max", 1), ("min", -1)):
        theirs = {"task": "my_task:Task", "architectures": (), "metric": "score", "mode": mode}
        job = small_job(*sets, "failures.max_retries=0").model_copy(update=theirs)
        trials = Trials(3, diverging=0.03, failing=0.04, sign=sign)
        Driver(job, tmp_path / mode, trials, num_slots=2, seed=1).run(60).close()  # as if killed
        driver = Driver(job, tmp_path / mode, trials, num_slots=2, seed=2).run()
        trials, reports = driver.ledger.trials(), driver.ledger.reports()
        driver.close()
        assert replay([(0, Rule.of_job(job.model_dump()))], trials, reports) == []
        ranked = sorted(driver.recorder.trials.values(), key=lambda trial: trial.merit)
        played.append((
            [(trial["trial_id"], trial["params"], trial["status"], trial["dataset"]) for trial in trials],
            [tuple(report[name] for name in ("trial_id", "epoch", "decision", "rung")) for report in reports],
            [trial.trial_id for trial in ranked],
            [None if report["cutoff"] is None else round(sign * report["cutoff"], 9) for report in reports],
        ))  # fmt: skip
    assert played[0] == played[1]
    assert {status for _, _, status, _ in played[0][0]} == {"completed", "pruned", "diverged", "failed"}
    assert {dataset for *_, dataset in played[0][0]} == {"my_task:Task"}
