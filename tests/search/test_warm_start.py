"""A search that begins with the best configurations of earlier ones, with real ledgers, Parquet files and Optuna."""

import logging
import shutil

import pytest
from simulated_search import Driver, Trials, small_job

from tune_jobs.errors import JobError
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import by_merit, read_results
from tune_jobs.results.write import export
from tune_jobs.search.warm_start import warm_points

KINDS = (
    "space.train.batch_size={choice: [32, 64]}",
    "space.train.augment.flip={choice: [true, false]}",
    "space.train.augment.cutout={int: [4, 9]}",
    "space.momentum=0.9",
    "train.base_optimizer=sgd",
    "search.first_points=[]",
)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """Two architectures with two methods, searched to the end."""
    folder = tmp_path_factory.mktemp("earlier") / "search"
    sets = ("architectures=[resnet8, vit_tiny]", "methods=[sam, base]", "search.num_trials=12", *KINDS)
    Driver(small_job(*sets), folder, Trials(seed=1)).run().close()
    export(folder)
    return folder


def job_after(folders, *sets):
    return small_job(
        "methods=[sam]", "search.num_trials=9", f"search.warm_start={list(map(str, folders))}", *sets
    )


def test_the_best_of_the_same_architecture_come_first(earlier, caplog):
    sets = ("space.train.batch_size={choice: [64, 128, 32]}", "space.rho={uniform: [0.0001, 1]}")
    points = warm_points(job_after([earlier], *sets, "search.num_trials=18"))["resnet8-sam"]
    results = read_results(earlier)
    is_of_method = (results.trials["status"] == "completed") & (results.trials["method"] == "sam")
    ranked = by_merit(results.trials[is_of_method], results.metric)
    own, others = (ranked[(ranked["architecture"] == "resnet8") == is_own] for is_own in (True, False))
    expected = [*own["trial_id"], *others["trial_id"]][:6]
    assert [point["origin"] for point in points] == [f"warm_start: {earlier} {trial}" for trial in expected]
    best = own.iloc[0]
    assert points[0]["params"] == {
        "rho": best["param.rho"], "lr": best["param.lr"], "train.batch_size": int(best["param.train.batch_size"])
    }  # fmt: skip
    assert type(points[0]["params"]["train.batch_size"]) is int
    names = ("momentum", "train.augment.cutout", "train.augment.flip")
    assert sorted(record.args[1] for record in caplog.records) == sorted(names), "each once"


def test_what_is_out_of_range_is_left_out_and_named(earlier, caplog):
    sets = [
        "space.lr={uniform: [5, 6]}",
        "space.train.augment.cutout={int: [4, 20]}",
        "search.first_points=[]",
    ]
    sets += ["space.train.augment.flip={choice: [true, false]}"]
    with caplog.at_level(logging.WARNING):
        points = warm_points(job_after([earlier], *sets))["resnet8-sam"]
    assert len(points) == 3
    for point in points:
        assert set(point["params"]) == {"rho", "train.augment.cutout", "train.augment.flip"}
        assert type(point["params"]["train.augment.cutout"]) is int
        assert type(point["params"]["train.augment.flip"]) is bool
    assert any(record.args[1] == "lr" and "between 5 and 6" in record.args[2] for record in caplog.records)


def test_points_are_kept_with_the_search_and_results_say_where_they_are_from(earlier, tmp_path):
    shutil.copytree(earlier, tmp_path / "copy")
    job = job_after([tmp_path / "copy"], "search.first_points=[{rho: 0.06, lr: 0.002}]")
    warm = warm_points(job)
    Ledger.create(tmp_path / "new", job.model_dump(mode="json"), {"warm_start": warm}).close()
    Ledger.create(tmp_path / "killed", job.model_dump(mode="json"), {"warm_start": warm}).close()
    shutil.rmtree(tmp_path / "copy")
    whole = Driver(job, tmp_path / "new").run()
    for session in range(40):
        driver = Driver(job, tmp_path / "killed", seed=session).run(5)
        is_over = driver.finished and not driver._slots
        driver.close()
        if is_over:
            break
    rows = whole.ledger.trials()
    whole.close()
    for folder in ("new", "killed"):
        export(tmp_path / folder)
        trials = read_results(tmp_path / folder).trials
        origins = [point["origin"] for point in warm["resnet8-sam"]]
        assert len(origins) == 3
        assert trials["origin"].tolist() == [*origins, "first_point", *["sampler"] * 5]
        assert trials["param.lr"].tolist() == [row["params"]["lr"] for row in rows]
    for row, point in zip(rows, warm["resnet8-sam"], strict=False):
        assert row["params"] == point["params"]


@pytest.mark.parametrize(
    ("sets", "where"),
    [
        (["search.seeds=3", "search.sampler=random"], "search.warm_start"),
        (["search.shared_configurations=true", "search.sampler=random"], "search.warm_start"),
        (["search.warm_start=['s3://bucket/search']"], "search.warm_start[0]"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, sets, where):
    with pytest.raises(JobError) as refused:
        job_after([tmp_path], "search.first_points=[]", *sets)
    assert where in {problem.path for problem in refused.value.problems}


def test_folders_without_results_are_all_named(tmp_path):
    with pytest.raises(JobError) as refused:
        warm_points(job_after([tmp_path / "a", tmp_path / "b"]))
    assert [problem.path for problem in refused.value.problems] == [
        "search.warm_start[0]",
        "search.warm_start[1]",
    ]
