"""What may change when a search goes on, and what may not: each refusal says what and why."""

import pytest
import true_format
from simulated_search import Driver, small_job

from tune_jobs.errors import JobError
from tune_jobs.job.data_checks import check_data
from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.extend import check_same_data, check_same_weights, extended, reopen_for_more_epochs
from tune_jobs.search.recorder import dataset_name, first_data

SETS = ("methods=[sam, base]", "search.num_trials=4", "search.sampler=random")
CONSTANT = (*SETS, "train.schedule=constant")


@pytest.fixture
def folder(tmp_path):
    Driver(small_job(*SETS), tmp_path).run(20).close()
    return tmp_path


def problems_of(folder, *sets):
    with Ledger.open(folder) as ledger, pytest.raises(JobError) as caught:
        extended(ledger, sets)
    return {problem.path: str(problem) for problem in caught.value.problems}


# A change, the path that its problem names, and what the message says besides.
REFUSED = {
    "train.epochs=12": ("train.epochs", "two lengths"),
    "train.epochs=8": ("train.epochs", "at least 9"),
    "search.num_trials=3": ("search.num_trials", "at least 4"),
    "methods=[sam]": ("methods", "['sam', 'base']"),
    "architectures=[resnet20]": ("architectures", "['resnet8']"),
    "search.sampler=tpe": ("search.sampler", "'random'"),
    "search.seed=1": ("search.sampler_seed", "0"),
    "train.seed=1": ("train.seed", "0"),
    "train.batch_size=32": ("train.batch_size", "64"),
    "train.schedule=constant": ("train.schedule", "'cosine'"),
    "space.rho={uniform: [0.01, 0.5]}": ("space.rho", "another folder"),
    "asha.grace_epochs=3": ("asha.grace_epochs", "1"),
    "asha.protect_top=0": ("asha.protect_top", "1"),
    "asha.enabled=false": ("asha.enabled", "True"),
    "search.first_points=[{rho: 0.1}]": ("search.first_points", "another folder"),
    "data.val_fraction=0.3": ("data.val_fraction", "0.2"),
    "metric=val_loss": ("metric", "'val_accuracy'"),
    "mode=min": ("mode", "'max'"),
    "name=other": ("name", "'digits'"),
    "storage=elsewhere": ("storage", "'results'"),
    "train.augment.flip=true": ("train.augment.flip", "None"),
    "search.num_trials=many": ("search.num_trials", "whole number"),
    "serch.num_trials=9": ("--set serch.num_trials", "search?"),
    "budget.hours=-1": ("budget.hours", "-1"),
    "budget": ("--set", "path=value"),
}


def test_what_does_not_fit_is_refused_and_nothing_is_recorded(folder):
    for change, (path, part) in REFUSED.items():
        messages = [text for name, text in problems_of(folder, change).items() if name.startswith(path)]
        assert messages and part in messages[0], (change, messages)
    with Ledger.open(folder, read_only=True) as ledger:
        assert len(ledger.jobs()) == 1
        assert {event["kind"] for event in ledger.events()} <= {"origin"}


def test_all_problems_are_said_at_once(folder):
    changes = ("methods=[sam]", "train.epochs=12", "search.sampler_seed=3", "search.num_trials=2")
    assert set(problems_of(folder, *changes)) == {change.partition("=")[0] for change in changes}


FITS = (
    "search.num_trials=9", "search.keep_checkpoints=1", "budget.hours=3",
    "budget={epochs: 100, target_accuracy: 0.9}", "failures.max_retries=0", "resources.max_concurrent=1",
    "resources.device=cpu",
)  # fmt: skip


def test_what_fits_is_the_job_from_now_on(folder):
    with Ledger.open(folder) as ledger:
        for change in FITS:
            assert extended(ledger, [change]) == (small_job(*SETS), small_job(*SETS, change))
        unchanged = ["search.num_trials=4", "methods=[sam, base]"]
        assert extended(ledger, []) == extended(ledger, unchanged) == (small_job(*SETS), small_job(*SETS))
        _, job = extended(ledger, FITS)
        ledger.extend(job.model_dump(mode="json"))
        assert extended(ledger, []) == (job, job)
        assert [after for after, _ in ledger.jobs()] == [0, len(ledger.reports())]


def test_seeds_of_trials_that_exist_do_not_change(tmp_path):
    repeated = (*SETS, "search.seeds=2", "search.first_points=[]")
    Driver(small_job(*repeated), tmp_path / "begun").run(3).close()
    found = problems_of(tmp_path / "begun", "search.num_trials=8")
    assert "the seeds of trials would change" in found["search.num_trials"]
    assert (
        "multiple of search.repeats"
        in problems_of(tmp_path / "begun", "search.num_trials=7")["search.num_trials"]
    )
    Driver(small_job(*repeated), tmp_path / "not begun").close()
    with Ledger.open(tmp_path / "not begun") as ledger:
        assert extended(ledger, ["search.num_trials=8"])[1].search.num_trials == 8


def test_a_ledger_of_no_job_is_refused_with_its_problems(tmp_path):
    Ledger.create(tmp_path, {"name": "foreign", "what": 1}, {}).close()
    found = problems_of(tmp_path)
    assert "unknown key 'what'" in found["what"]
    assert "missing" in found["data"]


def test_more_epochs_reopen_what_can_go_on(tmp_path):
    driver = Driver(small_job(*CONSTANT), tmp_path, num_slots=2).run()
    recorder = driver.recorder
    completed = [trial.trial_id for trial in recorder.trials.values() if trial.status == "completed"]
    assert len(completed) >= 2
    assert len(completed) < len(recorder.trials)
    kept = completed[0]
    recorder.retention.checkpoints.folder.mkdir()
    recorder.retention.checkpoints.file(kept).touch()
    ended = next(trial.trial_id for trial in recorder.trials.values() if trial.status == "pruned")
    recorder.retention.checkpoints.file(ended).touch()  # pruned ones stay pruned
    with pytest.raises(JobError, match="expected at least 9"):
        extended(driver.ledger, ["train.epochs=5"])
    _, job = extended(driver.ledger, ["train.epochs=12"])
    before = {trial["trial_id"]: trial for trial in driver.ledger.trials()}
    reopen_for_more_epochs(job, driver.ledger, recorder.retention.checkpoints)
    after = {trial["trial_id"]: trial for trial in driver.ledger.trials()}
    assert [name for name in after if after[name] != before[name]] == [kept]
    assert (after[kept]["status"], after[kept]["max_epochs"], after[kept]["ended_after"]) == (None, 12, None)
    driver.close()


def test_a_larger_number_of_trials_is_searched_on_from_the_same_results(tmp_path):
    """The first trials are untouched, and the search ends with all of the new number."""
    driver = Driver(small_job(*SETS), tmp_path, num_slots=2).run()
    first = driver.ledger.trials()
    _, job = extended(driver.ledger, ["search.num_trials=7"])
    driver.ledger.extend(job.model_dump(mode="json"))
    driver.close()
    driver = Driver(job, tmp_path, num_slots=2).run()
    trials = driver.ledger.trials()
    assert trials[: len(first)] == first
    assert sorted(trial["trial_id"] for trial in trials) == [
        f"resnet8-{method}-{number:04d}" for method in ("base", "sam") for number in range(7)
    ]
    assert driver.recorder.is_over
    driver.close()


def on_images(folder, root, monkeypatch):
    """A search of images in a folder, given by a relative path, whose first session has just started."""
    true_format.write_parquet(root, num=40)
    monkeypatch.chdir(root.parent)
    job = load_job(
        "digits",
        ["data.name=parquet", f"data.root={root.name}", "train.batch_size=8", "architectures=[resnet8]"],
    ).with_absolute_root()
    ledger = Ledger.create(folder, job.model_dump(mode="json"), {})
    ledger.record_event("start", {"data_checksum": check_data(job).checksum})
    ledger.close()
    monkeypatch.chdir("/")


def resumed(folder, *sets):
    with Ledger.open(folder, read_only=True) as ledger:
        before, job = extended(ledger, sets)
        check_same_data(ledger, before, job, check_data(job).checksum)
        return job, dataset_name(first_data(ledger))


def test_data_that_moved_are_told_and_keep_their_name(tmp_path, monkeypatch):
    on_images(tmp_path / "search", tmp_path / "images", monkeypatch)
    assert resumed(tmp_path / "search")[0].data.root == str(tmp_path / "images")
    (tmp_path / "images").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    job, name = resumed("search", "data.root=moved")
    assert (job.data.root, name) == (str(tmp_path / "moved"), "images")


@pytest.mark.parametrize("root", ["images", "others"])
def test_other_data_are_refused_wherever_they_are(root, tmp_path, monkeypatch):
    on_images(tmp_path / "search", tmp_path / "images", monkeypatch)
    true_format.write_parquet(tmp_path / root, num=42)
    with pytest.raises(JobError) as refused:
        resumed(tmp_path / "search", f"data.root={tmp_path / root}")
    assert [problem.path for problem in refused.value.problems] == ["data.root"]


def test_weights_that_moved_are_accepted_and_others_are_not(tmp_path):
    job = load_job("digits", [f"init.weights={tmp_path / 'a.pt'}"])
    ledger = Ledger.create(tmp_path / "search", job.model_dump(mode="json"), {})
    ledger.record_event("start", {"weights_checksum": "a"})
    _, moved = extended(ledger, [f"init.weights={tmp_path / 'b.pt'}"])
    assert moved.init.weights == str(tmp_path / "b.pt")
    check_same_weights(ledger, moved, "a")
    for other in ("b", None):
        with pytest.raises(JobError, match=r"init\.weights.*began with a"):
            check_same_weights(ledger, moved, other)
    ledger.close()
