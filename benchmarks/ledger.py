"""What the record costs: writing one report, exporting all of them, and taking them up again on `resume`.

    python benchmarks/ledger.py [--trials 1000] [--epochs 200] [--out FILE]

Reports go through the real recorder (stopping rule, ledger, budget), several trials at a time as slots would send
them. The time of one report is compared with that of one SQLite commit of the same size on the same disk, so that the
ratio says what is ours.
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from tune_jobs.job.load import load_job
from tune_jobs.ledger.rows import METRICS
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.write import export
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.recorder import Recorder
from tune_jobs.stopping.replay import replay

SLOTS = 8
TARGETS = {"report_ms": 2.0, "export_s": 10.0}


def row(epoch: int, accuracy: float) -> dict[str, float | int | str | None]:
    """Returns a report as a worker sends it."""
    numbers = {name: 0.123456789 + epoch for name, kind in METRICS.items() if kind is float}
    counts = {name: 391 * epoch for name, kind in METRICS.items() if kind is int}
    texts = {"device": "NVIDIA H200", "node": "10.0.0.1", "gpu_ids": "3"}
    return {**numbers, **counts, **texts, "epoch": epoch, "val_accuracy": accuracy, "diverged": 0}


def write(folder: Path, num_trials: int, num_epochs: int) -> list[float]:
    """Writes a search and returns the seconds that each report took."""
    job = load_job(
        "cifar10",
        [
            f"train.epochs={num_epochs}",
            "architectures=[resnet20]",
            "methods=[zsharp]",
            f"search.num_trials={num_trials}",
            "asha.enabled=false",
        ],
    )
    (study,) = job.studies()
    seconds = []
    with Ledger.create(folder, job.model_dump(mode="json"), {}) as ledger:
        recorder = Recorder(job, ledger, SearchFolder(folder))
        for first in range(0, num_trials, SLOTS):
            together = range(first, min(first + SLOTS, num_trials))
            for number in together:
                params = {"q_p": 0.9, "rho": 0.05, "lr": 0.001}
                recorder.start_trial(f"ray{number}", study, number, params)
            for epoch in range(1, num_epochs + 1):
                for number in together:
                    began = time.perf_counter()
                    recorder.report(f"ray{number}", row(epoch, (number % 97) / 100 + epoch / 1e4))
                    seconds.append(time.perf_counter() - began)
    return seconds


def commit_s(folder: Path, num_commits: int = 500) -> float:
    """Returns the seconds of one bare commit of a report's size, synced as the ledger's are."""
    connection = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE reports (seq INTEGER PRIMARY KEY, metrics TEXT)")
    text = json.dumps(row(1, 0.5))
    seconds = []
    for _ in range(num_commits):
        began = time.perf_counter()
        connection.execute("INSERT INTO reports (metrics) VALUES (?)", (text,))
        seconds.append(time.perf_counter() - began)
    connection.close()
    return statistics.median(seconds)


def main() -> None:
    """Prints the figures and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "search"
        before_s = commit_s(Path(scratch))
        seconds = write(folder, options.trials, options.epochs)
        tenth = max(1, len(seconds) // 10)
        began = time.perf_counter()
        export(folder)
        export_s = time.perf_counter() - began
        began = time.perf_counter()
        with Ledger.open(folder) as ledger:
            recorder = Recorder(load_job(str(_job_file(folder, ledger))), ledger, SearchFolder(folder))
            take_up_s = time.perf_counter() - began
            began = time.perf_counter()
            differences = replay(
                [(0, recorder.rungs["resnet20-zsharp"].rule)], ledger.trials(), ledger.reports()
            )
            replay_s = time.perf_counter() - began
        size = (folder / "ledger.sqlite").stat().st_size
    figures = {
        "trials": options.trials,
        "epochs": options.epochs,
        "reports": len(seconds),
        "report_ms": {
            "mean": 1e3 * statistics.mean(seconds),
            "median": 1e3 * statistics.median(seconds),
            "p99": 1e3 * statistics.quantiles(seconds, n=100)[98],
            "last_tenth_over_first": statistics.median(seconds[-tenth:]) / statistics.median(seconds[:tenth]),
            "over_bare_commit": statistics.median(seconds) / before_s,
        },
        "export_s": export_s,
        "take_up_s": take_up_s,
        "replay_s": replay_s,
        "differences": len(differences),
        "bytes_per_report": size / len(seconds),
        "targets": TARGETS,
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.machine(),
            "python": platform.python_version(),
        },
    }
    print(json.dumps(figures, indent=2))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def _job_file(folder: Path, ledger: Ledger) -> Path:
    file = folder / "job.json"
    file.write_text(json.dumps(ledger.job))  # JSON is YAML
    return file


if __name__ == "__main__":
    main()
