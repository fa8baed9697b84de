"""Searches in processes of their own, to be killed: start one, wait for reports, resume it, check what it left."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import optuna
import psutil
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.optuna_journal import FILE_NAME as JOURNAL
from tune_jobs.stopping.asha import Rule
from tune_jobs.stopping.replay import replay

HOOKS = Path(__file__).parent / "in_every_python"
ONE_SLOT = (
    *("train.epochs=6", "train.batch_size=32", "train.warmup_epochs=0", "data.max_images=200"),
    *("architectures=[resnet8]", "methods=[zsharp, sam]", "search.num_trials=4", "search.keep_checkpoints=1"),
    *("asha={grace_epochs: 1, reduction_factor: 2, protect_top: 1}", "resources={device: cpu, max_concurrent: 1}"),
)  # fmt: skip
SHORT = (  # a constant learning rate, so that it can be extended to more epochs
    *(
        *ONE_SLOT,
        "methods=[zsharp, base]",
        "search.num_trials=2",
        "train.epochs=4",
        "train.schedule=constant",
    ),
)
TWO_SLOTS = (*ONE_SLOT, "resources.max_concurrent=2", "resources.cpus_per_trial=0.5")
FIRST_POINT = {"q_p": 0.95, "rho": 0.05, "lr": 1e-3}
# What differs between two runs of one search: clocks and processes, and how often it went wrong.
TIMES = {"epoch_s", "train_s", "wall_s", "images_per_s", "peak_memory_bytes", "reported_at", "worker_pid"}
CLOCKS = {"started_at", "finished_at", "retries"}
STATES = {"completed": "COMPLETE", "pruned": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}


@dataclass
class Row:
    """What a fault did, as the table at the end shows it."""

    fault: str
    times: int = 1
    lost: int = 0
    duplicated: int = 0
    trained_again: int = 0
    recovered_s: list[float] = field(default_factory=list)


TABLE: list[Row] = []
AGENTS: list[psutil.Process] = []  # of Rays whose driver ended; none may outlive the tests


def table_lines(rows):
    """Yields the lines of the table: fault, times injected, lost, duplicated, trained again, recovered in s."""
    yield f"{'fault':<42}{'times':>6}{'lost':>6}{'duplicated':>12}{'epochs again':>14}{'recovered in s':>16}"
    for row in rows:
        seconds = f"{median(row.recovered_s):.1f}" if row.recovered_s else "-"
        numbers = f"{row.times:>6}{row.lost:>6}{row.duplicated:>12}{row.trained_again:>14}{seconds:>16}"
        yield f"{row.fault:<42}{numbers}"


@dataclass
class Search:
    """A search folder, the processes that work on it, and what faults have done to it.

    Args:
        folder: The search folder, in a folder of its own.
        row: The table's row that its faults are counted in.
        environment: Variables of its processes, beside this process's own.
    """

    folder: Path
    row: Row
    environment: dict[str, str] = field(default_factory=dict)
    driver: subprocess.Popen[bytes] | None = None
    family: dict[int, psutil.Process] = field(default_factory=dict)
    seen: dict[tuple[str, int], dict] = field(default_factory=dict)
    ended: dict[str, dict] = field(default_factory=dict)
    ended_s: float = 0.0
    hurt_s: list[tuple[float, float]] = field(default_factory=list)

    @property
    def epoch_log(self):
        return self.folder.with_suffix(".epochs")

    def begin(self, *sets):
        """Starts `tune-jobs run`."""
        self._start(
            "run", "digits", "--out", str(self.folder), *(part for one in sets for part in ("--set", one))
        )
        return self

    def resume(self):
        """Starts `tune-jobs resume`."""
        self._start("resume", str(self.folder))
        return self

    def _start(self, *arguments):
        unwanted = ("RAY_ADDRESS", "FAULTS_AT")
        variables = {name: value for name, value in os.environ.items() if name not in unwanted}
        variables |= {"PYTHONPATH": str(HOOKS), "FAULTS_EPOCHS": str(self.epoch_log), "OMP_NUM_THREADS": "1"}
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.family = {}
        with (
            self.folder.with_suffix(".out").open("wb") as out,
            self.folder.with_suffix(".err").open("wb") as err,
        ):
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "tune_jobs", *arguments],
                env=variables | self.environment, stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip

    @property
    def printed(self):
        """What the last process said, on both outputs."""
        return self.folder.with_suffix(".out").read_text() + self.folder.with_suffix(".err").read_text()

    def reports(self):
        """The reports so far; none if there is no ledger yet."""
        with suppress(LedgerError), Ledger.open(self.folder, read_only=True) as ledger:
            return ledger.reports()
        return []

    def wait_for(self, num_reports, delay_s=0.0, timeout_s=200):
        """Waits until so many reports are in the ledger, and some time more; returns whether it came to that."""
        end_s = time.monotonic() + timeout_s
        while len(self.reports()) < num_reports:
            if self.driver.poll() is not None:
                return False
            assert time.monotonic() < end_s, f"no {num_reports} reports in {timeout_s} s\n{self.printed}"
            time.sleep(0.01)
        time.sleep(delay_s)
        return self.driver.poll() is None

    def look(self):
        """Notes the processes and what the ledger has, just before a fault."""
        with suppress(psutil.NoSuchProcess, AttributeError):  # it ended; there is none
            me = psutil.Process(self.driver.pid)
            self.family |= {one.pid: one for one in (me, *me.children(recursive=True))}
        self.note()
        self.hurt_s.append((time.time(), time.time()))

    def note(self):
        """Notes what must not change any more: the ledger's reports, and trials that ended."""
        with suppress(LedgerError), Ledger.open(self.folder, read_only=True) as ledger:
            self.seen |= {(one["trial_id"], one["epoch"]): one for one in ledger.reports()}
            final = (None, "interrupted")
            self.ended |= {one["trial_id"]: one for one in ledger.trials() if one["status"] not in final}

    def named(self, name):
        """Returns the process of the driver's family that is called so."""
        (found,) = [one for one in self.family.values() if one.name() == name]
        return found

    def worker(self):
        """Returns the worker that reported last."""
        return psutil.Process(self.reports()[-1]["worker_pid"])

    def end(self, timeout_s=60):
        """Waits for the process to end, and for the end of all it started; returns its exit code.

        Ray's two agents, which train nothing, may take the minute that they look for their Ray; see AGENTS.
        """
        with suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self.driver.pid).children(recursive=True):
                self.family.setdefault(one.pid, one)
        code = self.driver.wait(timeout_s)
        self.ended_s = time.monotonic()
        if self.hurt_s and code != 0:  # the next session makes it good
            self.hurt_s[-1] = (self.hurt_s[-1][0], time.time())
        agents = [one for one in self.family.values() if is_agent(one)]
        AGENTS.extend(agents)
        left = still_alive([one for one in self.family.values() if one not in agents], 15)
        assert not left, f"left behind: {left}"
        self.note()
        return code

    def kill(self, number=signal.SIGKILL):
        """Sends the driver a signal, after a look; returns its exit code."""
        self.look()
        with suppress(ProcessLookupError):
            self.driver.send_signal(number)
        return self.end()

    def give_up(self):
        """Ends whatever a failed test left running."""
        if self.driver is not None and self.driver.poll() is None:
            self.look()
            self.driver.kill()
            self.driver.wait()
            for one in self.family.values():
                with suppress(psutil.NoSuchProcess):
                    one.kill()

    def finish(self):
        """Resumes the search to its end and returns it."""
        self.resume()
        assert self.end(300) == 0, self.printed
        return self

    def check(self, reference=None, failed=(), is_counted=True, in_flight=1):
        """Asserts what has to hold after every fault, and adds to the row.

        Args:
            reference: The uninterrupted search, whose rows this one has to equal; none with several slots.
            failed: Trials that have to have failed, and no others.
            is_counted: Whether the epochs trained are bounded: not where the fault is that checkpoints are gone.
            in_flight: Epochs that one fault can cost.
        """
        with Ledger.open(self.folder, read_only=True) as ledger:
            trials, reports, jobs = ledger.trials(), ledger.reports(), ledger.jobs()
        rules = [(after, Rule.of_job(job)) for after, job in jobs]
        assert replay(rules, trials, reports) == []
        for trial in trials:
            epochs = [one["epoch"] for one in reports if one["trial_id"] == trial["trial_id"]]
            assert epochs == list(range(1, len(epochs) + 1)), trial
            assert trial["status"] in STATES, trial
            is_whole = trial["status"] != "completed" or len(epochs) == trial["max_epochs"]
            assert is_whole, trial
        assert {one["trial_id"] for one in trials if one["status"] == "failed"} == set(failed)
        assert len(trials) == len(jobs[-1][1]["methods"]) * jobs[-1][1]["search"]["num_trials"]

        now = {(one["trial_id"], one["epoch"]): one for one in reports}
        self.row.lost += sum(now.get(key) != one for key, one in self.seen.items())
        self.row.duplicated += len(reports) - len(now)
        by_id = {one["trial_id"]: one for one in trials}
        assert all(by_id[trial_id] == one for trial_id, one in self.ended.items())
        assert (self.row.lost, self.row.duplicated) == (0, 0)
        self._check_epochs(reports, is_counted, in_flight)
        self._check_optuna(trials)
        self._check_files(trials, reports)
        if reference is not None:
            assert comparable(self.folder) == comparable(reference.folder)
        for hurt_s, down_s in self.hurt_s:
            moments = [one["reported_at"].timestamp() for one in reports]
            self.row.recovered_s += [one - hurt_s for one in moments if one > down_s][:1]

    def _check_epochs(self, reports, is_counted, in_flight):
        trained = len(self.epoch_log.read_text().splitlines())
        again = trained - sum(one["decision"] != "diverge" for one in reports)
        self.row.trained_again += again
        assert again >= 0
        if is_counted:
            assert again <= in_flight, f"{again} epochs were trained again"

    def _check_optuna(self, trials):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(self.folder / JOURNAL)))
        names = {study.study_name.partition("/")[2]: study for study in storage.get_all_studies()}
        assert set(names) == {one["study"] for one in trials}
        for name, study in names.items():
            own = [one for one in trials if one["study"] == name]
            told = storage.get_all_trials(study._study_id)
            assert sorted(one.state.name for one in told) == sorted(STATES[one["status"]] for one in own)
            point = {key: value for key, value in FIRST_POINT.items() if key in own[0]["params"]}
            assert [one.params for one in told].count(point) == 1
            twice = Counter(tuple(sorted(one.params.items())) for one in told)
            self.row.duplicated += sum(twice.values()) - len(twice)

    def _check_files(self, trials, reports):
        last = {one["trial_id"]: one for one in reports}
        kept = set()
        for study in {one["study"] for one in trials}:
            completed = [
                one["trial_id"] for one in trials if (one["study"], one["status"]) == (study, "completed")
            ]
            merit = {name: (last[name]["val_accuracy"], -last[name]["val_loss"]) for name in completed}
            kept |= {f"{name}.pt" for name in sorted(completed, key=merit.get, reverse=True)[:1]}
        assert {path.name for path in (self.folder / "checkpoints").iterdir()} == kept
        parquet = {"trials.parquet", "epochs.parquet", "confirmations.parquet"}
        assert {path.name for path in (self.folder / "parquet").iterdir()} >= parquet
        names = {"job.yaml", "ledger.sqlite", "parquet", "checkpoints", JOURNAL}
        # A trial that starts again prints so, and then there is a log of it.
        assert {path.name for path in self.folder.iterdir()} - {"logs"} == names


def is_agent(process):
    """Whether it is one of the two helpers of a Ray that look for their Ray for a minute after it died."""
    with suppress(psutil.NoSuchProcess):
        return process.name() in ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    return False


def still_alive(processes, timeout_s):
    """Returns which of the processes have not ended after some time."""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def comparable(folder):
    """What two runs of one search on one slot have in common: everything but clocks and processes."""
    with Ledger.open(folder, read_only=True) as ledger:
        reports = [{key: one[key] for key in one.keys() - TIMES} for one in ledger.reports()]
        trials = [{key: one[key] for key in one.keys() - CLOCKS} for one in ledger.trials()]
    return trials, reports


def moment(rng: random.Random, num_reports: int) -> tuple[int, float]:
    """Returns a random moment of a search: after how many reports, and how long after that."""
    return rng.randrange(1, num_reports), rng.uniform(0, 0.2)
