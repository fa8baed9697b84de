"""A ledger that grows step by step, and what each tracker shows of it, read by the tracker's own reader."""

from collections import defaultdict
from pathlib import Path

from tune_jobs.ledger.rows import Decision
from tune_jobs.ledger.writer import Ledger

EPOCHS = 6
SHOWN = ("val_accuracy", "gradient_evaluations", "metric.margin")


def grow(folder, num_steps, *, num_trials=4, track=None, end=True):
    """Records so many reports, trial after trial, from where the ledger is; at its end the trials' and the search's.

    The second trial is pruned after 3 epochs, the third is retried and fails after 2.
    """
    is_new = not (folder / "ledger.sqlite").exists()
    job = {
        "name": "grown",
        "metric": "val_accuracy",
        "search": {"num_trials": num_trials},
        "track": track or {},
    }
    made = {"git_commit": "0123abcd", "package_versions": {"torch": "2.12.1"}}
    with Ledger.create(folder, job, made) if is_new else Ledger.open(folder) as ledger:
        if is_new:
            ledger.record_event("start", {"data_checksum": "d1", "code_checksum": "c1"})
        done = ledger.num_reports()
        for number in range(num_trials):
            trial_id = f"mlp-sam-{number:04d}"
            if trial_id not in done:
                ledger.start_trial(
                    trial_id, study="mlp-sam", number=number, dataset="digits", architecture="mlp", method="sam",
                    variant=None, seed=number, params={"rho": 0.05 * (number + 1), "train.schedule": "cosine"},
                    max_epochs=EPOCHS,
                )  # fmt: skip
            for epoch in range(done.get(trial_id, 0) + 1, length(number) + 1):
                if num_steps == 0:
                    return
                num_steps -= 1
                _report(ledger, trial_id, number, epoch)
        if end:
            ledger.record_event("stop", {"reason": None})


def length(number):
    return {1: 3, 2: 2}.get(number, EPOCHS)


def _report(ledger, trial_id, number, epoch):
    metrics = {"val_accuracy": number / 10 + epoch / 100, "train_loss": 1 / epoch, "val_loss": None}
    metrics |= {"gradient_evaluations": 34 * epoch, "metrics": {"margin": -epoch / 8}, "node": "here"}
    if number == 1 and epoch == 3:
        ledger.report(trial_id, epoch, metrics, Decision("stop", 3, 0.5, 4, "below the cutoff"), "pruned")
    elif epoch == EPOCHS:
        ledger.report(trial_id, epoch, metrics, Decision("complete", reason="done"), "completed")
    else:
        ledger.report(trial_id, epoch, metrics, Decision("continue"))
    if number == 2:
        if epoch == 1:
            ledger.retry_trial(trial_id, "RuntimeError: once")
        else:
            ledger.finish_trial(trial_id, "failed", "it raised", error="RuntimeError: twice")


def recorded(folder):
    """What the ledger has: each measure's (step, value) by trial."""
    points = defaultdict(list)
    with Ledger.open(folder, read_only=True) as ledger:
        for report in ledger.iter_reports():
            values = {**report, "metric.margin": report["metrics"].get("margin")}
            for name in SHOWN:
                if values[name] is not None:
                    points[report["trial_id"], name].append((report["epoch"], round(values[name], 6)))
        statuses = {trial["trial_id"]: trial["status"] or "running" for trial in ledger.trials()}
    return dict(points), statuses


def in_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points, statuses = {}, {}
    for events in sorted(Path(folder, "tensorboard").glob("*-*")):
        # Its own rule against doubled steps is off: whatever is in the files is to be seen.
        shown = EventAccumulator(
            str(events), size_guidance={"scalars": 0, "tensors": 0}, purge_orphaned_data=False
        )
        shown.Reload()
        for name in SHOWN:
            if name in shown.Tags()["scalars"]:
                points[events.name, name] = [(e.step, round(e.value, 6)) for e in shown.Scalars(name)]
        texts = [name for name in shown.Tags()["tensors"] if name.startswith("status")]
        status = shown.Tensors(texts[0])[-1].tensor_proto.string_val[0].decode() if texts else "running"
        statuses[events.name] = status
    return points, statuses


def in_mlflow(uri, experiment="grown"):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    points, statuses = {}, {}
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id])
    parents = [run for run in runs if "tune_jobs.trial" not in run.data.tags]
    assert len(parents) == 1
    for run in runs:
        trial = run.data.tags.get("tune_jobs.trial")
        if trial is None:
            continue
        assert trial not in statuses, "two runs of one trial"
        assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        statuses[trial] = run.data.tags.get("status", "running")
        for name in SHOWN:
            history = client.get_metric_history(run.info.run_id, name)
            if history:
                points[trial, name] = sorted((m.step, round(m.value, 6)) for m in history)
    return points, statuses, parents[0]


def in_wandb(folder):
    """Reads the files of offline runs; a trial has one, or the two would double its steps when they are sent."""
    import json

    from wandb.proto import wandb_internal_pb2

    points, statuses = {}, {}
    for file in sorted(Path(folder, "wandb").glob("offline-run-*/*.wandb")):
        trial, rows, status = None, [], "running"
        for data in _pieces(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.run.job_type == "trial":
                trial = record.run.display_name
            if record.history.item:
                items = {
                    (i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item
                }
                rows.append(items)
            for item in record.summary.update:
                if (item.key or "/".join(item.nested_key)) == "status":
                    status = json.loads(item.value_json)
        if trial is None:
            continue
        assert trial not in statuses, "two runs of one trial"
        statuses[trial] = status
        for name in SHOWN:
            if any(name in row for row in rows):
                points[trial, name] = [(row["_step"], round(row[name], 6)) for row in rows if name in row]
    return points, statuses


def _pieces(data):
    """The records of a file of an offline run, which is a log of LevelDB: blocks of 32 KiB with pieces of records."""
    at, record = 7, b""  # after the file's own header
    while at + 7 <= len(data):
        if (left := -at % 32768) and left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""
