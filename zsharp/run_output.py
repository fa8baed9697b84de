"""Prints what `python -m zsharp` reports: a run, its epochs and its result, as text or as JSON lines."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsharp.training import Training
    from zsharp.training.run import TrialResult

_HEADINGS = ("epoch", "train loss", "val acc", "grad norm", "pert norm", "kept", "images/s", "seconds")
_ROW = "{:>5}  {:>10}  {:>7}  {:>9}  {:>9}  {:>6}  {:>8}  {:>7}"


def run_facts(training: "Training") -> dict[str, Any]:
    """Returns what is trained, on what data and device, and from which epoch on."""
    import torch

    from zsharp.training.device import device_name

    spec = training.spec
    return {
        "spec": asdict(spec)
        | {"params": {"lr": spec.params.get("lr"), **training.method.defaults, **spec.params}},
        "num_parameters": training.num_parameters,
        "image_shape": training.data.info.image_shape,
        "num_train": len(training.data.train_indices),
        "num_val": len(training.data.val_indices),
        "device": device_name(training.device),
        "precision": training.precision,
        "threads": torch.get_num_threads(),
        "epochs_before": training.epoch,
    }


def result_facts(result: "TrialResult") -> dict[str, Any]:
    """Returns how the run ended: the best and the last of the epochs just trained, and their cost."""
    rows = result.reports
    last: Mapping[str, object] = rows[-1] if rows else {}
    accuracies = [(row["val_accuracy"], row["epoch"]) for row in rows if not row["diverged"]]
    measured = [(float(accuracy), epoch) for accuracy, epoch in accuracies if accuracy is not None]
    best, best_epoch = max(measured, key=lambda pair: pair[0], default=(None, None))
    names = ("epoch", "val_accuracy", "gradient_evaluations", "peak_memory_bytes", "train_s")
    return {
        "status": result.status,
        "best_val_accuracy": best,
        "best_epoch": best_epoch,
        **{name: last.get(name) for name in names},
    }


def show_json(kind: str, facts: Mapping[str, Any]) -> None:
    """Prints one JSON object on one line. Numbers that are not finite become null, as JSON has no others."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in facts.items()
    }
    print(json.dumps({"kind": kind, **finite}), flush=True)


def show_text(kind: str, facts: Mapping[str, Any]) -> None:
    """Prints the facts of a `kind` (`run`, `epoch` or `result`) as text."""
    lines_of = {"run": _run_lines, "epoch": _epoch_lines, "result": _result_lines}
    print("\n".join(lines_of[kind](facts)), flush=True)


def _run_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    spec, train = facts["spec"], facts["spec"]["train"]
    shape = " x ".join(map(str, facts["image_shape"]))
    settings = ", ".join(f"{name} {value:g}" for name, value in spec["params"].items())
    yield (
        f"{spec['method']} on {spec['architecture']}, {facts['num_parameters']:,} parameters; "
        f"{spec['data']['name']}: {facts['num_train']:,} images of {shape} for training, "
        f"{facts['num_val']:,} for validation"
    )
    yield (
        f"{settings}; {train['base_optimizer']}, batch size {train['batch_size']}, seed {train['seed']}; "
        f"{facts['precision']} on {facts['device']}, CPU threads {facts['threads']}"
    )
    if facts["epochs_before"]:
        yield f"continuing after epoch {facts['epochs_before']} of {train['epochs']}"
    if facts["epochs_before"] < train["epochs"]:
        yield _ROW.format(*_HEADINGS)


def _epoch_lines(row: Mapping[str, Any]) -> Iterator[str]:
    formats = (
        ("epoch", "d"),
        ("train_loss", ".4f"),
        ("val_accuracy", ".4f"),
        ("grad_norm", ".4f"),
        ("perturbation_norm", ".4f"),
        ("kept_fraction", ".4f"),
        ("images_per_s", ",.0f"),
        ("epoch_s", ".2f"),
    )
    yield _ROW.format(*(_number(row[name], spec) for name, spec in formats))


def _result_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["epoch"] is None:
        yield "nothing left to train: the checkpoint is from the last epoch"
    else:
        best, last = (_number(facts[name], ".4f") for name in ("best_val_accuracy", "val_accuracy"))
        yield (
            f"validation accuracy: best {best} (epoch {_number(facts['best_epoch'], 'd')}), last {last}; "
            f"{facts['gradient_evaluations']:,} gradient evaluations, "
            f"peak memory {facts['peak_memory_bytes'] / 2**20:,.0f} MiB, {facts['train_s']:.1f} s of training"
        )
    if "test_accuracy" in facts:
        yield f"test accuracy: {facts['test_accuracy']:.4f}"
    for name, value in facts.items():
        if name.startswith("sharpness."):
            yield f"{name:<34}{_number(value, '.6g')}"


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
