"""What every column of the Parquet and CSV files means; `docs/results_folder.md` is made from it."""

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
    "device": "`cpu` or `cuda`, then the name of the processor or GPU",
    "error": "last line of the error; null if there was none",
    "gradient_evaluations": "forward and backward passes over a batch",
    "param.q_p": "quantile in [0, 1) below which it dropped components of the gradient; null where it has none",
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
        "finalist_of": "of a finalist's trial: whose settings it trains with another seed and split; null of others",
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
        "place": "its rank in its study, 1 is best; null of incumbents",
        "budget": "what is equal among methods: `epochs`, or `gradients` (cheaper methods train longer)",
        "status": "`completed`, `diverged` or `failed`",
        "epochs": "epochs that it trained",
        "train_loss": "training loss of its last epoch",
        "measured_on": "`test`, or `validation` where a task of your own has no test data",
        "search_value": "the winning trial's metric in the search",
        "role": "`winner`, or `incumbent` of trials that were the best so far (`confirm --incumbents`): leave these "
        "out where you compare methods; null in older files, of winners",
        "metric.NAME": "what a task or loop of your own measured at the end",
        "sharpness.NAME": "measures of flatness, if asked for: [Sharpness](sharpness.md)",
    },
}
"""By file and column."""

_COMPARED = {
    "job": "name of the job",
    "dataset": _WHICH["dataset"],
    "architecture": _WHICH["architecture"],
    "method": _WHICH["method"],
    "folder": "folder of the search",
    "metric": "what the job ranks by",
    "mode": "`max` or `min`: whether more or less of it is better",
    "val_accuracy": "validation accuracy of the study's best trial, by its last epoch",
    "best_trial_id": "`trial_id` of the study's best trial",
    "best_value": "the metric of the study's best trial, by its last epoch",
    "param.NAME": "settings of the study's best trial, as in `trials.parquet`",
    "num_trials": "trials of the study",
    "num_completed": "those of them that trained in full",
    "epochs": "epochs that all trials of the study trained (the sum of `epochs_trained` of `trials.parquet`)",
    "gradient_evaluations": "gradient evaluations of all trials of the study",
    "test_mean": "mean over the fresh seeds of a confirmed study; empty before",
    "test_low": "lower end of the 95 % interval of that mean",
    "test_high": "upper end of the 95 % interval of that mean",
    "num_seeds": "number of fresh seeds",
}

COMPARISON_COLUMNS: Mapping[str, str] = {
    **_COMPARED,
    "rank": "rank among the methods of the same data, architecture and metric; 1 is best, equal rows share one",
    "conditions": "a number that searches share which trained on the same data with the same settings",
    "val_loss": "validation loss of the study's best trial, by its last epoch",
    "max_epochs": "epochs that a trial trains in full",
    "pruned_fraction": "share of the trials that early stopping stopped",
    "diverged_fraction": "share of the trials that diverged",
    "failed_fraction": "share of the trials that failed",
    "median_val_accuracy": "median over the completed trials",
    "std_val_accuracy": "standard deviation over the completed trials, which differ in configuration or seed",
    "median_value": "median of the metric over the completed trials",
    "std_value": "standard deviation of the metric over the completed trials",
    "measure": "what the study's best reached on fresh seeds: test accuracy, or the metric; null if not confirmed",
    "budget": "what was equal among methods there: `epochs`, or `gradients` if only that was confirmed",
    "test_mean": "mean over the fresh seeds; rows that have it rank by it, before others",
    "test_std": "standard deviation over the fresh seeds",
    "test_low": "lower end of the 95 % interval of `test_mean`",
    "test_high": "its upper end",
    "test_interval": "how the interval was computed: `bootstrap`, or `t` below six seeds",
    "num_seeds": "number of fresh seeds",
    "finalist_mean": "the metric's mean over the further seeds of the finalist that won; empty without finalists",
    "finalist_std": "standard deviation over those seeds",
    "finalist_seeds": "number of those seeds",
}
"""The columns of `compare --format csv` and `json`."""

REPORT_COLUMNS: Mapping[str, str] = {
    **_COMPARED,
    "method": "method, with job or folder where it alone would be ambiguous",
    "setting": "method with the values of the parameters that vary",
    "budget": "what is equal among methods: `epochs` or `gradients`",
    "measure": "what the values are: test accuracy, or the metric",
    "mean": "mean over the seeds",
    "std": "standard deviation over the seeds",
    "low": "lower end of the 95 % interval",
    "high": "upper end of the 95 % interval",
    "n": "number of seeds, or of seeds that both have",
    "interval": "how the interval was computed: `bootstrap`, or `t` below six seeds",
    "test_std": "standard deviation over the fresh seeds",
    "test_interval": "how the interval of `test_mean` was computed",
    "is_best": "whether it is ranked first on its architecture; not whether that is established",
    "a": "the first of two methods",
    "b": "the second",
    "difference": "mean of a - b over the paired seeds",
    "effect_size": "that mean over the standard deviation of the differences (Hedges' correction)",
    "p_value": "p of an exact sign-flip test",
    "p_adjusted": "p after Holm's correction for the number of pairs",
    "verdict": "`a better`, `b better`, or why neither is",
    "is_said": "whether the answer in words names this pair",
    "rank_in_study": "rank of the configuration in the search (`place` in `confirmations.parquet`)",
    "finalist_mean": "the metric's mean over the further seeds of the finalist that won",
    "finalist_seeds": "number of those seeds",
    "study": "`ARCHITECTURE-METHOD`",
    "excess": "`search_value` less `mean`",
    "incumbent": "number of the trial among those that were the study's best so far; the last one is its final choice",
    "search_value": "metric of that configuration in the search",
    "saved_epochs": "epochs that stopped trials did not train",
    "saved_fraction": "share of those of all epochs, trained and saved",
    "trial_s": "seconds that the study's trials took (the sum of `wall_s` of `trials.parquet`)",
    "saved_s": "`saved_epochs` at the study's median seconds an epoch",
    "confirmation_evaluations": "gradient evaluations of the study's confirmations",
    "confirmation_s": "seconds that they trained",
    "device_hours": "hours of trials and confirmations times the CPUs, or the share of a GPU, that each had",
    "peak_memory_bytes": "most device memory that one of them took",
    "device": _WHICH["device"],
    "rung": "epochs at which trials were compared",
    "arrived": "trials that got there",
    "stopped": "those of them that were stopped there",
    "stopped_fraction": "share of those that were stopped",
    "last_cutoff": "value that the last one had to reach",
    "trial_id": _WHICH["trial_id"],
    "status": "how the trial ended",
    "epochs_trained": "epochs that the trial trained",
    "reason": "why it failed or diverged",
    "fact": "what is known of where the results come from",
    "value": "its value",
}
"""The columns of the CSV files in `report_files/`; each file has those that its table on the page shows or rests on."""

DIFFERENCE_COLUMNS: Mapping[str, str] = {
    name: REPORT_COLUMNS[name]
    for name in (
        *("architecture", "budget", "measure", "a", "b", "n", "difference", "low", "high", "interval"),
        *("effect_size", "p_value", "p_adjusted", "verdict", "is_said", "metric", "mode"),
    )
}
"""The columns of `compare --differences`."""

_TYPES = {"string": "text", "int64": "whole number", "double": "number"}


def column_tables() -> Iterator[tuple[str, str]]:
    """Yields the heading of each table or kind of files, and its columns as a Markdown table."""
    schemas = {
        "trials": trials_schema(metrics=["NAME"], params=["NAME"]),
        "epochs": epochs_schema(metrics=["NAME"]),
        "confirmations": confirmations_schema(metrics=["NAME"], params=["NAME"], sharpness=["NAME"]),
    }
    for name, schema in schemas.items():
        rows = [f"| `{field.name}` | {_kind(field.type)} | {COLUMNS[name][field.name]} |" for field in schema]
        yield f"{name}.parquet", "\n".join(["| column | type | meaning |", "|---|---|---|", *rows])
    described = {
        "compare --format csv": COMPARISON_COLUMNS,
        "compare --differences": DIFFERENCE_COLUMNS,
        "report_files": REPORT_COLUMNS,
    }
    for name, meanings in described.items():
        rows = [f"| `{column}` | {meaning} |" for column, meaning in meanings.items()]
        yield name, "\n".join(["| column | meaning |", "|---|---|", *rows])


def _kind(kind: pa.DataType) -> str:
    return "time" if pa.types.is_timestamp(kind) else _TYPES[str(kind)]
