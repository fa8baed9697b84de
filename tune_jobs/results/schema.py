"""The columns and types of the Parquet tables that a search leaves behind."""

from collections.abc import Collection, Iterable, Mapping

import pyarrow as pa

from tune_jobs.job.metric import METRIC_PREFIX
from zsharp.training.epoch_row import MEASURES, TOTALS

SCHEMA_VERSION = 1
"""Raised when a column changes its meaning or is removed, not when one is added at the end."""

PARAM_PREFIX = "param."
SHARPNESS_PREFIX = "sharpness."
STANDARD_PARAMS = ("q_p", "rho", "lr")
"""Every file has a column for each of these; other searched parameters follow."""

# Added after files of this version had been written; where a file lacks them, they read as nulls.
LATER_COLUMNS = {
    "trials": (
        "number",
        "node",
        "gpu_ids",
        "worker_pid",
        "retries",
        "ended_after",
        "train_accuracy",
        "origin",
        "trunk",
        "fork_epoch",
        "finalist_of",
    ),
    "epochs": ("reason", "num_values", "seq"),
    "confirmations": (
        *("dataset", "variant", "trial_id", "place", "budget", "status", "epochs", "gradient_evaluations"),
        *(
            "train_loss",
            "train_s",
            "device",
            "started_at",
            "finished_at",
            "error",
            "measured_on",
            "search_value",
            "role",
        ),
    ),
}

_TEXT, _COUNT, _NUMBER, _TIME = pa.string(), pa.int64(), pa.float64(), pa.timestamp("us", tz="UTC")


def trials_schema(
    params: Iterable[str] = (), metrics: Iterable[str] = (), *, names: Collection[str] = ()
) -> pa.Schema:
    """Returns the schema of `trials.parquet`: one row per trial, however it ended; `status` is null while it runs.

    Losses, accuracies and `metric.*` are those of the trial's last epoch, `best_val_accuracy` is the running maximum
    over its epochs, what counts or measures the whole trial is from its last report, `error` is its text's last line,
    `ended_after` the `seq` of the last report of any trial before it ended, `node` the name of its Ray node (the
    address where it has no name of its own; nodes with the same name end in different ids), `origin` says where the
    configuration is from: "sampler", "first_point" or "warm_start: FOLDER TRIAL". Of a trial that started from a trunk
    (the trial of method "trunk" named in `trunk`, of which it has the epochs up to `fork_epoch`), gradient evaluations
    and times are its own, after the fork. Trials of finalists have the settings of the trial named in `finalist_of`, in
    studies of their own.

    Args:
        params: The parameters of all trials, by their names in the space. A trial's is null where it has none.
        names: Those of them whose values are text: names, or `true` and `false`.
    """
    return pa.schema(
        [
            ("job", _TEXT),
            ("study", _TEXT),
            ("trial_id", _TEXT),
            ("dataset", _TEXT),
            ("architecture", _TEXT),
            ("method", _TEXT),
            ("variant", _TEXT),
            ("seed", _COUNT),
            ("status", _TEXT),
            ("stop_reason", _TEXT),
            ("epochs_trained", _COUNT),
            ("max_epochs", _COUNT),
            ("val_accuracy", _NUMBER),
            ("best_val_accuracy", _NUMBER),
            ("val_loss", _NUMBER),
            ("train_loss", _NUMBER),
            *_param_fields(params, names),
            *_fields(TOTALS),
            ("started_at", _TIME),
            ("finished_at", _TIME),
            ("error", _TEXT),
            ("number", _COUNT),
            ("node", _TEXT),
            ("gpu_ids", _TEXT),
            ("worker_pid", _COUNT),
            ("retries", _COUNT),
            ("ended_after", _COUNT),
            ("train_accuracy", _NUMBER),
            ("origin", _TEXT),
            ("trunk", _TEXT),
            ("fork_epoch", _COUNT),
            ("finalist_of", _TEXT),
            *_metric_fields(metrics),
        ]
    )


def epochs_schema(metrics: Iterable[str] = ()) -> pa.Schema:
    """Returns the schema of `epochs.parquet`: one row per report, in the order of the ledger (`seq`)."""
    return pa.schema(
        [
            ("job", _TEXT),
            ("study", _TEXT),
            ("trial_id", _TEXT),
            ("epoch", _COUNT),
            *_fields(MEASURES),
            ("decision", _TEXT),
            ("rung", _COUNT),
            ("cutoff", _NUMBER),
            ("reported_at", _TIME),
            ("reason", _TEXT),
            ("num_values", _COUNT),
            ("seq", _COUNT),
            *_metric_fields(metrics),
        ]
    )


def confirmations_schema(
    params: Iterable[str] = (),
    sharpness: Iterable[str] = (),
    metrics: Iterable[str] = (),
    *,
    names: Collection[str] = (),
) -> pa.Schema:
    """Returns the schema of `confirmations.parquet`: one row per fresh seed of a winner.

    `val_accuracy` is the winning trial's in the search (confirmations train on all training data), `trial_id` its
    id, `place` its rank within its study (1 is best). `budget` says what is equal among methods: "epochs", or
    "gradients" (a method with one gradient a step trains twice the epochs). `metric.*` are what a task of the user's
    own measured at the end: on its test data, or on its validation data if it has no others (`measured_on`: "test" or
    "validation"). `search_value` is the metric of the winning trial in the search. `role` is "incumbent" (and `place`
    null) in the rows of `confirm --incumbents`, which measure trials that were the best so far; null or "winner" in
    others.
    """
    return pa.schema(
        [
            ("job", _TEXT),
            ("study", _TEXT),
            ("architecture", _TEXT),
            ("method", _TEXT),
            ("seed", _COUNT),
            ("test_accuracy", _NUMBER),
            ("val_accuracy", _NUMBER),
            ("test_loss", _NUMBER),
            *((f"{SHARPNESS_PREFIX}{name}", _NUMBER) for name in sharpness),
            *_param_fields(params, names),
            ("dataset", _TEXT),
            ("variant", _TEXT),
            ("trial_id", _TEXT),
            ("place", _COUNT),
            ("budget", _TEXT),
            ("status", _TEXT),
            ("epochs", _COUNT),
            ("gradient_evaluations", _COUNT),
            ("train_loss", _NUMBER),
            ("train_s", _NUMBER),
            ("device", _TEXT),
            ("started_at", _TIME),
            ("finished_at", _TIME),
            ("error", _TEXT),
            ("measured_on", _TEXT),
            ("search_value", _NUMBER),
            ("role", _TEXT),
            *_metric_fields(metrics),
        ]
    )


def _metric_fields(names: Iterable[str]) -> list[tuple[str, pa.DataType]]:
    return [(f"{METRIC_PREFIX}{name}", _NUMBER) for name in names]


def _fields(kinds: Mapping[str, type]) -> list[tuple[str, pa.DataType]]:
    types = {float: _NUMBER, int: _COUNT, str: _TEXT}
    return [(name, types[kind]) for name, kind in kinds.items()]


def _param_fields(params: Iterable[str], names: Collection[str]) -> list[tuple[str, pa.DataType]]:
    others = sorted(set(params) - set(STANDARD_PARAMS))
    return [
        (f"{PARAM_PREFIX}{name}", _TEXT if name in names else _NUMBER) for name in (*STANDARD_PARAMS, *others)
    ]
