"""A search exported to a tracker, whole or step by step, is there once, as the tracker's own reader says."""

import shutil
from pathlib import Path

import pytest
from tracked import grow, in_mlflow, in_tensorboard, in_wandb, recorded

from tune_jobs.errors import JobError, TrackerError
from tune_jobs.job import checks
from tune_jobs.job.load import load_job
from tune_jobs.trackers.export import export_to
from tune_jobs.trackers.targets import target_of
from tune_jobs.trackers.turns import turn

FIXTURE = Path(__file__).parents[1] / "fixtures" / "search_of_0_1"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    # MLflow's store in files starts at once, and doubles what is logged twice: the databases would hide that.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def shown(kind, folder, uri):
    return (
        {"tensorboard": in_tensorboard, "wandb": in_wandb}[kind](folder)
        if kind != "mlflow"
        else in_mlflow(uri)[:2]
    )


pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trackers' own clients


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_repeated_exports_of_a_search_that_grows_leave_each_report_once(tmp_path, kind):
    folder, uri = tmp_path / "search", (tmp_path / "mlruns").as_uri()
    for num_steps in (2, 3, 0, 5, 100):
        grow(folder, num_steps)
        written = export_to(kind, uri, folder)
        assert (written.num_trials > 0) == (num_steps > 0)
        assert shown(kind, folder, uri) == recorded(folder)
        assert export_to(kind, uri, folder).num_trials == 0
    assert sorted(recorded(folder)[1].values()) == ["completed", "completed", "failed", "pruned"]


@pytest.mark.slow
def test_offline_runs_of_wandb_are_replaced_not_doubled(tmp_path):
    folder = tmp_path / "search"
    for num_steps in (8, 100):
        grow(folder, num_steps, num_trials=2)
        export_to("wandb", "project", folder)
    assert in_wandb(folder) == recorded(folder)
    assert export_to("wandb", "project", folder).num_reports == 0
    (folder / "wandb" / "tune_jobs.json").unlink()
    export_to("wandb", "project", folder)
    assert in_wandb(folder) == recorded(folder)


def test_tensorboard_files_without_a_state_are_written_again(tmp_path):
    grow(tmp_path, 100)
    export_to("tensorboard", "", tmp_path)
    trial = tmp_path / "tensorboard" / "mlp-sam-0000"
    (trial / "state").unlink()
    (events,) = trial.glob("events*")
    events.write_bytes(events.read_bytes()[:-7])  # as a killed process leaves them
    assert export_to("tensorboard", "", tmp_path).num_trials == 1
    assert in_tensorboard(tmp_path) == recorded(tmp_path)


def test_what_mlflow_has_beyond_its_state_is_not_sent_again(tmp_path):
    """As a process leaves it that is killed between metrics and state."""
    from mlflow import MlflowClient

    folder, uri = tmp_path / "search", (tmp_path / "mlruns").as_uri()
    grow(folder, 4)
    export_to("mlflow", uri, folder)
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'grown'")
    for run in client.search_runs([experiment.experiment_id]):
        client.set_tag(run.info.run_id, "tune_jobs.state", "1 running 0 6")
    assert export_to("mlflow", uri, folder).num_trials == 1
    points, statuses, parent = in_mlflow(uri)
    assert (points, statuses) == recorded(folder)
    assert parent.data.tags["git_commit"] == "0123abcd"
    assert (parent.data.tags["data_checksum"], parent.data.tags["code_checksum"]) == ("d1", "c1")


def test_a_search_of_0_1_and_its_report_are_exported(tmp_path):
    folder, uri = tmp_path / "old", (tmp_path / "mlruns").as_uri()
    shutil.copytree(FIXTURE, folder)
    page = tmp_path / "report.html"
    page.write_text("<html>", encoding="utf-8")
    for _ in range(2):
        export_to("mlflow", uri, folder, page)
        export_to("tensorboard", "", folder, page)
    points, statuses = recorded(folder)
    assert in_mlflow(uri, "search_of_0_1")[:2] == in_tensorboard(folder) == (points, statuses)
    assert (folder / "tensorboard" / "search" / "report.html").is_file()
    assert list((tmp_path / "mlruns").rglob("artifacts/report.html"))


def test_a_copy_of_a_search_is_the_same_search_and_another_search_is_not(tmp_path):
    uri = (tmp_path / "mlruns").as_uri()
    grow(tmp_path / "a", 100)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    grow(tmp_path / "c", 100)
    assert export_to("mlflow", uri, tmp_path / "a").num_trials == 4
    assert export_to("mlflow", uri, tmp_path / "b").num_trials == 0
    assert export_to("mlflow", uri, tmp_path / "c").num_trials == 4


def test_two_processes_take_turns(tmp_path):
    grow(tmp_path, 100)
    with turn(tmp_path, "tensorboard"), pytest.raises(TrackerError, match="another process"):
        export_to("tensorboard", "", tmp_path)


def test_a_server_that_is_down_is_one_error_with_its_address(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    grow(tmp_path, 100)
    with pytest.raises(TrackerError, match=r"127\.0\.0\.1:1"):
        export_to("mlflow", "http://127.0.0.1:1", tmp_path)


def test_where_a_search_is_exported_to(monkeypatch):
    job = {"name": "n", "track": {"mlflow": "http://there", "wandb": None, "tensorboard": False}}
    assert target_of("mlflow", job) == "http://there"
    assert target_of("wandb", job) == "n"
    with pytest.raises(JobError) as error:
        target_of("mlflow", {"name": "n"})
    assert [problem.path for problem in error.value.problems] == ["--to"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@elsewhere")
    assert target_of("mlflow", {"name": "n"}) == "http://user:secret@elsewhere"


@pytest.mark.parametrize(
    ("track", "packages", "paths"),
    [
        ({"tensorboard": True, "mlflow": "http://h:5000", "wandb": "team/project"}, {}, []),
        ({"mlflow": "https://me:secret@h"}, {}, ["track.mlflow"]),
        ({"mlflow": "mysql+pymysql://me:secret@h/db"}, {}, ["track.mlflow"]),
        ({"mlflow": ""}, {}, ["track.mlflow"]),
        ({"wandb": "p"}, {"wandb": "no_such_package"}, ["track.wandb"]),
        ({"wandb": None}, {"wandb": "no_such_package"}, []),
        ({"comet": "p"}, {}, ["track.comet"]),
    ],
)
def test_validate_tells_what_is_wrong_with_a_tracker(monkeypatch, track, packages, paths):
    monkeypatch.setattr(checks, "TRACKER_PACKAGES", packages)
    _, problems = checks.check_job(load_job("digits").model_dump(mode="json") | {"track": track})
    assert [problem.path for problem in problems] == paths
    assert "secret" not in str(problems)
