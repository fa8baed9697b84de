"""What tests of the ledger share: a job, a decision, how a trial starts, and what a refused call leaves."""

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


def unchanged_by(ledger, call, match):
    """The call is refused with a message that names the file, and nothing is different afterwards."""
    before = ledger.trials(), ledger.reports()
    with pytest.raises(LedgerError, match=match) as caught:
        call()
    assert str(ledger.file) in str(caught.value)
    assert (ledger.trials(), ledger.reports()) == before
