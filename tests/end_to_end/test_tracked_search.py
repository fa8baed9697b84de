"""A real search is followed by all trackers through a killed driver: each has what the ledger has, and the report."""

import pytest
from command_line_searches import call, kill_after
from mlflow_server import mlflow_server
from ports import free_port
from tracked import in_mlflow, in_tensorboard, in_wandb, recorded

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # those of the trackers' own clients


def test_runs_are_those_of_the_ledger_after_a_killed_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    port, folder = free_port(), tmp_path / "search"
    uri = f"http://127.0.0.1:{port}"
    job = ("architectures=[resnet8]", "methods=[sam, base]", "data.max_images=300", "train.batch_size=32",
           "train.epochs=4", "train.warmup_epochs=0", "search.num_trials=2", "resources.max_concurrent=1",
           f"track={{tensorboard: true, mlflow: '{uri}', wandb: project}}")  # fmt: skip
    words = [word for value in job for word in ("--set", value)]
    kill_after(5, folder, tmp_path, "run", "digits", "--out", folder, *words)  # while MLflow is down
    with mlflow_server(tmp_path, port):
        code, printed = call(tmp_path, "resume", folder)
        assert code == 0, printed
        assert "--to mlflow" not in printed, "it has caught up"
        points, statuses, parent = in_mlflow(uri, "digits")
        assert (points, statuses) == recorded(folder)
        assert list((tmp_path / "files").rglob(f"{parent.info.run_id}/artifacts/report.html"))
    assert in_tensorboard(folder) == recorded(folder)
    assert in_wandb(folder) == recorded(folder)
    assert (folder / "tensorboard" / "search" / "report.html").is_file()
    assert len(list(folder.glob("wandb/offline-run-*"))) == len(statuses) + 1
    assert list(folder.glob("wandb/offline-run-*/files/report.html"))
