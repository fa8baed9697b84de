"""Measures what a second process brings: images a second of one trial on one process and on two, each on its own core.

    python benchmarks/processes.py [--model resnet20] [--methods base,zsharp] [--batch-size 128] [--repeats 7]

Each process has one thread and keeps to one core; two exchange gradients by gloo. The batch is as large in both cases,
so each of two takes half of it. Epochs on one and on two are timed in turn, so a ratio compares neighbours in time.
The ratio of the processor times says the same where other programs use the cores, but for what processes wait.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from zsharp.cpu import cpu_model
from zsharp.data import prepare
from zsharp.data.training_data import TrainingData
from zsharp.training import Training, TrainSpec, TrialSpec
from zsharp.training.processes import Processes

SIDE = 32


def main() -> None:
    """Times all methods, prints speeds and ratios, and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--methods", default="base,zsharp")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="of an epoch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/processes-cpu.json")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        parser.error("two cores are needed")
    num_images = options.steps * options.batch_size
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    processes = [
        context.Process(target=measure, args=(rank, cores[rank], options, store.port, answers))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process failed")
    result: dict[str, Any] = {
        "benchmark": "processes",
        "hardware": cpu_model(),
        "torch": torch.__version__,
        "model": options.model,
        "batch_size": options.batch_size,
        "side": SIDE,
        "n": options.repeats,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    for method, one, two in answers.get():
        (wall_one, worked_one), (wall_two, worked_two) = (
            list(zip(*times, strict=True)) for times in (one, two)
        )
        ratios = [alone / together for alone, together in zip(wall_one, wall_two, strict=True)]
        worked = [alone / together for alone, together in zip(worked_one, worked_two, strict=True)]
        result[method] = {
            "one_s": wall_one, "two_s": wall_two, "ratios": ratios, "processor_time_ratios": worked
        }  # fmt: skip
        speeds = [num_images / statistics.median(times) for times in (wall_one, wall_two)]
        print(
            f"{method:<8} {speeds[0]:>7,.0f} images/s on one process, {speeds[1]:>7,.0f} on two: {band(ratios)} times; "
            f"by processor time {band(worked)}; n = {len(ratios)}"
        )
    out = options.out or Path(__file__).parent / "results" / "processes-cpu.json"
    out.write_text(json.dumps(result, indent=1) + "\n")


def band(ratios: list[float]) -> str:
    """Returns median, smallest and largest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def measure(rank: int, core: int, options: argparse.Namespace, port: int, answers: Any) -> None:
    """Trains in one of the two processes; the first one puts (method, times alone, together) into `answers`.

    Each time is of an epoch: wall and processor seconds.
    """
    os.sched_setaffinity(0, [core])
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    data = noise(options.steps * options.batch_size)
    found = []
    for method in options.methods.split(","):
        train = TrainSpec(epochs=1000, batch_size=options.batch_size, warmup_epochs=0)
        spec = TrialSpec(options.model, method, {"lr": 1e-3}, train=train)
        runs = Training(spec, data), Training(spec, data, processes=Processes(rank, 2))
        seconds: tuple[list[tuple[float, float]], ...] = [], []
        for repeat in range(options.repeats + 1):  # the first is a warm-up
            for number in (0, 1) if repeat % 2 else (1, 0):  # neither is always second
                dist.barrier()
                if number == 1 or rank == 0:
                    wall_s, worked_s = time.perf_counter(), time.process_time()
                    runs[number].run_epoch()
                    if repeat:
                        times = time.perf_counter() - wall_s, time.process_time() - worked_s
                        seconds[number].append(times)
        found.append((method, *seconds))
    if rank == 0:
        answers.put(found)
    dist.barrier()
    dist.destroy_process_group()


def noise(num: int) -> TrainingData:
    """Returns so many images of the size of CIFAR-10's."""
    info = prepare("digits").info
    info = replace(info, image_shape=(3, SIDE, SIDE), mean=(0.5,) * 3, std=(0.25,) * 3, flip=True)
    rows = torch.arange(num)
    images = torch.randint(256, (num, 3, SIDE, SIDE), dtype=torch.uint8)
    return TrainingData(info, images, rows % 10, rows, rows[:0])


if __name__ == "__main__":
    main()
