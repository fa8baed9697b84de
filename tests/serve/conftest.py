"""A ledger with trials in every state, and the server's application over it."""

import pytest
from ledgers import start
from live_ledger import EVIL, JOB, report, write_trials
from starlette.testclient import TestClient

from tune_jobs.ledger.writer import Ledger
from tune_jobs.serve.app import make_app
from tune_jobs.serve.guard import Rules
from tune_jobs.serve.searches import Searches


@pytest.fixture
def folder(tmp_path):
    """A search whose driver was killed: a trial that failed, one that was tried again, one without an end."""
    folder = tmp_path / "results" / "tiny"
    with Ledger.create(folder, JOB, {"hardware": {"num_cpus": 2}}) as ledger:
        ledger.record_event("start", {"slots": 2})
        write_trials(ledger)
        start(ledger, "resnet8-sam-0006", number=6, study="resnet8-sam", architecture="resnet8", max_epochs=3)
        ledger.finish_trial("resnet8-sam-0006", "failed", "failed twice", f"Traceback\nRuntimeError: {EVIL}")
        start(ledger, "resnet8-sam-0007", number=7, study="resnet8-sam", architecture="resnet8", max_epochs=3)
        ledger.retry_trial("resnet8-sam-0007", "Traceback\nOSError: a worker died")
        report(ledger, "resnet8-sam-0007", 1, 0.66)
    return folder


@pytest.fixture
def client_for():
    """Makes a client of a server over some folders, under some rules."""

    def client_for(*folders, rules=None, allow_stop=False, host="127.0.0.1:8420"):
        app = make_app(Searches([str(path) for path in folders]), rules or Rules(), allow_stop=allow_stop)
        return TestClient(app, base_url=f"http://{host}", follow_redirects=False)

    return client_for
