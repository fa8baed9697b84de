"""How trials that start from a trunk rank configurations, against training each in full, and what both cost.

    python benchmarks/late_phase.py FOLDER [--configurations 12] [--out FILE]

FOLDER has images as Parquet files, such as CIFAR-10; 2,000 of them are used, a fifth of which for validation. Random
configurations of base, SAM and ZSharp train ResNet-8 twice: from the trunk that `init.trunk` describes, and in full
with the same seed. Agreement is Kendall's tau-b of their last validation accuracies and losses; its interval resamples
the configurations (percentile bootstrap). Costs are gradient evaluations, the trunk's counted once.

Everything is one seed on one data set: the interval tells what other configurations would have given, not other seeds.
Results are written after each configuration, and a run that was stopped continues there. It takes about ten minutes of
one core that does nothing else.
"""

import argparse
import json
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tune_jobs.job.load import load_job
from tune_jobs.provenance import provenance
from zsharp.atomic import atomic_write
from zsharp.training import Training

OUT = Path(__file__).parent / "results" / "late_phase.json"
JOB = {
    "name": "late_phase",
    "data": {"name": "parquet", "max_images": 2000, "val_fraction": 0.2},
    "architectures": ["resnet8"],
    "methods": ["base", "sam", "zsharp"],
    "train": {"epochs": 16, "batch_size": 64, "base_optimizer": "adamw", "warmup_epochs": 1},
    "init": {"trunk": {"fraction": 0.75, "params": {"lr": 3.0e-3}}},
    "space": {
        "q_p": {"uniform": [0.5, 0.99]},
        "rho": {"loguniform": [0.01, 0.5]},
        "lr": {"loguniform": [5.0e-4, 2.0e-2]},
    },
    "search": {"num_trials": 1},
    "resources": {"device": "cpu"},
}
MEASURED = ("val_accuracy", "val_loss", "gradient_evaluations")
NUM_RESAMPLES = 9_999


def main() -> None:
    """Trains what FILE lacks, writes it, and prints the agreement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--configurations", type=int, default=12, help="a third of each method")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    job = load_job(JOB, [f"data.root={json.dumps(options.folder)}"])
    studies, (trunk,) = job.studies(), job.trunks()
    record: dict[str, Any] = {"job": JOB, "trunk": None, "configurations": [], **provenance()}
    if options.out.exists():
        record = json.loads(options.out.read_text(encoding="utf-8"))
        assert record["job"] == JOB, f"{options.out} has other settings: give another --out"
    rows = record["configurations"]
    of_trunk = job.trial_spec(trunk, {})
    training = Training(of_trunk)
    data = training.data
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "trunk.pt"
        if len(rows) < options.configurations:
            record["trunk"] = _train(training, job.fork_epoch)
            training.save(checkpoint)
        for number in range(len(rows), options.configurations):
            study = studies[number % len(studies)]
            params = {name: _draw(number, name) for name in study.parameters}
            spec = job.trial_spec(study, params)
            fork = Training(spec, data)
            fork.load(checkpoint, of_trunk)
            rows.append(
                {
                    "method": study.method,
                    "params": params,
                    "fork": _train(fork, spec.train.epochs),
                    "full": _train(Training(spec, data), spec.train.epochs),
                }
            )
            if len(rows) > 2:
                _write(record, options.out)
            print(json.dumps(rows[-1]), flush=True)
    _write(record, options.out)
    print(*record["text"], sep="\n")


def _write(record: dict[str, Any], out: Path) -> None:
    record["summary"] = summarize(record["trunk"], record["configurations"])
    record["text"] = sentences(record)
    with atomic_write(out) as unfinished:
        unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _train(training: Training, epochs: int) -> dict[str, float]:
    while training.epoch < epochs:
        row = training.run_epoch()
    return {name: row[name] for name in MEASURED}  # type: ignore[literal-required]


def _draw(number: int, name: str) -> float:
    """Returns a configuration's value of a parameter, which depends on nothing but the two."""
    ((kind, (low, high)),) = JOB["space"][name].items()
    draw = random.Random(f"{number}/{name}").uniform
    return draw(low, high) if kind == "uniform" else math.exp(draw(math.log(low), math.log(high)))


def summarize(trunk: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns costs, the agreement of each measure with its interval, and what choosing by forks would have lost."""
    ways = {
        way: {name: np.array([row[way][name] for row in rows]) for name in MEASURED}
        for way in ("fork", "full")
    }
    forks, full = ways["fork"], ways["full"]
    accuracy = full["val_accuracy"]
    return {
        "n": len(rows),
        "gradient_evaluations": {
            "forks": int(trunk["gradient_evaluations"] + forks["gradient_evaluations"].sum()),
            "full": int(full["gradient_evaluations"].sum()),
        },
        "tau": {name: _tau(forks[name], full[name]) for name in ("val_accuracy", "val_loss")},
        "best_accuracy": float(accuracy.max()),
        "accuracy_of_forks_choice": float(accuracy[forks["val_accuracy"].argmax()]),
        "sd_of_accuracies": float(accuracy.std()),
    }


def _tau(forks: np.ndarray, full: np.ndarray) -> dict[str, float | None]:
    # Signs of all pairs: a resample's are those of the configurations that it drew.
    first, second = (np.sign(values[:, None] - values[None, :]) for values in (forks, full))
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(full), size=(NUM_RESAMPLES, len(full)))
    pairs = drawn[:, :, None], drawn[:, None, :]
    taus = _tau_b(first[pairs], second[pairs])
    low, high = np.nanpercentile(taus, (2.5, 97.5))
    return {"tau": float(_tau_b(first, second)), "low": float(low), "high": float(high)}


def _tau_b(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns Kendall's tau-b from the signs of all pairs, over the last two axes; NaN where all are equal."""
    over = (-2, -1)
    with np.errstate(invalid="ignore"):
        return (first * second).sum(over) / np.sqrt((first**2).sum(over) * (second**2).sum(over))


def sentences(record: Mapping[str, Any]) -> list[str]:
    """Returns what a record tells, in words."""
    found, train, fraction = record["summary"], JOB["train"], JOB["init"]["trunk"]["fraction"]
    cost = found["gradient_evaluations"]
    agreement = [
        f"{numbers['tau']:.2f} ({numbers['low']:.2f} to {numbers['high']:.2f}) by {measure}"
        for measure, numbers in (
            ("accuracy", found["tau"]["val_accuracy"]),
            ("loss", found["tau"]["val_loss"]),
        )
    ]
    versions = record["package_versions"]
    return [
        f"{found['n']} configurations of base, SAM and ZSharp, {train['epochs']} epochs of ResNet-8, "
        f"{JOB['data']['max_images']:,} images of CIFAR-10, forks after {fraction * 100:.0f} %; "
        f"one seed, one thread of {record['hardware']['cpu_model']}, torch {versions['torch']}.",
        f"Gradient evaluations: forks with their trunk {cost['forks']:,}, in full {cost['full']:,} "
        f"({cost['forks'] / cost['full'] * 100:.0f} %).",
        f"Kendall's tau of forks and full training, 95 % interval over configurations: {' and '.join(agreement)}.",
        f"The configuration that forks rank first reaches {found['accuracy_of_forks_choice']:.3f} in full, "
        f"the best one {found['best_accuracy']:.3f}; over configurations the standard deviation is "
        f"{found['sd_of_accuracies']:.3f}.",
    ]


if __name__ == "__main__":
    main()
