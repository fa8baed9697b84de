"""What a search trained, in a line: models, images, epochs, trials, machine and time."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pandas as pd

from tune_jobs.results.method_names import optimizer_name
from tune_jobs.results.read import Results
from tune_jobs.results.tables import duration, records
from tune_jobs.wording import counted


def trained_in_words(results: Results) -> str:
    """Returns what a search trained; facts that its files do not have are left out."""
    trials = results.trials
    studies = trials["study"].nunique()
    num_again = len(results.finalists)
    again = f", {counted(num_again, 'more trial')} of finalists" if num_again else ""
    parts = [
        ", ".join(_what(results)),
        f"{counted(len(trials), 'trial')} in {counted(studies, 'study', 'studies')}{again}",
        ", ".join(_where(results.metadata["hardware"] or {}, trials)),
    ]
    confirmed = results.confirmations
    if len(confirmed):
        seeds = counted(confirmed["seed"].nunique(), "fresh seed")
        spent = busy_s(confirmed, "train_s")
        parts.append(f"confirmed with {seeds}{f' in {duration(spent)}' if spent else ''}")
    return f"Trained: {'; '.join(part for part in parts if part)}."


def num_validated(results: Results) -> int | None:
    """Returns how many images the trials of a search were validated on; None if its files do not tell."""
    job, known = results.metadata["job"] or {}, results.metadata["data"] or {}
    if known.get("num_val") is not None:  # since 0.2
        return int(known["num_val"])
    return _num_held_out(job.get("data") or {}, results.metadata)


def busy_s(rows: pd.DataFrame, own_time: str = "wall_s") -> float:
    """Returns for how long at least one of some runs was training; pauses between sessions do not count."""
    spans = []
    for row in records(rows[["started_at", "finished_at", own_time]]):
        start, stop, own_s = row.values()
        if start is not None and stop is not None:
            # The span of a run that waited, or was interrupted, is longer than its own time, which ended with it.
            own = stop - start if own_s is None else timedelta(seconds=own_s)
            spans.append((max(start, stop - own), stop))
    total, end = 0.0, None
    for start, stop in sorted(spans):
        begin = start if end is None else max(start, end)
        if stop > begin:
            total, end = total + (stop - begin).total_seconds(), stop
    return total


def _what(results: Results) -> Iterator[str]:
    trials, job = results.trials, results.metadata["job"] or {}
    train, data, space = (job.get(name) or {} for name in ("train", "data", "space"))
    datasets = list(dict.fromkeys(trials["dataset"].dropna()))
    architectures = list(dict.fromkeys(trials["architecture"]))
    yield ", ".join(f"{name}{_size(trials[trials['architecture'] == name])}" for name in architectures)
    is_own = architectures == datasets  # a task brings its data, and goes by its own name
    if not is_own and datasets:
        yield f"{_images(data, results.metadata)} of {', '.join(datasets)}{_held_out(data, results.metadata)}"
    epochs = sorted(set(trials["max_epochs"].dropna()))
    if epochs:
        span = f"{epochs[0]}" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]}"
        yield f"{span} epoch{'s' if epochs[-1] != 1 else ''}"
    if train.get("loop") is None:
        if not is_own and "train.batch_size" not in space and train.get("batch_size"):
            yield f"batch {train['batch_size']}"
        if "train.base_optimizer" not in space and train.get("base_optimizer"):
            yield optimizer_name(str(train["base_optimizer"]))


def _size(trials: pd.DataFrame) -> str:
    counts = sorted(set(trials["num_parameters"].dropna()))
    if not counts:
        return ""
    low, high = (_millions(count) for count in (counts[0], counts[-1]))
    return f" ({low if low == high else f'{low} to {high}'} parameters)"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2g} M" if count >= 9_500 else f"{count:,}"


def _images(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    used, total = data.get("max_images"), (metadata.get("data") or {}).get("num_train")
    if used is not None:
        return f"{used:,} of {total:,} images" if total and total != used else f"{used:,} images"
    return f"all {total:,} images" if total else "all images"


def _held_out(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    number = _num_held_out(data, metadata)
    return "" if number is None else f" ({number:,} of them held out for validation)"


def _num_held_out(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> int | None:
    """Returns how many of the images were validated on; a folder or a function may bring others for that."""
    count = data.get("max_images") or (metadata.get("data") or {}).get("num_train")
    share, name = data.get("val_fraction"), str(data.get("name"))
    if not share or not count or name == "folder" or ":" in name:
        return None
    held_out: int = round(share * count)
    return held_out


def _where(hardware: Mapping[str, Any], trials: pd.DataFrame) -> Iterator[str]:
    gpus = [str(gpu) for gpu in hardware.get("gpus") or []]
    used_gpu = trials["device"].dropna().astype(str).str.startswith("cuda").any()
    if gpus and used_gpu:
        yield ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus))
    elif cores := hardware.get("num_cpus"):
        yield counted(int(cores), "core")
    if spent := busy_s(trials):
        yield duration(spent)
