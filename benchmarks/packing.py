"""How many trials should share a GPU, and how: in processes that take turns, side by side by MPS, or as lanes of one.

    python benchmarks/packing.py [--device cuda] [--model resnet20] [--together 1 2 4 8 16] [--seconds 3] [--out FILE]

Prints images a second of all trials together, and their ratio to one trial alone. Each trial is ZSharp at batch 128
with a CUDA graph of its own. Measurements that are in the file already are not taken again. With `--device cpu` a
rehearsal that shows only that it runs. Needs torch alone; MPS needs `nvidia-cuda-mps-control` and psutil.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
from training import BATCH_SIZE, few_images

from zsharp.data.training_data import TrainingData
from zsharp.training import Training, TrainSpec, TrialSpec
from zsharp.training.device import choose_device, device_name
from zsharp.training.lanes import Lanes

KINDS = ("time", "mps", "lanes")


def main() -> None:
    """Takes the measurements that the file lacks, and writes it after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--together", nargs="+", type=int, default=(1, 2, 4, 8, 16))
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, at least an epoch")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "packing-cuda.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train_beside_others(options.child, options.model, options.device)
        return
    device = choose_device(options.device)
    print(f"{device_name(device)}; torch {torch.__version__}; {options.model}; batch {BATCH_SIZE}; n = 1")
    found: dict[str, float | str] = (
        json.loads(options.out.read_text())["images_per_s"] if options.out.exists() else {}
    )
    for together in options.together:
        for kind in options.kinds if together > 1 else options.kinds[:1]:
            key = f"{together} {kind}" if together > 1 else "1"
            if key not in found:
                try:
                    found[key] = measured(kind, together, options.model, device, options.seconds)
                except (RuntimeError, ImportError) as error:  # memory, or no MPS here
                    found[key] = str(error).strip().rpartition("\n")[2]
            show(key, found[key], found.get("1"))
            result = {
                "benchmark": "packing",
                "hardware": device_name(device),
                "torch": torch.__version__,
                "model": options.model,
                "n": 1,
                "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "images_per_s": found,
            }
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n")


def show(key: str, value: float | str, alone: float | str | None) -> None:
    """Prints a measurement, against one trial alone if that was measured."""
    if isinstance(value, str):
        print(f"{key:<10} {value}", flush=True)
        return
    ratio = f"{value / alone:6.2f} times one" if isinstance(alone, float) else ""
    print(f"{key:<10} {value:>10,.0f} images/s {ratio}", flush=True)


def measured(kind: str, together: int, model: str, device: torch.device, seconds: float) -> float:
    """Returns the images a second of so many trials together."""
    if kind == "lanes" and together > 1:
        return lanes_speed(together, model, device, seconds)
    if kind == "mps":
        from tune_jobs.cluster import mps

        if device.type != "cuda":
            raise RuntimeError("MPS needs a GPU")
        if (problem := mps.problem()) is not None:
            raise RuntimeError(problem)
    command = [sys.executable, __file__, "--model", model, "--device", device.type, "--child", kind]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(together)
    ]
    try:
        for child in children:
            read(child)  # its graph is captured
        for child in children:
            assert child.stdin is not None
            child.stdin.write(f"{time.time() + seconds}\n")
            child.stdin.flush()
        return sum(float(read(child)) for child in children)
    finally:
        for child in children:
            child.kill()
            child.wait()


def read(child: "subprocess.Popen[str]") -> str:
    """Returns the next line of a child."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError("a process of a trial ended, out of memory perhaps")
    return line


def train_beside_others(kind: str, model: str, device_type: str) -> None:
    """What a child does: says when it is ready, trains until the time that it is told, and says how fast."""
    if kind == "mps":
        from tune_jobs.cluster import mps

        mps.join("benchmarks/packing")
    device = choose_device("cuda" if device_type == "cuda" else "cpu")
    training = build(model, few_images(device), device, 0)
    training.run_epoch()
    print("ready", flush=True)
    until, began, num_images = float(sys.stdin.readline()), time.perf_counter(), 0
    while num_images == 0 or time.time() < until:
        training.run_epoch()
        num_images += images_of_an_epoch(training)
    print(num_images / (time.perf_counter() - began), flush=True)


def lanes_speed(together: int, model: str, device: torch.device, seconds: float) -> float:
    """Returns the images a second of so many lanes of this process."""
    data, lanes = few_images(device), Lanes(device)

    def make(seed: int) -> Callable[[], Training]:
        return lambda: build(model, data, device, seed)

    for seed in range(together):
        lanes.add(make(seed))
    ends = endless(lanes)
    for _ in range(together):  # their graphs are captured
        next(ends)
    began, num_images = time.perf_counter(), 0
    while num_images == 0 or time.perf_counter() - began < seconds:
        num_images += next(ends)
    return num_images / (time.perf_counter() - began)


def endless(lanes: Lanes) -> Iterator[int]:
    """Yields the images of each epoch as it ends, or raises what its run did."""
    for lane, outcome in lanes.run():
        if isinstance(outcome, Exception):
            raise outcome
        yield images_of_an_epoch(lane.training)


def build(model: str, data: TrainingData, device: torch.device, seed: int) -> Training:
    """Returns a run that goes on for as long as it is asked to."""
    train = TrainSpec(
        epochs=10**5, batch_size=BATCH_SIZE, warmup_epochs=0, schedule="constant", seed=seed,
        precision="bf16" if device.type == "cuda" else "fp32",
    )  # fmt: skip
    return Training(TrialSpec(model, "zsharp", {"lr": 1e-3}, train=train, device=device.type), data)


def images_of_an_epoch(training: Training) -> int:
    """Returns how many images an epoch has, each counted once."""
    return training.task.steps_per_epoch * BATCH_SIZE


if __name__ == "__main__":
    main()
