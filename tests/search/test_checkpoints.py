"""Checkpoints are there for trials that need them, and for no others; damaged ones are found."""

import io
import random
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ledgers import IN_MEMORY
from simulated_search import Driver, Trials, small_job

from tune_jobs.search.checkpoints import Checkpoints, Retention
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.trial import LiveTrial


@pytest.fixture(scope="module")
def whole():
    """The bytes of a checkpoint as torch writes them."""
    file = io.BytesIO()
    torch.save({"weights": torch.arange(500.0), "epoch": 3}, file)
    return file.getvalue()


@pytest.fixture
def checkpoints(tmp_path, whole):
    found = Checkpoints(SearchFolder(tmp_path))
    found.folder.mkdir()
    for trial_id in ("a", "b", "c"):
        found.file(trial_id).write_bytes(whole)
    return found


def names(checkpoints):
    return sorted(file.name for file in checkpoints.folder.iterdir())


def test_all_others_are_deleted_and_what_is_half_written(checkpoints):
    (checkpoints.folder / ".b.pt.123").write_bytes(b"half")
    (checkpoints.folder / "b.pt.tmp").write_bytes(b"half")
    checkpoints.keep_only({"a", "c", "never written"})
    assert names(checkpoints) == ["a.pt", "c.pt"]
    checkpoints.keep_only(set())
    assert names(checkpoints) == []


def test_a_folder_that_is_not_there_is_no_problem(tmp_path):
    checkpoints = Checkpoints(SearchFolder(tmp_path / "never"))
    checkpoints.keep_only({"a"})
    checkpoints.drop("a")
    assert checkpoints.drop_damaged("a") is None
    assert not (tmp_path / "never").exists()


def test_only_what_is_named_is_dropped_and_once(tmp_path, checkpoints, monkeypatch):
    checkpoints.drop("b")
    checkpoints.drop("b")
    assert checkpoints.drop_damaged("a") is None
    assert names(checkpoints) == ["a.pt", "c.pt"]
    # With the checkpoints of two trials kept, the end of each later one drops exactly one.
    dropped, trials = [], {}
    monkeypatch.setattr(checkpoints, "drop", dropped.append)
    retention = Retention(checkpoints, trials, num_best=2)
    for trial_id, accuracy in {"a": 0.5, "b": 0.7, "c": 0.6, "d": 0.1, "e": 0.9, "f": 0.8}.items():
        trial = trials[trial_id] = LiveTrial(trial_id, "study", {}, value=accuracy, status="completed")
        retention.end_trial(trial)
    trials["g"] = LiveTrial("g", "study", {}, value=1.0, status="pruned")
    retention.end_trial(trials["g"])
    assert dropped == ["a", "d", "c", "b", "g"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"garbage",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
        lambda data: bytes(len(data)),
    ],
)
def test_damaged_ones_are_deleted_and_named(checkpoints, whole, damage):
    checkpoints.file("b").write_bytes(damage(whole))
    problem = checkpoints.drop_damaged("b")
    assert problem.startswith("b.pt was damaged (")
    assert names(checkpoints) == ["a.pt", "c.pt"]


def test_any_bytes_are_a_checkpoint_or_damaged(tmp_path, whole):
    """Whatever is changed in the file: never an error, and what passes is read as it was written, or not at all."""
    checkpoints = Checkpoints(SearchFolder(tmp_path))
    checkpoints.folder.mkdir()
    rng = random.Random(0)
    found = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        checkpoints.file("a").write_bytes(data)
        if checkpoints.drop_damaged("a") is None:
            weights = torch.arange(500.0)
            with suppress(Exception):  # torch is stricter with headers; a worker starts such a trial again
                weights = torch.load(io.BytesIO(data), weights_only=True)["weights"]
            assert weights.equal(torch.arange(500.0))
        else:
            found += 1
            assert not checkpoints.file("a").exists()
    assert found > 40


@given(
    seed=st.integers(0, 2**31),
    num_slots=st.integers(1, 4),
    num_trials=st.integers(1, 6),
    keep=st.integers(0, 3),
    max_steps=st.integers(0, 150) | st.none(),
)
def test_a_search_keeps_those_of_its_best_and_of_running_trials(seed, num_slots, num_trials, keep, max_steps):
    """At any moment, after every step, and when it is taken up again."""
    job = small_job(
        "search.sampler=random", f"search.num_trials={num_trials}", f"search.keep_checkpoints={keep}",
        "methods=[sam, base]", "failures.max_retries=1", "asha.protect_top=2",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        driver = Driver(job, Path(folder), Trials(seed, 0.02, 0.05), num_slots=num_slots, seed=seed)
        checkpoints = driver.recorder.retention.checkpoints
        checkpoints.folder.mkdir()

        def expected():
            trials = list(driver.recorder.trials.values())
            kept = {trial.trial_id for trial in trials if trial.status is None}
            for study in {trial.study for trial in trials}:
                done = [t for t in trials if t.study == study and t.status == "completed"]
                done.sort(key=lambda trial: (-trial.value, trial.val_loss))  # ties: started first
                kept |= {trial.trial_id for trial in done[:keep]}
            return sorted(f"{trial_id}.pt" for trial_id in kept)

        steps = 0
        while not (driver.finished and not driver._slots) and steps != max_steps:
            driver.step()
            steps += 1
            for trial in driver.recorder.trials.values():
                if trial.status is None:
                    checkpoints.file(trial.trial_id).touch()
            assert names(checkpoints) == expected()
        driver.close()
        for trial in driver.recorder.trials.values():
            checkpoints.file(trial.trial_id).touch()
        driver = Driver(job, Path(folder), num_slots=num_slots)
        driver.recorder.retention.clean()
        assert names(checkpoints) == expected()
        driver.close()


def test_a_damaged_checkpoint_of_an_unfinished_trial_is_an_event(tmp_path, whole):
    job = small_job("methods=[sam]", "search.num_trials=2", "asha.enabled=false")
    driver = Driver(job, tmp_path, num_slots=2, seed=1).run(6)
    driver.close()
    first, second = driver.recorder.trials
    checkpoints = driver.recorder.retention.checkpoints
    checkpoints.folder.mkdir()
    checkpoints.file(first).write_bytes(whole[:-5])
    checkpoints.file(second).write_bytes(whole)
    driver = Driver(job, tmp_path)
    driver.recorder.clean_checkpoints()
    (event,) = [event for event in driver.ledger.events() if event["kind"] == "checkpoint"]
    assert event["data"]["trial_id"] == first
    assert f"{first}.pt was damaged" in event["data"]["problem"]
    assert names(checkpoints) == [f"{second}.pt"]
    driver.close()
