"""How long a job takes: real steps, what is kept of them, and the arithmetic from steps to minutes."""

import json
import time

import pytest

from tune_jobs.cluster.slots import Slots, makespan
from tune_jobs.job.load import load_job
from tune_jobs.search import time_trials
from tune_jobs.search.time_plan import plan_time, time_lines
from tune_jobs.search.timing import Timed, Timing, time_job
from tune_jobs.stopping.simulate import Band

SMALL = ["architectures=[resnet8]", "methods=[zsharp, base]", "data.max_images=200", "train.batch_size=32"]
SLOTS = Slots(2, 1, 0, ["2 trials at once"])
LOOP = """
import time

def quick(trial):
    for epoch in range(trial.epochs):
        time.sleep(0.01 if epoch else 0.5)
        trial.report(epoch=epoch + 1, val_loss=1.0)

def broken(trial):
    raise ValueError("no data at /x\\nmore")

def endless(trial):
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as what times sets it


def loop_job(folder, name):
    (folder / "loops.py").write_text(LOOP)
    job = {
        "name": "loop", "train": {"loop": f"loops:{name}", "epochs": 3}, "methods": ["sam", "base"],
        "metric": "val_loss", "mode": "min", "code": [str(folder)], "search": {"num_trials": 2},
        "space": {"lr": {"loguniform": [1e-4, 1e-1]}},
    }  # fmt: skip
    return load_job(job)


def measured(folder, job):
    request = {"job": job.model_dump(mode="json"), "studies": [study.name for study in job.studies()]}
    request |= {"started_at": time.monotonic(), "limit_s": 0.1, "threads": 1, "gpu": False}
    (folder / "request").write_text(json.dumps(request))
    time_trials.main(folder / "request", folder / "answers")
    return [json.loads(line) for line in (folder / "answers").read_text().splitlines()]


def test_steps_of_each_study_are_timed(tmp_path):
    start, *answers = measured(tmp_path, load_job("digits", SMALL))
    assert start["study"] == "" and start["startup_s"] > 0
    last = {answer["study"]: answer for answer in answers}
    zsharp, base = (last[f"resnet8-{method}"] for method in ("zsharp", "base"))
    assert "validates" not in zsharp and "validates" not in base
    assert base["epoch_s"] > 0 and zsharp["epoch_s"] > 0
    assert all(0 < answer["worked_share"] <= 1 for answer in last.values())


def test_a_loop_is_timed_by_its_second_epoch_and_an_error_is_told(tmp_path):
    answers = measured(tmp_path, loop_job(tmp_path, "quick"))
    assert [answer["study"] for answer in answers] == ["loops.quick-sam", "loops.quick-base"]
    assert all(0.01 <= answer["epoch_s"] < 0.5 for answer in answers)
    assert measured(tmp_path, loop_job(tmp_path, "broken"))[0]["error"] == "ValueError: no data at /x"


@pytest.mark.slow
def test_times_are_kept_for_what_they_are_of(monkeypatch):
    monkeypatch.setattr("tune_jobs.search.timing._LIMIT_S", 120.0)  # the machine may be busy
    first = time_job(load_job("digits", SMALL), SLOTS, (), ("data",))
    assert first.problem is None and first.took_s > 0 and first.startup_s > 0
    again = time_job(
        load_job("digits", [*SMALL, "train.epochs=7", "search.num_trials=3"]), SLOTS, (), ("data",)
    )
    assert (again.studies, again.took_s) == (first.studies, 0), "neither changes what a step takes"
    other = time_job(load_job("digits", [*SMALL, "train.batch_size=16"]), SLOTS, (), ("data",))
    assert other.took_s > 0
    assert time_job(load_job("digits", SMALL), SLOTS, (), ("other data",)).took_s > 0


@pytest.mark.slow
def test_a_loop_that_does_not_report_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("tune_jobs.search.timing._LIMIT_S", 6.0)
    monkeypatch.setattr("tune_jobs.search.timing._LIMIT_PER_STUDY_S", 1.0)
    job = loop_job(tmp_path, "endless")
    timing = time_job(job, SLOTS, (), ())
    assert not timing.studies and timing.took_s < 60
    (line,) = time_lines(job, plan_time(job, timing, SLOTS, Band(6, 9, 12)), "DIR")
    assert "loops:endless" in line and "6 s" in line


def test_a_band_by_hand():
    job = load_job("digits", [*SMALL, "train.epochs=10", "search.num_trials=4", "data.val_fraction=0.2"])
    studies = {"resnet8-zsharp": Timed(1.0, 1.95), "resnet8-base": Timed(1.0, 0.95, worked_share=0.5)}
    timing = Timing(studies, 7.0, took_s=0.0)
    plan = plan_time(job, timing, SLOTS, Band(40, 60, 80))
    # Trials of 1 + 10 * 2 and 1 + 10 * 1 s, and each turn takes 0.05 s; of half their epochs at least, of which those
    # of base take half the time where no other program uses the core.
    assert plan.search_s[1] == pytest.approx(10 + 4 * (21 + 11) / 2 + 21 / 2)
    assert plan.search_s[0] == pytest.approx(10 + 4 * (11 + 1 + 5 * 0.525) / 2)
    # 7 seeds would be for three methods. A quarter more images.
    assert (plan.num_seeds, plan.num_runs) == (6, 12)
    assert plan.confirm_s[1] == pytest.approx(10 + makespan([1 + 25, 1 + 12.5] * 6, 2), rel=0.02)
    lines = list(time_lines(job, plan, "a folder"))
    assert "tune-jobs confirm 'a folder' --seeds 6" in lines[1]
    assert len(set(lines)) == len(lines) and not any("GPU" in line for line in lines)
    on_gpus = plan_time(job, timing, Slots(2, 1, 0.5, []), Band(40, 60, 80))
    assert on_gpus.gpu_hours[1] == pytest.approx(0.5 * 4 * (21 + 11) / 3600)
    assert any(line.startswith("GPU-hours: ") for line in time_lines(job, on_gpus, "DIR"))


@pytest.mark.parametrize(("gpus", "words"), [(0, "one process with the whole batch"), (2, "at best 1/2")])
def test_times_of_one_process_are_not_taken_for_those_of_two(gpus, words):
    job = load_job("digits", [*SMALL, "resources.workers_per_trial=2", "resources.cpus_per_trial=2"])
    timing = Timing({study.name: Timed(1.0, 2.0) for study in job.studies()}, 7.0, took_s=0.0)
    plan = plan_time(job, timing, Slots(1, 2, gpus, [], workers_per_trial=2), Band(40, 60, 80))
    assert sum(words in line for line in time_lines(job, plan, "DIR")) == 1
    alone = load_job("digits", SMALL)
    assert not any("process" in line for line in time_lines(alone, plan, "DIR"))


def test_a_method_without_a_time_is_taken_to_differ_in_its_passes_only(monkeypatch):
    job = load_job("digits", SMALL)
    with_one = {"resnet8-base": {"begin_s": 1.0, "epoch_s": 3.0}}
    monkeypatch.setattr("tune_jobs.search.timing._time", lambda *_: (with_one, "too slow"))
    studies = time_job(job, SLOTS, (), ()).studies
    assert studies["resnet8-zsharp"] == Timed(1.0, 6.0)


def test_runs_start_as_slots_get_free():
    assert makespan([], 3) == 0
    assert makespan([4, 1, 1, 1, 5], 2) == 8
    assert makespan([4, 1], 8) == 4
