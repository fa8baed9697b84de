"""A job that is not that of a folder: what differs, and whether `resume` would take it."""

import pytest

from tune_jobs.job.load import load_job
from tune_jobs.search.changes import another_job, changed_settings


@pytest.mark.parametrize(
    ("sets", "paths", "resumes"),
    [
        ([], [], False),
        (["search.num_trials=16"], ["search.num_trials"], True),
        (["train.schedule=constant", "methods=[base]"], ["methods", "train.schedule"], False),
        (["train.epochs=40"], ["train.epochs"], False),  # on a cosine every rate would be another
        (["space.lr={uniform: [0.0003, 0.03]}"], ["space.lr.loguniform", "space.lr.uniform"], False),
    ],
)
def test_what_differs_and_the_ways_on(sets, paths, resumes):
    old = load_job("digits")
    new = load_job("digits", sets)
    assert sorted(changed_settings(old, new)) == sorted(paths)
    text = another_job(old, new, 3, "there")
    assert (text is None) == (not paths)
    if text:
        assert all(f"{path}: " in text for path in paths)
        assert "--fresh" in text
        assert "--out" in text
        assert ("tune-jobs resume there --set" in text) == resumes


def test_what_follows_from_the_epochs_is_no_difference():
    sets = ["train.schedule=constant", "train.epochs=3"]
    old, new = load_job("digits", sets), load_job("digits", [*sets, "train.epochs=12"])
    assert list(changed_settings(old, new)) == ["train.epochs"]
    assert "resume" in (another_job(old, new, 3, "there") or "")
