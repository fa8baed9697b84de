"""Searches that are killed, starved and damaged at random moments, and what is left of them after `resume`.

`FAULTS_SEED` sets the moments; a failure prints it. `Search.check` has what has to hold after each fault.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import contextmanager, nullcontext, suppress

import psutil
import pytest
from searches import ONE_SLOT, TWO_SLOTS, Row, Search, moment

from tune_jobs.ledger.writer import Ledger

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

NUM_REPORTS = 40  # of the reference
STOPS_WITHIN_S = 30


# --- the driver, and the Ray below it


@pytest.mark.parametrize(
    ("number", "times"),
    [(signal.SIGKILL, 4), (signal.SIGTERM, 3), (signal.SIGINT, 3)],
    ids=lambda one: str(one),
)
def test_a_driver_stopped_again_and_again_ends_as_if_it_never_was(begin, reference, rng, number, times):
    search = begin(f"{number.name} of the driver, {times} times in a row")
    search.row.times = times
    moments = sorted(rng.sample(range(1, NUM_REPORTS), times))
    search.begin(*ONE_SLOT)
    for at in moments:
        assert search.wait_for(at, rng.uniform(0, 0.05)) or search.driver.returncode == 0
        start_s = time.monotonic()
        code = search.kill(number)
        if number == signal.SIGKILL:
            assert code in (-number, 0)
        else:
            in_time = search.ended_s - start_s < STOPS_WITHIN_S
            is_too_early = code == -number and not search.printed  # before Python could take any signal
            assert (code in (130, 0) and in_time) or is_too_early, (code, in_time, search.printed)
            assert code == 0 or not search.printed or f"tune-jobs resume {search.folder}" in search.printed
        search.resume()
    assert search.end(120) == 0, search.printed
    search.check(reference, in_flight=times)


def to_group(search):
    """What a terminal, a service manager or a batch system does: everything of the session is told to stop."""
    os.killpg(search.driver.pid, signal.SIGTERM)


def ctrl_c(search):
    os.killpg(search.driver.pid, signal.SIGINT)


def ctrl_c_twice(search):
    ctrl_c(search)
    time.sleep(0.1)
    with suppress(ProcessLookupError):
        search.driver.send_signal(signal.SIGINT)


def kill_raylet(search):
    search.named("raylet").kill()


def kill_gcs(search):
    search.named("gcs_server").kill()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(ctrl_c, 130), (ctrl_c_twice, 130), (to_group, 130), (kill_raylet, 1), (kill_gcs, 1)],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_what_ends_a_session_is_made_good_by_the_next(begin, reference, rng, fault, expected):
    search = begin(fault.__name__).begin(*ONE_SLOT)
    assert search.wait_for(*moment(rng, NUM_REPORTS // 2))
    search.look()
    start_s = time.monotonic()
    fault(search)
    code = search.end(120)
    assert code == expected, search.printed
    assert search.ended_s - start_s < STOPS_WITHIN_S, search.printed
    assert f"tune-jobs resume {search.folder}" in search.printed
    search.finish().check(reference)


def test_a_stop_while_ray_starts(begin, reference, rng):
    search = begin("SIGTERM while Ray starts").begin(*ONE_SLOT)
    while not search.folder.joinpath("ledger.sqlite").exists():
        time.sleep(0.02)
    time.sleep(rng.uniform(0.2, 4))
    start_s = time.monotonic()
    assert search.kill(signal.SIGTERM) == 130, search.printed
    assert search.ended_s - start_s < STOPS_WITHIN_S
    search.finish().check(reference)


def test_a_driver_killed_while_it_resumes(begin, reference, rng):
    search = begin("SIGKILL while it resumes").begin(*ONE_SLOT)
    search.wait_for(*moment(rng, NUM_REPORTS - 5))
    search.kill()
    before = len(search.reports())
    search.resume()
    time.sleep(rng.uniform(1, 8))
    search.kill()
    assert len(search.reports()) >= before
    search.finish().check(reference, in_flight=2)


def test_a_folder_as_a_power_cut_leaves_it(begin, reference, rng):
    search = begin("power cut: a copy of the folder").begin(*ONE_SLOT)
    assert search.wait_for(*moment(rng, NUM_REPORTS - 5))
    search.look()
    search.driver.send_signal(signal.SIGSTOP)  # a disk has one state at one moment
    copied = search.folder.with_name("copied")
    shutil.copytree(search.folder, copied)
    shutil.copy(search.epoch_log, copied.with_suffix(".epochs"))
    search.driver.kill()
    search.end()
    copy = Search(copied, search.row, hurt_s=search.hurt_s)
    copy.note()
    assert (copied / "ledger.sqlite-wal").stat().st_size > 0
    copy.finish().check(reference)


def test_a_second_process_is_refused_and_the_first_goes_on(begin, reference, rng):
    search = begin("a second process resumes").begin(*ONE_SLOT)
    assert search.wait_for(rng.randrange(1, NUM_REPORTS // 4))
    search.look()
    second = Search(search.folder, search.row)
    second.resume()
    assert second.driver.wait(60) == 2, second.printed
    assert "another process is writing" in second.printed
    assert search.end(120) == 0
    search.check(reference)


def test_two_slots(begin, rng):
    search = begin("SIGKILL of the driver, two slots").begin(*TWO_SLOTS)
    assert search.wait_for(*moment(rng, NUM_REPORTS // 2))
    search.kill()
    search.finish().check(in_flight=2)


# --- workers


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda one: one.name)
def test_a_killed_or_hung_worker(begin, reference, rng, number):
    search = begin(f"{number.name} of a worker").begin(*ONE_SLOT, "failures.report_timeout_s=15")
    assert search.wait_for(*moment(rng, NUM_REPORTS // 2))
    search.look()
    search.worker().send_signal(number)
    assert search.end(120) == 0, search.printed
    search.check(reference)


def test_a_hung_worker_does_not_hold_up_a_stop(begin, reference, rng):
    search = begin("SIGSTOP of a worker, then SIGTERM").begin(*ONE_SLOT)
    assert search.wait_for(*moment(rng, NUM_REPORTS // 2))
    search.look()
    search.worker().suspend()
    start_s = time.monotonic()
    search.driver.terminate()
    assert search.end(60) == 130, search.printed
    assert search.ended_s - start_s < STOPS_WITHIN_S
    search.finish().check(reference)


def test_trials_that_raise_or_die_are_tried_again(begin, reference, rng):
    faults = [
        f"resnet8-sam-0000 raised {rng.randrange(5)} 2",
        f"resnet8-zsharp-0002 killed {rng.randrange(5)} 2",
    ]
    search = begin(
        "a trial raises twice, another's worker dies twice", environment={"FAULTS_AT": ",".join(faults)}
    )
    search.row.times = 4
    search.begin(*ONE_SLOT)
    assert search.end(200) == 0, search.printed
    search.check(reference, in_flight=4)
    with Ledger.open(search.folder, read_only=True) as ledger:
        retries = {one["trial_id"]: one["retries"] for one in ledger.trials() if one["retries"]}
    assert retries == {"resnet8-sam-0000": 2, "resnet8-zsharp-0002": 2}


def test_what_cannot_be_cured_is_a_row_and_never_the_end_of_the_search(begin, rng):
    skip = rng.randrange(5)
    faults = [
        f"resnet8-zsharp-0000 killed {skip} 5",
        f"resnet8-sam-0000 out-of-memory {skip} 9",
        "resnet8-sam-0003 raised 0 99",
    ]
    search = begin("a worker dies 5 times; OOM; raises always", environment={"FAULTS_AT": ",".join(faults)})
    search.row.times = 12
    search.begin(*ONE_SLOT, "failures.max_retries=5")
    assert search.end(240) == 0, search.printed
    search.check(failed={"resnet8-sam-0000", "resnet8-sam-0003"}, in_flight=12)
    with Ledger.open(search.folder, read_only=True) as ledger:
        trials = {one["trial_id"]: one for one in ledger.trials()}
    assert trials["resnet8-zsharp-0000"]["retries"] == 5
    assert trials["resnet8-sam-0000"]["retries"] == 0
    assert trials["resnet8-sam-0000"]["stop_reason"] == "out of GPU memory"
    assert trials["resnet8-sam-0003"]["retries"] == 5
    assert trials["resnet8-sam-0003"]["error"].splitlines()[-1] == "RuntimeError: the data are gone"


# --- disks


@contextmanager
def small_disk(folder):
    """Mounts a disk of 24 MB on a folder; skips where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Leaves no room on the disk of a folder; returns the file that takes it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


@pytest.mark.parametrize("full", ["ledger", "checkpoints", "both"])
def test_a_full_disk_ends_the_session_and_costs_nothing(begin, reference, rng, full):
    search = begin(f"disk full: {full}")
    checkpoints = search.folder / "checkpoints"
    with small_disk(search.folder) if full != "checkpoints" else nullcontext():
        search.begin(*ONE_SLOT)
        while not search.folder.joinpath("ledger.sqlite").exists():
            time.sleep(0.02)
        with small_disk(checkpoints) if full != "both" else nullcontext():
            assert search.wait_for(*moment(rng, NUM_REPORTS // 2))
            search.look()
            ballast = fill(checkpoints if full == "checkpoints" else search.folder)
            assert search.end() == 1, search.printed
            assert "disk is full" in search.printed
            assert "Traceback" not in search.printed
            assert f"tune-jobs resume {search.folder}" in search.printed
            ballast.unlink(missing_ok=True)  # the session cleans up its checkpoints
            search.finish().check(reference)
            search.give_up()


# --- what is found in the folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory, home, reference):
    """A search whose driver was killed in the middle of a trial; tests damage copies of it."""
    search = Search(tmp_path_factory.mktemp("killed") / "search", Row("killed")).begin(*ONE_SLOT)
    assert search.wait_for(21)
    search.kill()
    return search


@pytest.fixture
def copy(begin, killed):
    def make(fault):
        search = begin(fault)
        search.folder.parent.mkdir(parents=True)
        shutil.copytree(killed.folder, search.folder)
        shutil.copy(killed.epoch_log, search.epoch_log)
        search.look()
        return search

    return make


def unfinished(search):
    """The checkpoint of the trial that was running."""
    with Ledger.open(search.folder, read_only=True) as ledger:
        (trial,) = [one["trial_id"] for one in ledger.trials() if one["status"] is None]
    return search.folder / "checkpoints" / f"{trial}.pt"


def damage(file, rng):
    content = bytearray(file.read_bytes())
    for at in rng.sample(range(len(content)), 100):
        content[at] ^= 0xFF
    file.write_bytes(content)


def truncate(file, rng):
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])
    file.with_name(f"{file.name}.4711.tmp").write_bytes(b"half")


def remove(file, rng):
    file.unlink()


def replace(file, rng):
    others = [path for path in sorted(file.parent.iterdir()) if path != file]
    shutil.copy(rng.choice(others), file)


@pytest.mark.parametrize("harm", [damage, truncate, remove, replace], ids=lambda one: one.__name__)
def test_a_checkpoint_that_cannot_be_used_costs_its_trial_s_epochs(copy, reference, rng, harm):
    search = copy(f"{harm.__name__} a checkpoint")
    harm(unfinished(search), rng)
    search.finish().check(reference, in_flight=6)


def test_everything_but_the_ledger_is_made_again(copy, reference, rng):
    search = copy("job.yaml foreign, Parquet and journal gone")
    search.row.times = 3
    (search.folder / "job.yaml").write_text("name: another\nseed: [")
    shutil.rmtree(search.folder / "parquet", ignore_errors=True)
    (search.folder / "optuna.journal").unlink()
    search.finish().check(reference)
    assert "name: digits" in (search.folder / "job.yaml").read_text()


def test_a_ledger_that_cannot_be_used_is_refused_before_anything_starts(copy, rng):
    search = copy("ledger truncated, empty, of another version")
    file = search.folder / "ledger.sqlite"
    with Ledger.open(search.folder):
        pass  # closing leaves one file
    whole = file.read_bytes()
    with sqlite3.connect(search.folder.parent / "foreign") as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    newer = bytearray(whole)
    newer[60:64] = (99).to_bytes(4, "big")  # user_version, in SQLite's header
    foreign = (search.folder.parent / "foreign").read_bytes()
    cases = {
        "truncated": whole[: rng.randrange(4096, len(whole))],
        "a file of 0 bytes": b"",
        "version 99": bytes(newer),
        "not a ledger": foreign,
    }
    search.row.times = len(cases)
    for message, content in cases.items():
        file.write_bytes(content)
        search.resume()
        assert search.driver.wait(60) == 2, (message, search.printed)
        assert message in search.printed
        assert file.read_bytes() == content
        assert not psutil.Process().children(recursive=True), "Ray was started"
    file.write_bytes(whole)
    search.row.recovered_s.clear()
