"""What every column of the Parquet files means; `docs/results_folder.md` is made from it."""

from collections.abc import Iterator, Mapping

import pyarrow as pa

from tune_jobs.results.schema import confirmations_schema, epochs_schema, trials_schema

_WHICH = {
    "job": "name of the job",
    "study": "`ARCHITECTURE-METHOD`",
    "trial_id": "id of the trial, unique in its search",
    "dataset": "data that it was trained on",
    "architecture": "model",
    "method": "optimizer: a row of `tune-jobs list`",
    "variant": "which version of the method: `paper` or `official`",
    "device": "`cpu` or `cuda`",
    "error": "last line of the error; null if there was none",
    "gradient_evaluations": "forward and backward passes over a batch",
    "param.q_p": "percentile below which it dropped components of the gradient; null where it has none",
    "param.rho": "radius of its perturbation; null where it has none",
    "param.lr": "its learning rate",
    "param.NAME": "any other setting of the space: a number, or text where values are names; null where it has none",
    "train_s": "seconds in training",
    "started_at": "when it started, in UTC",
    "finished_at": "when it ended, in UTC",
}

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "trials": {
        **_WHICH,
        "method": "optimizer: a row of `tune-jobs list`; `trunk` of a trunk, which no method is compared with",
        "seed": "seed of its training (`train.seed` of the job, counted up with `search.repeats`)",
        "status": "`completed`, `pruned` (stopped by ASHA), `diverged`, `failed`, `interrupted`; null while it runs",
        "stop_reason": "why it ended",
        "epochs_trained": "epochs that it trained",
        "max_epochs": "epochs that it would have trained in full",
        "val_accuracy": "validation accuracy of its last epoch",
        "best_val_accuracy": "running maximum of the validation accuracy over its epochs",
        "val_loss": "validation loss of its last epoch",
        "train_loss": "training loss of its last epoch",
        "train_accuracy": "training accuracy of its last epoch",
        "wall_s": "seconds in all, validation and checkpoints included",
        "images_per_s": "images trained on per second of training",
        "peak_memory_bytes": "most device memory that it took",
        "num_parameters": "components of the model that are trained",
        "number": "its number in the study, from 0",
        "node": "name of the Ray node on which it ended",
        "gpu_ids": "GPUs that it had, separated by commas",
        "worker_pid": "process that trained it last",
        "retries": "how often it was started again",
        "ended_after": "`seq` of the last report of any trial before it ended",
        "origin": "where its configuration is from: `sampler`, `first_point`, or `warm_start: FOLDER TRIAL`; null in "
        "files of 0.1",
        "trunk": "id of the trunk that it started from; null if it trained from its first epoch",
        "fork_epoch": "epochs of its trunk; its own gradient evaluations and times are those after them",
        "metric.NAME": "what else a task or loop of your own measured, of its last epoch; the job in the metadata has "
        "`metric` and `mode`",
    },
    "epochs": {
        **_WHICH,
        "epoch": "number of the epoch, from 1",
        "train_loss": "mean training loss of the epoch",
        "train_accuracy": "training accuracy of the epoch",
        "val_loss": "validation loss after the epoch",
        "val_accuracy": "validation accuracy after the epoch",
        "lr": "learning rate at its end",
        "grad_norm": "norm of the gradient",
        "perturbation_norm": "length of the ascent step; null without one",
        "kept_fraction": "share of the components that the ascent step kept",
        "epoch_s": "seconds that it took",
        "decision": "what was decided on it: `continue`, `stop`, `complete` or `diverge`",
        "rung": "epochs of the rung that it was judged at; null elsewhere",
        "cutoff": "value that it had to reach there",
        "reported_at": "when it was reported, in UTC",
        "reason": "why it was decided so",
        "num_values": "number of values it was judged among",
        "seq": "its number in the ledger, over all trials",
        "metric.NAME": "what else a task or loop of your own measured",
    },
    "confirmations": {
        **_WHICH,
        "seed": "the fresh seed; the same ones for all methods, so that runs pair up",
        "test_accuracy": "accuracy on the test set, read once at the end of the run",
        "val_accuracy": "the winning trial's in the search; confirmations train on all training data",
        "test_loss": "loss on the test set",
        "trial_id": "the winning trial",
        "place": "its rank in its study, 1 is best",
        "budget": "what is equal among methods: `epochs`, or `gradients` (cheaper methods train longer)",
        "status": "`completed`, `diverged` or `failed`",
        "epochs": "epochs that it trained",
        "train_loss": "training loss of its last epoch",
        "measured_on": "`test`, or `validation` where a task of your own has no test data",
        "search_value": "the winning trial's metric in the search",
        "metric.NAME": "what a task or loop of your own measured at the end",
        "sharpness.NAME": "measures of flatness, if asked for: [Sharpness](sharpness.md)",
    },
}
"""By file and column."""

_TYPES = {"string": "text", "int64": "whole number", "double": "number"}


def column_tables() -> Iterator[tuple[str, str]]:
    """Yields each file's name and its columns as a Markdown table, in the order of the file."""
    schemas = {
        "trials": trials_schema(metrics=["NAME"], params=["NAME"]),
        "epochs": epochs_schema(metrics=["NAME"]),
        "confirmations": confirmations_schema(metrics=["NAME"], params=["NAME"], sharpness=["NAME"]),
    }
    for name, schema in schemas.items():
        rows = [f"| `{field.name}` | {_kind(field.type)} | {COLUMNS[name][field.name]} |" for field in schema]
        yield name, "\n".join(["| column | type | meaning |", "|---|---|---|", *rows])


def _kind(kind: pa.DataType) -> str:
    return "time" if pa.types.is_timestamp(kind) else _TYPES[str(kind)]
