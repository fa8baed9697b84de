"""What the driver costs as a search grows: time of a report and of a suggestion, and memory.

    python benchmarks/scale.py [--trials 1000 10000] [--slots 8 64 256] [--samplers random tpe] [--out FILE]

The real searcher, scheduler, recorder, ledger and Optuna journal are driven the way Ray Tune drives them, by trials
that only report: made-up accuracies, 27 epochs at most. Ray's own event loop and its workers are left out, so the
figures are ours and Optuna's. A search has one study, the worst case for the sampler. `report` is everything that
happens on a report (judge, record, tell Optuna), `suggest` everything for the next trial. Growth is the time of the
last tenth over that of the first: about 1 where it does not grow; `n log n` in all allows about 1.3 for 10,000.
"""

import argparse
import heapq
import json
import math
import os
import platform
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tune_jobs.job.load import load_job
from tune_jobs.ledger.writer import Ledger
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.optuna_journal import new_journal
from tune_jobs.search.recorder import Recorder
from tune_jobs.search.scheduler import JobASHA
from tune_jobs.search.searcher import JobSearch

EPOCHS = 27
TARGET_REPORT_MS = 5.0


def search(folder: Path, num_trials: int, num_slots: int, sampler: str) -> dict[str, float]:
    """Runs one search and returns its figures."""
    job = load_job(
        "cifar10",
        [
            "architectures=[resnet20]",
            "methods=[zsharp]",
            f"train.epochs={EPOCHS}",
            "asha.grace_epochs=3",
            f"search.num_trials={num_trials}",
            f"search.sampler={sampler}",
        ],
    )
    rng = random.Random(0)
    report_s: list[float] = []
    suggest_s: list[float] = []
    with Ledger.create(folder, job.model_dump(mode="json"), {}) as ledger, new_journal(folder) as journal:
        recorder = Recorder(job, ledger, SearchFolder(folder))
        searcher = JobSearch(job, recorder, journal)
        scheduler = JobASHA(recorder, searcher)
        arrivals: list[tuple[float, str, int]] = []
        began, final = 0, {}

        def start(now: float) -> None:
            nonlocal began
            ray_id = f"ray{began}"
            at = time.perf_counter()
            config = searcher.suggest(ray_id)
            suggest_s.append(time.perf_counter() - at)
            if config is not None and config != Searcher.FINISHED:
                began += 1
                off = (math.log10(config["params"]["lr"]) + 2.5) ** 2
                final[ray_id] = 0.9 * math.exp(-off) + rng.gauss(0, 0.01)
                heapq.heappush(arrivals, (now + rng.uniform(0.9, 1.1), ray_id, 1))

        for _ in range(min(num_slots, num_trials)):
            start(0.0)
        while arrivals:
            now, ray_id, epoch = heapq.heappop(arrivals)
            row = {
                "epoch": epoch,
                "val_accuracy": max(0.0, final[ray_id] * (1 - 0.8**epoch)),
                "val_loss": 1.0,
                "diverged": 0,
                "gradient_evaluations": 782 * epoch,
                "train_s": 10.0 * epoch,
            }
            at = time.perf_counter()
            decision = scheduler.on_trial_result(None, SimpleNamespace(trial_id=ray_id), row)
            if decision == TrialScheduler.STOP:
                searcher.on_trial_complete(ray_id, row)
            report_s.append(time.perf_counter() - at)
            if decision == TrialScheduler.STOP:
                if began < num_trials:
                    start(now)
            else:
                heapq.heappush(arrivals, (now + rng.uniform(0.9, 1.1), ray_id, epoch + 1))
    tenth_of = lambda values: max(1, len(values) // 10)  # noqa: E731
    return {
        "trials": num_trials,
        "slots": num_slots,
        "sampler": sampler,
        "reports": len(report_s),
        "report_ms_mean": 1e3 * statistics.mean(report_s),
        "report_ms_p99": 1e3 * statistics.quantiles(report_s, n=100)[98],
        "report_growth": statistics.median(report_s[-tenth_of(report_s) :])
        / statistics.median(report_s[: tenth_of(report_s)]),
        "suggest_ms_mean": 1e3 * statistics.mean(suggest_s),
        "suggest_ms_last_tenth": 1e3 * statistics.mean(suggest_s[-tenth_of(suggest_s) :]),
        "driver_ms_per_report": 1e3 * (sum(report_s) + sum(suggest_s)) / len(report_s),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Prints a line for each search and writes all of them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--slots", type=int, nargs="+", default=[8, 64, 256])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows = []
    for sampler in options.samplers:
        for num_trials in options.trials:
            for num_slots in options.slots:
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(search(Path(folder) / "search", num_trials, num_slots, sampler))
                print(json.dumps({name: _short(value) for name, value in rows[-1].items()}), flush=True)
    figures = {
        "searches": rows,
        "target_report_ms": TARGET_REPORT_MS,
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.machine(),
            "python": platform.python_version(),
        },
    }
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
