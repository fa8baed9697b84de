"""Measures what a search costs beyond training: per trial on a warm worker, and in wall time against the ideal.

Run `python benchmarks/search_overhead.py` on a machine that does nothing else; it takes about five minutes. All
figures come from one Ray and one process, on the CPU, one thread a trial.

Start-up of a trial. A job of one-epoch trials on a few images runs on one slot with one warm worker. Between the last
reports of two trials that follow each other lies one cycle: the driver judges and records the report, tells the
sampler, asks it for the next configuration, resets the worker, which builds model and optimizer, trains one epoch,
validates and reports. The cost is the cycle without the training: `cycle - epoch_s`, and of that the worker's share
is `wall_s - epoch_s` (building the model, and validating on twenty images, which is not taken off). On all slots it is
`(slots x time - sum of epoch_s) / trials`. The first trial of each worker, which starts cold, is left out.

Start and end of a command. `tune-jobs run digits` with two trials of three epochs runs as a command, in turn with a
script that does as little with Ray Tune as one can: two trials at once that import torch and report once. The first
is timed from the command to its first report, and from its last report to the end; the second to its first report.
Most of the first report's time is Ray's own start and torch's import, in the driver and in each worker, so the ratio
of the two says what is ours.

Wall time. The `digits` preset runs on all cores. Its ideal is `sum over trials of (epochs run x solo seconds per epoch
of its study) / slots`, where solo seconds are those of `zsharp.training` with no tuner, training and validation, taken
before and after each search: once with the machine otherwise idle (`alone`), once with the same load on every other
core (`crowded`). The target holds for `crowded`, since cores that share caches and clocks are slower together whoever
keeps them busy. `search` runs from the first step of the first trial to the last Parquet file; `all` also has the
start of Ray, of the workers, and all checks. The share of their time that slots spent in a trial (`wall_s` of all
trials, from building the model to the last validation) is given too: other programs disturb it little. They disturb
the rest, so the share of a core that the solo processes had is measured: below 95 %, something else ran, and the
wall times mean little.
"""

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from tune_jobs.cluster import ray as cluster
from tune_jobs.job.load import load_job
from tune_jobs.job.spec import JobSpec
from tune_jobs.ledger.writer import Ledger
from tune_jobs.provenance import provenance
from tune_jobs.search.run import run
from zsharp.training import Training

TARGET_START_S, TARGET_WALL = 0.2, 1.25
TARGET_FIRST_REPORT_S, TARGET_PROMPT_S = 7.0, 2.0
BARE_RAY_TUNE = """
import time
from ray import tune

def train(config):
    import torch
    torch.set_num_threads(1)
    tune.report({"loss": float(torch.ones(1)), "at": time.time()})

tuner = tune.Tuner(train, param_space={"x": tune.grid_search([0, 1])}, run_config=tune.RunConfig(verbose=0))
print(min(result.metrics["at"] for result in tuner.fit()))
"""
NUM_SOLO_EPOCHS = 4
QUIET_SHARE = 0.95
_SHARE = "share of a core"
FIRST_POINT = {"q_p": 0.95, "rho": 0.05, "lr": 1e-3}


def main() -> None:
    """Runs all parts, prints a line each and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=40, help="trials of each start-up measurement")
    parser.add_argument("--repeats", type=int, default=1, help="searches of the digits preset")
    parser.add_argument("--commands", type=int, default=3, help="commands timed from start to end")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/search_overhead-cpu.json")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    totals = cluster.local_totals()
    slots = int(totals.cpus)
    known = provenance(())
    versions = {name: known["package_versions"].get(name) for name in ("torch", "ray", "optuna")}
    cpu, named = (
        known["hardware"]["cpu_model"],
        ", ".join(f"{name} {found}" for name, found in versions.items()),
    )
    print(
        f"{cpu}, {slots} cores, a slot of one thread on each; {named}; load average before {load_before:.2f}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        commands = _commands(Path(scratch), arguments.commands)
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    began = time.perf_counter()
    cluster.start_local(totals, 1)
    ray_s = time.perf_counter() - began
    print(f"start of Ray: {ray_s:.1f} s")
    with tempfile.TemporaryDirectory() as scratch:
        startup = [_startup(Path(scratch), arguments.trials, count) for count in sorted({1, slots})]
        wall = _wall(Path(scratch), arguments.repeats, slots, ray_s)
    result = {
        "benchmark": "search_overhead",
        "hardware": known["hardware"],
        "package_versions": known["package_versions"],
        "git_commit": known["git_commit"],
        "num_slots": slots,
        "num_threads": 1,
        "load_average_before": load_before,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commands": commands,
        "ray_start_s": ray_s,
        "startup": startup,
        "wall": wall,
    }
    out = arguments.out or Path(__file__).parent / "results" / "search_overhead-cpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


def _commands(scratch: Path, repeats: int) -> dict[str, list[float]]:
    """Times `tune-jobs run` and bare Ray Tune in turn, each as a process of its own."""
    sets = [
        "search.num_trials=2", "train.epochs=3", "architectures=[resnet8]", "methods=[sam]", "asha.enabled=false",
        "resources.max_concurrent=2",
    ]  # fmt: skip
    seconds: dict[str, list[float]] = {"first_report_s": [], "prompt_s": [], "bare_first_report_s": []}
    for repeat in range(repeats):
        folder = scratch / f"command-{repeat}"
        options = [word for item in sets for word in ("--set", item)]
        start = time.time()
        subprocess.run(
            [sys.executable, "-m", "tune_jobs", "run", "digits", "--out", folder, *options],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        end = time.time()
        reported = [row["reported_at"].timestamp() for row in _reports(folder)]
        seconds["first_report_s"].append(min(reported) - start)
        seconds["prompt_s"].append(end - max(reported))
        start = time.time()
        bare = subprocess.run(
            [sys.executable, "-c", BARE_RAY_TUNE],
            check=True,
            capture_output=True,
            text=True,
            cwd=scratch,
            env={**os.environ, "HOME": str(scratch)},
        )
        seconds["bare_first_report_s"].append(float(bare.stdout.split()[-1]) - start)
    first, bare_first = (
        statistics.median(seconds[name]) for name in ("first_report_s", "bare_first_report_s")
    )
    print(
        f"from the command to the first report: {_summary(seconds['first_report_s'])} s; n = {repeats}; "
        f"target {TARGET_FIRST_REPORT_S:g} s {_verdict(first, TARGET_FIRST_REPORT_S)}; "
        f"bare Ray Tune {_summary(seconds['bare_first_report_s'])} s; ratio {first / bare_first:.2f}"
    )
    print(
        f"from the last report to the prompt: {_summary(seconds['prompt_s'])} s; n = {repeats}; "
        f"target {TARGET_PROMPT_S:g} s {_verdict(statistics.median(seconds['prompt_s']), TARGET_PROMPT_S)}"
    )
    return seconds


def _startup(scratch: Path, num_trials: int, slots: int) -> dict[str, Any]:
    sets = [
        "architectures=[resnet8]", "methods=[zsharp]", "train.epochs=1", "train.warmup_epochs=0", "train.batch_size=40",
        "data.max_images=100", "asha.enabled=false", "resources.device=cpu",
        f"search.num_trials={num_trials + slots}", f"resources.max_concurrent={slots}",
    ]  # fmt: skip
    folder = scratch / f"startup-{slots}"
    run(load_job("digits", sets), folder)
    rows = _reports(folder)
    is_cold = [int(row["trial_id"].rpartition("-")[2]) < slots for row in rows]
    last_cold = max(i for i, cold in enumerate(is_cold) if cold)
    warm = rows[last_cold:]
    ends = [row["reported_at"].timestamp() for row in warm]
    trained, worker = warm[1:], [row["wall_s"] - row["epoch_s"] for row in warm[1:]]
    mean = (slots * (ends[-1] - ends[0]) - sum(row["epoch_s"] for row in trained)) / len(trained)
    case: dict[str, Any] = {"slots": slots, "n": len(trained), "mean_s": mean, "worker_s": worker}
    text = f"mean {mean:.3f} s"
    if slots == 1:
        pairs = zip(ends, ends[1:], trained, strict=False)
        case["cost_s"] = [end - start - row["epoch_s"] for start, end, row in pairs]
        text += f", {_summary(case['cost_s'])}"
    print(
        f"start-up of a trial, {slots} at once: {text}, of which in the worker {_summary(worker)}; n = {len(trained)}; "
        f"target {TARGET_START_S:g} s {_verdict(mean, TARGET_START_S)}"
    )
    return {**case, "target_s": TARGET_START_S}


def _wall(scratch: Path, repeats: int, slots: int, ray_s: float) -> dict[str, Any]:
    job = load_job("digits", ["resources.device=cpu"])
    solo = [_solo(job, slots)]
    runs = []
    for repeat in range(repeats):
        folder = scratch / f"wall-{repeat}"
        began, began_at = time.perf_counter(), time.time()
        run(job, folder)
        run_s = time.perf_counter() - began
        rows = _reports(folder)
        solo.append(_solo(job, slots))
        ideal = {crowd: _ideal_s(rows, solo[-2:], crowd) / slots for crowd in ("alone", "crowded")}
        first_step_at = min(
            row["reported_at"].timestamp() - row["wall_s"] for row in rows if row["epoch"] == 1
        )
        wall = {"search": began_at + run_s - first_step_at, "all": ray_s + run_s}
        ratios = {f"{what} / ideal {crowd}": wall[what] / ideal[crowd] for what in wall for crowd in ideal}
        in_trials_s = {row["trial_id"]: row["wall_s"] for row in rows}  # the last row of each
        last_report_at = max(row["reported_at"].timestamp() for row in rows)
        busy = sum(in_trials_s.values()) / (slots * (last_report_at - first_step_at))
        num_trials = len(in_trials_s)
        runs.append(
            {
                "epochs": len(rows),
                "trials": num_trials,
                "wall_s": wall,
                "ideal_s": ideal,
                "ratios": ratios,
                "slots_busy_fraction": busy,
            }
        )
        print(
            f"digits, run {repeat + 1}: {num_trials} trials, {len(rows)} epochs, "
            f"{ideal['alone'] * slots / num_trials:.1f} s a trial alone; search {wall['search']:.1f} s, "
            f"all {wall['all']:.1f} s, ideal {ideal['alone']:.1f} s alone, {ideal['crowded']:.1f} s crowded; "
            f"slots were in a trial {busy:.1%} of the time"
        )
    for name in runs[0]["ratios"]:
        values = [one["ratios"][name] for one in runs]
        target = f"; target {TARGET_WALL:g} {_verdict(statistics.median(values), TARGET_WALL)}"
        print(f"{name}: {_summary(values)}; n = {len(values)}{target if name.endswith('crowded') else ''}")
    share = min(one[crowd].pop(_SHARE)[0] for one in solo for crowd in one)
    quiet = (
        "quiet" if share >= QUIET_SHARE else "NOT QUIET: something else ran, and the wall times mean little"
    )
    print(f"solo processes had at least {share:.0%} of a core: {quiet}")
    return {
        "runs": runs,
        "solo_epoch_s": solo,
        "least_core_share": share,
        "is_quiet": share >= QUIET_SHARE,
        "target_ratio": TARGET_WALL,
    }


def _ideal_s(rows: Sequence[dict[str, Any]], solo: Sequence[dict[str, Any]], crowd: str) -> float:
    """Returns the seconds that all epochs of a search would take one after the other."""
    epoch_s = {
        study: statistics.median(seconds for one in solo for seconds in one[crowd][study])
        for study in solo[0][crowd]
    }
    return sum(epoch_s[row["trial_id"].rpartition("-")[0]] for row in rows)


def _solo(job: JobSpec, slots: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of epochs of each study, with one process and with one on each core at the same time."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[str, list[float]]] = {}
    for crowd, num_processes in (("alone", 1), ("crowded", slots)):
        barrier, answers = context.Barrier(num_processes), context.Queue()
        processes = [
            context.Process(target=_time_epochs, args=(job.model_dump(mode="json"), barrier, answers))
            for _ in range(num_processes)
        ]
        for process in processes:
            process.start()
        given = [answers.get(timeout=300) for _ in processes]
        for process in processes:
            process.join()
        found[crowd] = {study: [s for one in given for s in one[study]] for study in given[0]}
        found[crowd][_SHARE] = [min(found[crowd][_SHARE])]
    return found


def _time_epochs(job_values: dict[str, Any], barrier: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    job = JobSpec.model_validate(job_values)
    seconds: dict[str, list[float]] = {}
    used_s = wall_s = 0.0
    for study in job.studies():
        training = Training(job.trial_spec(study, {name: FIRST_POINT[name] for name in study.parameters}))
        training.run_epoch()  # warm-up
        barrier.wait()
        seconds[study.name] = []
        used_before = time.process_time()
        for _ in range(NUM_SOLO_EPOCHS):
            began = time.perf_counter()
            training.run_epoch()
            seconds[study.name].append(time.perf_counter() - began)
        used_s += time.process_time() - used_before
        wall_s += sum(seconds[study.name])
        barrier.wait()
    answers.put({**seconds, _SHARE: [used_s / wall_s]})


def _reports(folder: Path) -> list[dict[str, Any]]:
    with Ledger.open(folder, read_only=True) as ledger:
        return ledger.reports()


def _summary(values: Sequence[float]) -> str:
    return f"median {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _verdict(value: float, target: float) -> str:
    return "met" if value <= target else "MISSED"


if __name__ == "__main__":
    main()
