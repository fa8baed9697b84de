"""A search as a Slurm job on two nodes: to the end; stopped, preempted and requeued in the middle."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm import Slurm, missing

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.read import read_results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=f"not installed here: {', '.join(missing())}"),
]

BATCH_FILE = Path(__file__).parents[2] / "deploy" / "slurm.sbatch"
SETS = [
    *("architectures=[resnet8]", "methods=[base]", "search.num_trials=2", "data.max_images=200"),
    *("train.warmup_epochs=0", "train.batch_size=32", "resources.device=cpu"),
]


@pytest.fixture(scope="module")
def slurm():
    started = Slurm()
    yield started
    started.stop()


class Job:
    """A search with two trials, submitted to both nodes."""

    def __init__(self, slurm, name, num_epochs):
        self.out, self._slurm, self._num_epochs = slurm.folder / "results" / name, slurm, num_epochs
        changes = [*SETS, f"train.epochs={num_epochs}", f"asha.grace_epochs={num_epochs}"]
        self.id = slurm(
            *("sbatch", "--parsable", "--cpus-per-task=1", BATCH_FILE, "digits", f"--out={self.out}"),
            *(f"--set={change}" for change in changes),
            VENV=sys.prefix, HOME=str(slurm.folder),
        )  # fmt: skip
        assert self.id.isdigit(), self.id

    @property
    def log(self):
        file = self._slurm.folder / f"zsharp-{self.id}.log"
        return file.read_text() if file.exists() else ""

    def state(self, name="JobState"):
        shown = self._slurm("scontrol", "show", "job", self.id)
        return dict(part.split("=", 1) for part in shown.split() if "=" in part)[name]

    def num_reports(self):
        try:
            with Ledger.open(self.out, read_only=True) as ledger:
                return len(ledger.reports())
        except (LedgerError, OSError):
            return 0

    def wait_for(self, is_so, within_s=180):
        until = time.monotonic() + within_s
        while not is_so():
            assert time.monotonic() < until, self.log
            time.sleep(0.5)

    def wait_for_its_end(self):
        self.wait_for(lambda: self.state() not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"))

    def check_whole(self):
        """Each epoch of each trial is there once, in order; returns how often the search started, and its nodes."""
        assert (self.state(), self.state("ExitCode")) == ("COMPLETED", "0:0"), self.log
        results = read_results(self.out)
        assert list(results.trials["status"]) == ["completed"] * 2
        for _, epochs in results.epochs.groupby("trial_id"):
            assert list(epochs["epoch"]) == list(range(1, self._num_epochs + 1))
        with Ledger.open(self.out, read_only=True) as ledger:
            ledger.check_whole()
            starts = [event["kind"] for event in ledger.events()].count("start")
            return starts, {report["node"] for report in ledger.reports()}


@pytest.fixture
def leaves_nothing_behind():
    before = set(Path("/tmp").glob("ray.*"))
    yield
    assert set(Path("/tmp").glob("ray.*")) <= before


@pytest.mark.usefixtures("leaves_nothing_behind")
def test_a_search_runs_to_its_end(slurm):
    job = Job(slurm, "whole", num_epochs=3)
    job.wait_for_its_end()
    num_starts, nodes = job.check_whole()
    assert num_starts == 1 and nodes <= {"node1", "node2"}
    assert "srun:" not in job.log, "Ray ended when told to, and srun did not have to kill it"


@pytest.mark.usefixtures("leaves_nothing_behind")
def test_a_search_goes_on_after_its_time_limit_and_after_it_was_preempted(slurm):
    job = Job(slurm, "requeued", num_epochs=60)
    job.wait_for(lambda: job.num_reports() >= 3)
    slurm("scancel", "--batch", "--signal=TERM", job.id)  # what Slurm does before a time limit
    job.wait_for(lambda: job.state("Restarts") == "1")
    assert "interrupted by SIGTERM" in job.log
    before = job.num_reports()
    assert 3 <= before < 120
    job.wait_for(lambda: job.num_reports() >= before + 3)
    # A partition that goes first takes both nodes; Slurm ends all processes of the search, and requeues it.
    slurm("sbatch", "--partition=urgent", "--nodes=2", "--time=1", "--wrap", "sleep 1")
    job.wait_for(lambda: job.state("Restarts") == "2")
    assert job.num_reports() < 120
    job.wait_for_its_end()
    assert job.check_whole() == (3, {"node1", "node2"})


def test_the_batch_file_passes_shellcheck():
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed here")
    checked = subprocess.run([program, str(BATCH_FILE)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
