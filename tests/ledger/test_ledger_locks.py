"""Reading a ledger in the process that writes it, as trackers do, leaves it SQLite's locks."""

import subprocess
import sys

from ledgers import JOB, ON, start

from tune_jobs.ledger.writer import Ledger

# What another process may lock for itself of what a connection in WAL mode holds: its share of the file, and of the
# index of the log (https://www.sqlite.org/walformat.html, section 2.3).
FREE = """
import fcntl, sys
for name, first, length in ((sys.argv[1], 0x40000002, 510), (sys.argv[1] + "-shm", 128, 1)):
    with open(name, "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, first)
            print(name)
        except BlockingIOError:
            pass
"""


def free_locks(file):
    command = [sys.executable, "-c", FREE, str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_reading_in_the_process_that_writes_keeps_its_locks(tmp_path):
    with Ledger.create(tmp_path / "search", JOB, {}) as ledger:
        start(ledger, "mlp-sam-0000")
        ledger.report("mlp-sam-0000", 1, {"val_loss": 0.5}, ON)
        assert free_locks(ledger.file) == ""
        with Ledger.open(tmp_path / "search", read_only=True) as reader:
            assert len(reader.reports()) == 1
        assert free_locks(ledger.file) == ""
        ledger.report("mlp-sam-0000", 2, {"val_loss": 0.5}, ON)
    with Ledger.open(tmp_path / "search", read_only=True) as reader:
        assert len(reader.reports()) == 2
