"""What tests of the ledger share: a job, a decision, how a trial starts, and what a refused call leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.rows import Decision

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # many commits; a busy disk syncs slowly
JOB = {"name": "tiny", "search": {"num_trials": 4}}
ON = Decision("continue")


def start(ledger, trial_id, **changes):
    given = {"study": "mlp.sam", "number": 0, "dataset": "digits", "architecture": "mlp", "method": "sam"}
    given |= {"variant": "paper", "seed": 3, "params": {"rho": 0.05, "lr": 0.1}, "max_epochs": 9}
    ledger.start_trial(trial_id, **(given | changes))


def start_of(ledger, job, study, number, params):
    """Starts a trial of a study as a search does; returns its id."""
    trial_id = f"{study.name}-{number:04d}"
    names = {"study": study.name, "dataset": job.data.name, "architecture": study.architecture}
    names |= {
        "method": study.method,
        "variant": None,
        "seed": job.trial_spec(study, params, number).train.seed,
    }
    start(ledger, trial_id, number=number, params=params, max_epochs=job.train.epochs, **names)
    return trial_id


def unchanged_by(ledger, call, match):
    """The call is refused with a message that names the file, and nothing is different afterwards."""
    before = ledger.trials(), ledger.reports()
    with pytest.raises(LedgerError, match=match) as caught:
        call()
    assert str(ledger.file) in str(caught.value)
    assert (ledger.trials(), ledger.reports()) == before


WRITER = """
import sys
from pathlib import Path
from tune_jobs.ledger.rows import Decision
from tune_jobs.ledger.writer import Ledger
folder, name = Path(sys.argv[1]), sys.argv[2]
ledger = Ledger.open(folder) if (folder / "ledger.sqlite").exists() else Ledger.create(folder, {"name": "x"}, {})
given = dict(study="s", dataset="d", architecture="a", method="m", variant=None, seed=0, params={}, max_epochs=3)
number = 0
while True:
    number += 1
    trial = f"{name}-{number}"
    ledger.start_trial(trial, number=number, **given)
    ledger.report(trial, 1, {"val_loss": 0.5}, Decision("continue"))
    ledger.retry_trial(trial, "x" * 300)
    ledger.report(trial, 2, {"val_loss": 0.5}, Decision("stop", reason="weak"), "pruned")
    ledger.extend({"name": "x", "number": number})
    print(number, flush=True)
"""


def writer(folder, name):
    """A process that records one trial after another, and says which are recorded."""
    command = [sys.executable, "-c", WRITER, str(folder), name]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
