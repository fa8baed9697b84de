"""What befalls searches on clusters: stopped, killed, refused, without workers yet, without a token at all."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest
from command_line_searches import num_reports
from ray_head import RayHead, below

from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import read_results

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NUM_EPOCHS = 60
SETS = [
    *("architectures=[resnet8]", "methods=[base]", "search.num_trials=2", f"train.epochs={NUM_EPOCHS}"),
    *(
        "train.warmup_epochs=0",
        "train.batch_size=32",
        f"asha.grace_epochs={NUM_EPOCHS}",
        "data.max_images=200",
    ),
    "resources.device=cpu",
]
CHANGES = [part for change in SETS for part in ("--set", change)]
HOSTILE = "search $(touch touched); 'x\"&"


class Client:
    """The command line in an empty folder, with an address and a token."""

    def __init__(self, folder, head):
        self.folder, self.address = folder, head.address
        keep = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self._environment = keep | {"HOME": str(folder), "RAY_AUTH_TOKEN": head.token}

    def begin(self, *arguments, **environment):
        return subprocess.Popen(
            [sys.executable, "-m", "tune_jobs", *map(str, arguments), "--address", self.address],
            env=self._environment | environment, cwd=self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *arguments, **environment):
        done = self.begin(*arguments, **environment)
        out, err = done.communicate(timeout=300)
        return done.returncode, out, err


@contextmanager
def running(**options):
    head = RayHead(**options)
    try:
        yield head
    finally:
        head.stop()


@pytest.fixture(scope="module")
def head():
    with running(num_cpus=2) as head:
        yield head


@pytest.fixture
def client(head, tmp_path):
    return Client(tmp_path, head)


def wait_for_reports(out, number, submission):
    until = time.monotonic() + 120
    while num_reports(out) < number:
        assert time.monotonic() < until and submission.poll() is None, submission.communicate()
        time.sleep(0.2)


def drivers(head, out):
    """The processes that run the search of a folder."""
    return [
        process
        for started in head.started
        for process in below(started.pid)
        if process.status() != psutil.STATUS_ZOMBIE
        and "tune_jobs.cli.driver" in process.cmdline()
        and f"--out={out}" in process.cmdline()
    ]


def check_whole(out):
    """Each epoch of each trial once, in order."""
    results = read_results(out)
    assert list(results.trials["status"]) == ["completed"] * 2
    for _, epochs in results.epochs.groupby("trial_id"):
        assert list(epochs["epoch"]) == list(range(1, NUM_EPOCHS + 1))
    with Ledger.open(out, read_only=True) as ledger:
        ledger.check_whole()
        return [event["kind"] for event in ledger.events()]


def job_id_of(client):
    _, listed, _ = client("status")
    return listed.splitlines()[-1].split()[0]


def test_a_stopped_search_goes_on_when_it_is_submitted_again(head, client):
    out = head.folder / HOSTILE
    submission = client.begin("submit", "digits", *CHANGES, "--out", out, "--follow")
    wait_for_reports(out, 3, submission)
    (driver,) = drivers(head, out)
    job_id = job_id_of(client)
    code, printed, err = client("stop", job_id)
    assert (code, err) == (0, "")
    assert printed.splitlines()[0] == f"{job_id}: STOPPED"
    out_text, _ = submission.communicate(timeout=60)
    assert submission.returncode == 130
    assert "Stopped before its last trial: interrupted by SIGTERM." in out_text
    assert not driver.is_running()
    before = num_reports(out)
    assert 3 <= before < 2 * NUM_EPOCHS
    assert "Status: STOPPED" in client("status", job_id)[1]

    code, printed, err = client("submit", "digits", *CHANGES, "--out", out, "--follow")
    assert (code, err) == (0, ""), printed
    assert check_whole(out).count("start") == 2
    assert not list(head.folder.rglob("touched")), "a name reached the shell"


def test_a_search_whose_driver_is_killed_goes_on_when_it_is_submitted_again(head, client):
    out = head.folder / "killed"
    submission = client.begin("submit", "digits", *CHANGES, "--out", out, "--follow")
    wait_for_reports(out, 3, submission)
    (driver,) = drivers(head, out)
    driver.kill()
    _, err = submission.communicate(timeout=60)
    assert submission.returncode == 1
    assert re.search(
        r"^digits-\w+: FAILED\. Job entrypoint command failed with exit code -9", err, re.MULTILINE
    )
    code, _, err = client("fetch", job_id_of(client), "--out", "home")
    assert (code, err) == (0, "")
    assert len(read_results(client.folder / "home").epochs) >= 3, "what it had is there"

    code, printed, err = client("submit", "digits", *CHANGES, "--out", out, "--follow")
    assert (code, err) == (0, ""), printed
    check_whole(out)


def test_a_job_that_does_not_fit_ends_with_the_code_of_bad_input(head, client):
    changes = [*CHANGES, "--set", "resources.cpus_per_trial=3"]
    code, out, err = client("submit", "digits", *changes, "--out", head.folder / "large", "--follow")
    assert code == 2
    assert "resources.cpus_per_trial: 3" in out
    assert ": FAILED." in err


def test_a_search_waits_for_workers_that_are_still_coming(tmp_path):
    with running(num_cpus=0) as head:
        client, out = Client(tmp_path, head), head.folder / "search"
        changes = [*CHANGES, "--set", "resources.max_concurrent=1"]
        submission = client.begin(
            "submit", "digits", *changes, "--out", out, "--follow", "--wait-for-workers", "120"
        )
        seen = []
        while not any("Waiting up to" in line for line in seen):
            seen.append(submission.stdout.readline())
            assert seen[-1], (seen, submission.stderr.read())
        assert not out.exists()
        head.add_worker(num_cpus=1)
        printed, err = submission.communicate(timeout=300)
        assert (submission.returncode, err) == (0, ""), printed
        assert "There is room for 1 of 1" in printed
        check_whole(out)


def test_a_cluster_that_takes_jobs_from_anybody_is_refused(tmp_path):
    with running(num_cpus=1, is_open=True) as head:
        client = Client(tmp_path, head)
        code, out, err = client("submit", "digits", *CHANGES, "--out", head.folder / "search")
        assert (code, out) == (2, "")
        assert "its token authentication is off" in err
        code, out, err = client("status", RAY_AUTH_MODE="disabled")
        assert (code, out, err) == (0, "", ""), "somebody who knows may"
