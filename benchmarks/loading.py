"""Measures what it costs that images stay on the host: images a second from the device's memory and streamed.

    python benchmarks/loading.py [--device cuda] [--images 20000] [--side 64] [--model resnet20] [--repeats 5]

Images are noise in a memory map. "Batches" draws an epoch's order, gathers, augments and normalises; "training" takes
ZSharp's steps on them. Both placements are timed in turn, so a ratio compares neighbours in time.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from zsharp.data import prepare
from zsharp.data.training_data import TrainingData
from zsharp.training import Training, TrainSpec, TrialSpec
from zsharp.training.device import choose_device, device_name

BATCH_SIZE = 128


def main() -> None:
    """Times both placements, prints their speeds and ratios, and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/loading-DEVICE.json")
    options = parser.parse_args()
    device = choose_device(options.device)
    print(f"{device_name(device)}; torch {torch.__version__}; {torch.get_num_threads()} threads")
    result: dict[str, object] = {
        "benchmark": "loading",
        "hardware": device_name(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch_size": BATCH_SIZE,
        "images": options.images,
        "side": options.side,
        "model": options.model,
        "n": options.repeats,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with tempfile.TemporaryDirectory() as folder:
        resident, streamed = both_placements(Path(folder), options.images, options.side, device)
        for what, epoch in (("batches", batches_of), ("training", steps_of)):
            epochs = [epoch(options.model, data) for data in (resident, streamed)]
            speeds = in_turn(epochs, options.repeats)
            ratios = [there / here for here, there in zip(*speeds, strict=True)]
            result[what] = {"resident": speeds[0], "streamed": speeds[1], "ratios": ratios}
            medians = [statistics.median(values) for values in speeds]
            print(
                f"{what:<10} resident {medians[0]:>10,.0f} images/s, streamed {medians[1]:>10,.0f} images/s"
            )
            print(
                f"{'':<10} streamed / resident {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
    out = options.out or Path(__file__).parent / "results" / f"loading-{options.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


def both_placements(
    folder: Path, num: int, side: int, device: torch.device
) -> tuple[TrainingData, TrainingData]:
    """Returns the same noise on the device, and in a memory map on the host."""
    info = prepare("digits").info
    info = replace(info, image_shape=(3, side, side), mean=(0.5,) * 3, std=(0.25,) * 3, flip=True)
    pixels = np.random.default_rng(0).integers(256, size=(num, 3, side, side), dtype=np.uint8)
    np.save(folder / "images.npy", pixels)
    images = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c"))
    labels, rows = torch.arange(num, device=device) % 10, torch.arange(num, device=device)
    resident = TrainingData(info, images.to(device), labels, rows, rows[:0])
    return resident, replace(resident, images=images, is_streamed=True)


def batches_of(model: str, data: TrainingData) -> Callable[[], int]:
    """Returns what makes the batches of an epoch and says how many images they had."""
    task = Training(spec_of(model), data).task

    def epoch() -> int:
        for batch in task.batches(0):
            task.prepare(batch)
        return int(task.steps_per_epoch * BATCH_SIZE)

    return epoch


def steps_of(model: str, data: TrainingData) -> Callable[[], int]:
    """Returns what takes the steps of an epoch, at most 4 on a CPU, and says how many images they had."""
    if data.device.type == "cpu":
        data = replace(data, train_indices=data.train_indices[: 4 * BATCH_SIZE])
    training = Training(spec_of(model), data)

    def epoch() -> int:
        training.run_epoch()
        return int(training.task.steps_per_epoch * BATCH_SIZE)

    return epoch


def spec_of(model: str) -> TrialSpec:
    """Returns a run that no repeat finishes."""
    train = TrainSpec(epochs=1000, batch_size=BATCH_SIZE, warmup_epochs=0)
    return TrialSpec(model, "zsharp", {"lr": 1e-3}, train=train)


def in_turn(epochs: list[Callable[[], int]], repeats: int) -> list[list[float]]:
    """Returns images a second of each, `repeats` times in turn after one warm-up."""
    speeds: list[list[float]] = [[] for _ in epochs]
    for repeat in range(repeats + 1):
        for epoch, values in zip(epochs, speeds, strict=True):
            started_s = time.perf_counter()
            num_images = epoch()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                values.append(num_images / (time.perf_counter() - started_s))
    return speeds


if __name__ == "__main__":
    main()
