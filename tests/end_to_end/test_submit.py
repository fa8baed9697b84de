"""A job submitted from an empty folder with nothing but an address and a token, to a real Ray cluster and back."""

import os
import re
import subprocess
import sys

import psutil
import pytest
from ray_head import RayHead, below

from tune_jobs.results.read import read_results

pytestmark = pytest.mark.slow

SETS = [
    *(
        "architectures=[resnet8]",
        "methods=[base]",
        "search.num_trials=1",
        "train.epochs=2",
        "train.warmup_epochs=0",
    ),
    *("train.batch_size=32", "asha.grace_epochs=2", "data.max_images=200", "resources.device=cpu"),
]
CHANGES = [part for change in SETS for part in ("--set", change)]


@pytest.fixture(scope="module")
def head():
    head = RayHead(num_cpus=1)
    yield head
    pids = head.pids()
    head.stop()
    assert len(pids) > 5
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Runs the command line in an empty folder; returns exit code, standard output and error output."""
    folder = tmp_path_factory.mktemp("client")
    keep = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    def client(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "tune_jobs", *map(str, arguments)],
            env=keep | {"HOME": str(folder), "RAY_ADDRESS": "127.0.0.1:1"} | environment,  # not the address to use
            cwd=folder, capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    client.folder = folder
    return client


@pytest.fixture(scope="module")
def submitted(head, client):
    out = head.folder / "search"
    where = ("--address", head.address, "--out", out)
    code, printed, errors = client(
        "submit", "digits", *CHANGES, *where, "--follow", RAY_AUTH_TOKEN=head.token
    )
    assert (code, errors) == (0, ""), printed + errors
    return printed.splitlines()[0].removeprefix("Submitted: "), printed, out


def test_without_the_token_nobody_gets_in(head, client):
    for environment in ({"RAY_AUTH_TOKEN": "0" * 32}, {"RAY_AUTH_MODE": "disabled"}):
        code, out, err = client("submit", "digits", *CHANGES, "--address", head.address, **environment)
        assert (code, out) == (2, "")
        assert err.startswith("token: the cluster refused")
        assert len(err.splitlines()) == 1
        assert head.token not in err


def test_submit_says_where_it_is_and_follows_it_to_its_end(head, submitted):
    job_id, printed, out = submitted
    lines = printed.splitlines()
    assert job_id.startswith("digits-")
    assert lines[1:3] == [f"Dashboard: {head.address}/#/jobs/{job_id}", f"Folder: {out}"]
    assert lines[3] == f"Live page: tune-jobs serve {out}"
    assert any(line.startswith(f"Python {sys.version.split()[0]} ({sys.executable}), Ray ") for line in lines)
    assert any(re.match(r"1/1  resnet8-base-0000  completed +epoch 2/2", line) for line in lines), printed
    assert any(line.startswith("Best on digits: resnet8 with base") for line in lines)
    assert head.token not in printed


def test_status_logs_and_stop_of_what_has_ended(head, client, submitted):
    job_id, printed, out = submitted
    where = ("--address", head.address)
    code, status, err = client("status", job_id, *where, RAY_AUTH_TOKEN=head.token)
    assert (code, err) == (0, "")
    assert {"Status: SUCCEEDED", "Exit code: 0", f"Folder: {out}"} <= set(status.splitlines())
    code, log, err = client("logs", job_id, *where, RAY_AUTH_TOKEN=head.token)
    assert (code, err) == (0, "")
    assert log.rstrip() == "\n".join(printed.splitlines()[4:]).rstrip(), "what following it has shown"
    code, out, err = client("stop", job_id, *where, RAY_AUTH_TOKEN=head.token)
    assert (code, out, err) == (0, f"{job_id}: SUCCEEDED\n", "")
    code, out, err = client("logs", "digits-00000000", *where, RAY_AUTH_TOKEN=head.token)
    assert (code, out) == (2, "")
    assert err.startswith("ID: 'digits-00000000' is not valid: no such job")


def test_fetch_brings_parquet_and_report(head, client, submitted):
    job_id, _, out = submitted
    code, printed, err = client("fetch", job_id, "--address", head.address, RAY_AUTH_TOKEN=head.token)
    assert (code, err) == (0, ""), printed
    home = client.folder / job_id
    names = ["job.yaml", "parquet/trials.parquet", "parquet/epochs.parquet", "parquet/confirmations.parquet"]
    assert printed.splitlines()[:-1] == [f"{job_id}/{name}" for name in (*names, "report.html")]
    assert "--all" in printed.splitlines()[-1]
    for name in names:
        assert (home / name).read_bytes() == (out / name).read_bytes()
    assert "resnet8" in (home / "report.html").read_text()
    assert list(read_results(home).trials["status"]) == ["completed"]
    _, listed, _ = client("status", "--address", head.address, RAY_AUTH_TOKEN=head.token)
    assert [line.split()[0] for line in listed.splitlines()] == [job_id], "the job that fetched is gone"


def test_a_search_is_extended_and_confirmed_there(head, client, submitted):
    job_id, _, out = submitted
    where, token = ("--address", head.address), {"RAY_AUTH_TOKEN": head.token}
    changed = ("--set", "train.weight_decay=0.1", "--set", "train.batch_size=64")
    code, printed, err = client("submit", "digits", *CHANGES, *changed, *where, "--out", out, **token)
    assert (code, printed) == (2, "")
    assert "train.weight_decay: 5e-05 -> 0.1" in err
    assert len(err.splitlines()) == 1
    more = ("--resume", out, "--set", "search.num_trials=2", "--follow")
    code, printed, err = client("submit", *more, *where, **token)
    assert (code, err) == (0, ""), printed + err
    assert f"tune-jobs submit --confirm {out}" in printed, "what to do next, for this end"
    code, printed, err = client("submit", "--confirm", out, "--seeds", 2, "--follow", *where, **token)
    assert (code, err) == (0, ""), printed + err
    code, printed, err = client("fetch", job_id, "--all", *where, **token)
    assert (code, err) == (0, ""), printed
    home = client.folder / job_id
    assert len(read_results(home).confirmations) == 2
    code, printed, err = client("export", home)
    assert (code, err) == (0, ""), "the ledger is whole"


def test_the_job_server_listens_on_loopback_alone(head):
    port = int(head.address.rpartition(":")[2])
    listening = {
        connection.laddr.ip
        for started in head.started
        for process in below(started.pid)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }
    assert listening == {"127.0.0.1"}
