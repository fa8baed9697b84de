"""Shows where a training step's time goes on a GPU; with `--device cpu` a rehearsal that shows only that it runs.

    python benchmarks/gpu_profile.py [--device cuda] [--models resnet20 vgg16_bn vit_7_8_8_384] [--seconds 1]
                                     [--steps floor kernels ...] [--out FILE]

Steps, each under a minute and written to the file as soon as it ends; those in the file already are not run again:

    floor          time of a kernel that does nothing, replayed from a CUDA graph, and launched one by one
    roof           bytes a second of a copy and FLOP a second of a bfloat16 product, and a step's share of both
    kernels        the 25 kernels of a step that take longest, with their share and launches
    deterministic  a step with deterministic algorithms against one without
    casts          forward and backward with weights that autocast casts layer by layer, against cast once by one call
    compile        a step of a compiled model against one that is not, and the seconds until the first
    batch          images a second at batches of 128, 256 and 512

A ratio compares neighbours in time: variants are timed in turn, `--repeats` times, and the median ratio is printed
with the smallest and the largest.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode
from training import random_images

from zsharp.training import Training, TrainSpec, TrialSpec
from zsharp.training import training as engine
from zsharp.training.device import choose_device, device_name

MODELS = ("resnet20", "vgg16_bn", "vit_7_8_8_384")
NUM_LARGEST = 25
Row = dict[str, Any]


class Profile:
    """Measures on one device for so many seconds each."""

    def __init__(self, device: torch.device, seconds: float, repeats: int) -> None:
        self.device, self.seconds, self.repeats = device, seconds, repeats
        data = random_images(device)
        num = len(data.train_indices) if device.type == "cuda" else 512  # a rehearsal takes no time
        self._data = replace(data, train_indices=data.train_indices[:num])

    def steps(self) -> Mapping[str, Callable[[str], Row]]:
        """What there is to measure, by name; each takes the name of a model."""
        return {
            "floor": self.floor,
            "roof": self.roof,
            "kernels": self.kernels,
            "deterministic": self.deterministic,
            "casts": self.casts,
            "compile": self.compile,
            "batch": self.batch,
        }

    def training(self, model: str, method: str = "zsharp", batch_size: int = 128, **train: Any) -> Training:
        """Returns a run whose first step is taken."""
        spec = TrialSpec(
            model, method, {"lr": 0.01}, device=self.device.type,
            train=TrainSpec(epochs=10**5, batch_size=batch_size, warmup_epochs=0, schedule="constant", **train),
        )  # fmt: skip
        run = Training(spec, self._data)
        run.run_epoch()
        return run

    def seconds_of(self, work: Callable[[], object]) -> float:
        """Returns how long one call takes, over as many as fit into the time."""
        # The process's own seconds on the CPU, where neighbours disturb.
        now = time.perf_counter if self.device.type == "cuda" else time.process_time
        work()
        self._wait()
        begin, num = now(), 0
        while num == 0 or now() - begin < self.seconds:
            work()
            num += 1
            self._wait()
        return (now() - begin) / num

    def ratio(self, work: Callable[[], object], other: Callable[[], object]) -> list[float]:
        """Returns the median, smallest and largest ratio of the second's time to the first's."""
        ratios = [self.seconds_of(other) / self.seconds_of(work) for _ in range(self.repeats)]
        return [statistics.median(ratios), min(ratios), max(ratios)]

    def floor(self, _: str) -> Row:
        """Measures what a kernel costs that computes next to nothing."""
        value, num = torch.zeros(1, device=self.device), 1000

        def launch() -> None:
            for _ in range(num):
                value.add_(1)

        row = {"launched_us": self.seconds_of(launch) / num * 1e6}
        if self.device.type == "cuda":
            launch()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                launch()
            row["replayed_us"] = self.seconds_of(graph.replay) / num * 1e6
        return row

    def roof(self, model: str) -> Row:
        """Measures the machine's roofs and how far below them a step of SAM is."""
        is_cuda = self.device.type == "cuda"
        source = torch.empty(2**28 if is_cuda else 2**24, device=self.device)
        target = torch.empty_like(source)
        copied = 2 * source.nbytes / self.seconds_of(lambda: target.copy_(source))
        size = 8192 if is_cuda else 512
        left = torch.randn(size, size, device=self.device, dtype=torch.bfloat16)
        flops = 2 * size**3 / self.seconds_of(lambda: left @ left)
        run = self.training(model, "sam", precision="bf16" if is_cuda else "fp32")
        num_steps = run.task.steps_per_epoch
        step_s = self.seconds_of(run.run_epoch) / num_steps
        inputs = run.task.prepare(next(iter(run.task.batches(0))))  # type: ignore[attr-defined]
        with FlopCounterMode(display=False) as counter:
            run.task.loss(inputs).backward()  # type: ignore[no-untyped-call]
        step_flops = 2 * counter.get_total_flops()
        return {
            "copied_bytes_per_s": copied,
            "flops_per_s": flops,
            "images_per_s": 128 / step_s,
            "step_flops": step_flops,
            "share_of_flop_roof": step_flops / step_s / flops,
        }

    def kernels(self, model: str) -> Row:
        """Lists the kernels of one step, launched one by one, by the time that they take."""
        run = self.training(model)
        run._use_graph = False
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities = [torch.profiler.ProfilerActivity.CUDA]
        rows = run.task.batches(1)
        with torch.profiler.profile(activities=activities) as profile:
            run._take_step(run._device_rates[0], next(iter(rows)))
            self._wait()
        attribute = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        events = sorted(profile.key_averages(), key=lambda event: -float(getattr(event, attribute)))
        total = sum(float(getattr(event, attribute)) for event in events) or 1.0
        largest = [
            {"name": event.key[:120], "share": getattr(event, attribute) / total, "launches": event.count}
            for event in events[:NUM_LARGEST]
        ]
        return {"step_us": total, "launches": sum(event.count for event in events), "largest": largest}

    def deterministic(self, model: str) -> Row:
        """Times epochs with deterministic algorithms, as runs always use them, against epochs without."""
        fixed = self.training(model)
        with mock.patch.object(engine, "repeatable", lambda device: nullcontext()):
            free = self.training(model)  # its graph is captured here
            free_s = [self.seconds_of(free.run_epoch) for _ in range(self.repeats)]
        fixed_s = [self.seconds_of(fixed.run_epoch) for _ in range(self.repeats)]
        ratios = [one / two for one, two in zip(fixed_s, free_s, strict=True)]
        return {"deterministic_over_free": [statistics.median(ratios), min(ratios), max(ratios)]}

    def casts(self, model: str) -> Row:
        """Times a pass with weights that autocast casts one by one, and with a copy of all of them cast at once."""
        run = self.training(model, precision="bf16")
        batch = run.task.prepare(next(iter(run.task.batches(0))))  # type: ignore[attr-defined]
        # What autocast casts: weights of products and convolutions.
        matrices = {name: param for name, param in run.model.named_parameters() if param.ndim > 1}
        names, params = list(matrices), list(matrices.values())
        cast = [torch.empty_like(param, dtype=torch.bfloat16) for param in params]

        def by_layer() -> None:
            with torch.autocast(self.device.type, torch.bfloat16):
                run.model(batch[0]).float().sum().backward()

        def at_once() -> None:
            torch._foreach_copy_(cast, [param.detach() for param in params])
            weights = {name: value.requires_grad_() for name, value in zip(names, cast, strict=True)}
            with torch.autocast(self.device.type, torch.bfloat16):
                torch.func.functional_call(run.model, weights, (batch[0],)).float().sum().backward()
            for value in cast:
                value.requires_grad_(False)
                value.grad = None

        return {"by_layer_over_at_once": self.ratio(at_once, by_layer)}

    def compile(self, model: str) -> Row:
        """Times epochs of a compiled model against those of one that is not."""
        plain = self.training(model)
        begin = time.perf_counter()
        compiled = self.training(model, compile="true")
        first_s = time.perf_counter() - begin
        return {
            "plain_over_compiled": self.ratio(compiled.run_epoch, plain.run_epoch),
            "first_epoch_s": first_s,
        }

    def batch(self, model: str) -> Row:
        """Measures images a second at three sizes of batches."""
        speeds = {}
        for size in (128, 256, 512):
            run = self.training(model, batch_size=size)
            epoch_s = self.seconds_of(run.run_epoch)
            speeds[str(size)] = size * run.task.steps_per_epoch / epoch_s
        return {"images_per_s": speeds}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    """Takes the steps that the file lacks, and writes it after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--steps", nargs="+")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "gpu_profile-cuda.json"
    )
    options = parser.parse_args()
    device = choose_device(options.device)
    found: dict[str, Row] = json.loads(options.out.read_text())["steps"] if options.out.exists() else {}
    steps = Profile(device, options.seconds, options.repeats).steps()
    for name in options.steps or steps:
        for model in options.models[:1] if name == "floor" else options.models:
            key = name if name == "floor" else f"{name} {model}"
            if key in found:
                continue
            begin = time.perf_counter()
            try:
                found[key] = steps[name](model)
            except (RuntimeError, ValueError) as error:  # memory, or an operation that the device lacks
                found[key] = {"error": str(error).partition("\n")[0]}
            shown = {part: value for part, value in found[key].items() if part != "largest"}
            print(f"{key} ({time.perf_counter() - begin:.0f} s): {json.dumps(shown)}", flush=True)
            for kernel in found[key].get("largest", ())[:5]:
                print(f"  {kernel['share']:6.1%} {kernel['launches']:>5} {kernel['name'][:90]}", flush=True)
            result = {
                "benchmark": "gpu_profile",
                "hardware": device_name(device),
                "torch": torch.__version__,
                "n": options.repeats,
                "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "steps": found,
            }
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
