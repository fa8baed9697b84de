"""Search folders of any size with the real schema, from generated trials: a report is not worth hours of training."""

import json
import math
import random
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from tune_jobs.job.metric import VAL_ACCURACY
from tune_jobs.results.schema import SCHEMA_VERSION, confirmations_schema, epochs_schema, trials_schema
from tune_jobs.stopping.asha import Rule, Rungs

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PARAMS = {"base": ("lr",), "sam": ("rho", "lr"), "zsharp": ("q_p", "rho", "lr")}
SPACE = {
    "q_p": {"uniform": [0.5, 0.99]},
    "rho": {"loguniform": [0.01, 0.5]},
    "lr": {"loguniform": [0.0003, 0.03]},
}
GAIN = {"base": 0.0, "sam": 0.02, "zsharp": 0.035}


def write_search(
    folder,
    *,
    name="tiny",
    architectures=("resnet8", "vit_tiny"),
    methods=("zsharp", "sam", "base"),
    num_trials=12,
    epochs=9,
    seeds=0,
    running=0,
    places=1,
    error="RuntimeError: no",
    seed=0,
    metric=VAL_ACCURACY,
):
    """Writes the three Parquet files of a search with ASHA; the last `running` trials have not ended.

    Of another metric than the accuracy, values are the accuracies, negative where less is better.
    """
    rng = random.Random(seed)
    trials, reports, confirmations = [], [], []
    for architecture in architectures:
        for method in methods:
            study = f"{architecture}-{method}"
            rungs = Rungs(Rule(epochs, max(1, epochs // 9), 3, metric=metric))
            rows = [
                trial_rows(
                    rng, name, architecture, method, number, rungs, error, number >= num_trials - running
                )
                for number in range(num_trials)
            ]
            trials += [row for row, _ in rows]
            reports += [report for _, mine in rows for report in mine]
            completed = [row for row, _ in rows if row["status"] == "completed"]
            completed.sort(key=lambda row: -metric.sign * metric.of(row))
            for place, winner in enumerate(completed[:places], start=1):
                confirmations += [
                    confirmation(rng, winner, study, place, 1000 + number, metric) for number in range(seeds)
                ]
    for seq, report in enumerate(reports):
        report["seq"] = seq
    job = {
        "name": name,
        "architectures": list(architectures),
        "methods": list(methods),
        "space": SPACE,
        "resources": {"cpus_per_trial": 1.0, "gpus_per_trial": 0.25},
        "train": {"epochs": epochs},
        "metric": metric.name,
        "mode": metric.mode,
    }
    own = [] if metric == VAL_ACCURACY else [metric.name]
    write(folder, "trials", trials_schema((), own), trials, job)
    write(folder, "epochs", epochs_schema(own), reports, job)
    sharpness = [] if own else ["hessian_trace"]
    tested = [metric.test_name] if own else []
    write(folder, "confirmations", confirmations_schema((), sharpness, tested), confirmations, job)
    return folder


def write(folder, name, schema, rows, job):
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "job": json.dumps(job),
        "git_commit": "0123abcd",
        "git_dirty": "false",
        "package_versions": json.dumps({"torch": "2.12.1"}),
        "python_version": "3.12.1",
        "hardware": json.dumps(
            {"cpu_model": "Some CPU", "num_cpus": 2, "memory_bytes": 8 << 30, "gpus": ["H200"]}
        ),
    }
    rows = [{field: row.get(field) for field in schema.names} for row in rows]
    (folder / "parquet").mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata))
    pq.write_table(table, folder / "parquet" / f"{name}.parquet")


def trial_rows(rng, job, architecture, method, number, rungs, error, still_runs):
    """Returns a trial's row and its reports."""
    params = {
        "q_p": rng.uniform(0.5, 0.99),
        "rho": 10 ** rng.uniform(-2, math.log10(0.5)),
        "lr": 10 ** rng.uniform(math.log10(0.0003), math.log10(0.03)),
    }
    params = {param: params[param] for param in PARAMS.get(method, ("lr",))}
    miss = abs(math.log10(params["lr"] / 0.004)) + 0.4 * abs(math.log10(params.get("rho", 0.07) / 0.07))
    top = 0.9 + GAIN.get(method, 0.0) - 0.12 * miss + rng.gauss(0, 0.01)
    trial_id = f"{architecture}-{method}-{number:04d}"
    common = {"job": job, "study": f"{architecture}-{method}", "trial_id": trial_id}
    started = START + timedelta(seconds=40 * number)
    status, reason, reports, metric = None, None, [], rungs.rule.metric
    fails = number % 11 == 7
    for epoch in range(1, rungs.rule.max_epochs + 1):
        accuracy = min(
            0.999, max(0.05, top * (1 - math.exp(-4 * epoch / rungs.rule.max_epochs)) + rng.gauss(0, 0.004))
        )
        value = metric.sign * accuracy
        decision = rungs.judge(trial_id, epoch, None if fails and number % 2 and epoch == 2 else value)
        reports.append(
            common
            | {"epoch": epoch, metric.column: value, "epoch_s": 3.0}
            | {"train_loss": 2 - 2 * accuracy, "val_loss": 2.2 - 2 * accuracy}
            | {"decision": decision.action, "rung": decision.rung, "cutoff": decision.cutoff}
            | {"reason": decision.reason, "num_values": decision.num_values}
            | {"reported_at": started + timedelta(seconds=3 * epoch)}
        )
        status = {"complete": "completed", "stop": "pruned", "diverge": "diverged"}.get(decision.action)
        reason = decision.reason
        if status or (still_runs and epoch == 1):
            break
        if fails and epoch == 1 and not number % 2:
            status, reason = "failed", "raised"
            break
    length = len(reports)
    row = common | {
        "dataset": "digits",
        "architecture": architecture,
        "method": method,
        "variant": "paper",
        "seed": 0,
        "status": status,
        "stop_reason": reason if status else None,
        "epochs_trained": length,
        "max_epochs": rungs.rule.max_epochs,
        metric.column: reports[-1][metric.column],
        "best_val_accuracy": max(r["val_accuracy"] for r in reports) if metric == VAL_ACCURACY else None,
        "val_loss": reports[-1]["val_loss"],
        **{f"param.{param}": value for param, value in params.items()},
        "gradient_evaluations": length * (17 if method == "base" else 34),
        "wall_s": 3.1 * length,
        "train_s": 3.0 * length,
        "device": "cpu",
        "started_at": started,
        "number": number,
        "finished_at": started + timedelta(seconds=3 * length) if status else None,
        "error": error if status == "failed" else None,
        "peak_memory_bytes": 123_000_000,
    }
    return row, reports


def confirmation(rng, winner, study, place, seed, metric=VAL_ACCURACY):
    shared = random.Random(f"{winner['architecture']} {seed}").gauss(0, 0.004)
    accuracy = min(0.999, metric.sign * metric.of(winner) - 0.01 + shared + rng.gauss(0, 0.002))
    return {
        **{name: winner[name] for name in winner if name.startswith("param.")},
        **{
            name: winner[name] for name in ("job", "architecture", "method", "dataset", "variant", "trial_id")
        },
        "study": study,
        "seed": seed,
        "test_accuracy" if metric == VAL_ACCURACY else f"metric.{metric.test_name}": metric.sign * accuracy,
        "val_accuracy": winner.get("val_accuracy"),
        "search_value": metric.of(winner),
        "measured_on": "test",
        "test_loss": 2 - 2 * accuracy,
        "sharpness.hessian_trace": 10 ** (3 - 2 * accuracy + rng.gauss(0, 0.1)),
        "place": place,
        "budget": "epochs",
        "status": "completed",
        "epochs": 9,
        "gradient_evaluations": 300,
        "train_s": 9.0,
        "device": "cpu",
        "started_at": START,
        "finished_at": START + timedelta(seconds=9),
    }
