"""Times optimizer steps: base, SAM and ZSharp as whole steps, and the ascent alone against what others do.

Run `python benchmarks/optimizer_step.py` (CPU: one thread, about six minutes) or with `--device cuda`. Within a
repeat all variants of a model are timed one after the other, so a ratio compares neighbours in time; the median of the
ratios is given with the smallest and the largest. A whole step is forward and backward of a batch, twice for the
sharpness-aware ones, and the base optimizer's step (SGD with momentum), in the precision the trainer takes; on CUDA
also replayed from a CUDA graph, as the trainer does.

The authors' ascent and the usual SAM loop are those of `other_ascents.py`.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from other_ascents import authors_ascent, sam_loop_ascent
from torch import nn

from zsharp.models import build_model, layout_of
from zsharp.optim import frozen_batch_norm, make_optimizer
from zsharp.optim.triton.tables import filled_after_capture
from zsharp.training.device import choose_device, device_name
from zsharp.training.precision import uses_bf16

MODELS = ("resnet20", "resnet56", "resnet110", "vgg16_bn", "vit_7_8_8_384", "linear_4096")
OURS = {
    "base": ("base", {}),
    "sam": ("sam", {}),
    "zsharp": ("zsharp", {}),
    "zsharp_official": ("zsharp_official", {}),
}
SHAPE = (3, 32, 32)


def main() -> None:
    """Runs all models, prints their ratios and writes everything as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--batch-size", type=int, help="default: 64 on the CPU, 128 on CUDA")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/optimizer_step-DEVICE.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = choose_device(arguments.device)
    batch_size = arguments.batch_size or (64 if device.type == "cpu" else 128)
    print(
        f"{device_name(device)}; torch {torch.__version__}; "
        f"{'one thread; ' if device.type == 'cpu' else ''}batch {batch_size}; n = {arguments.repeats}"
    )
    rows = []
    for name in arguments.models:
        row = measure(name, device, batch_size, arguments.repeats)
        rows.append(row)
        print(
            f"{name} ({row['precision']}, {row['num_tensors']} tensors, {row['num_parameters'] / 1e6:.2f} M)",
            flush=True,
        )
        for kind in ("step", "graph", "ascent"):
            for ratio, values in row[f"{kind}_ratios"].items():
                print(
                    f"  {kind:<6} {ratio:<26} {spread(values)}{verdict(kind, ratio, name, values)}",
                    flush=True,
                )
        write(rows, device, batch_size, arguments)  # each time: a lease may end any time


def write(
    rows: list[dict[str, Any]], device: torch.device, batch_size: int, arguments: argparse.Namespace
) -> None:
    """Writes what was measured so far as JSON."""
    out = arguments.out or Path(__file__).parent / "results" / f"optimizer_step-{device.type}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "benchmark": "optimizer_step",
        "hardware": device_name(device),
        "torch": torch.__version__,
        "batch_size": batch_size,
        "n": arguments.repeats,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": rows,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")


def measure(name: str, device: torch.device, batch_size: int, repeats: int) -> dict[str, Any]:
    """Times every variant on one model and returns milliseconds and ratios."""
    model, forward_backward, precision = build(name, device, batch_size)
    params = list(model.parameters())
    forward_backward()
    steps, ascents, memory = {}, {}, {}
    for variant, (method, settings) in OURS.items():
        optimizer = make_optimizer(params, method, torch.optim.SGD, lr=1e-6, momentum=0.9, **settings)
        steps[variant] = whole_step(model, optimizer, forward_backward)
        if method != "base":
            ascents[variant] = two_halves(optimizer)
    if (theirs := pytorch_optimizer_sam(params)) is not None:
        steps["pytorch_optimizer_sam"] = whole_step(model, theirs, forward_backward)
        ascents["pytorch_optimizer_sam"] = lambda: their_ascent(theirs, params)
    ascents["authors"] = lambda: authors_ascent(params)
    ascents["sam_loop"] = lambda: sam_loop_ascent(params)
    for variant, step in steps.items():
        memory[variant] = peak_bytes(step, device)
    step_ms = time_in_turn(steps, device, repeats, at_least_s=0.3)
    graph_ms = {}
    if device.type == "cuda":
        graphs = {name: captured(step, device) for name, step in steps.items() if name in OURS}
        graph_ms = time_in_turn(graphs, device, repeats, at_least_s=0.3)
        del graphs
    forward_backward()
    ascent_ms = time_in_turn(ascents, device, repeats, at_least_s=0.2)
    return {
        "model": name,
        "precision": precision,
        "num_parameters": sum(p.numel() for p in params),
        "num_tensors": len(params),
        "step_ms": step_ms,
        "graph_step_ms": graph_ms,
        "ascent_ms": ascent_ms,
        "peak_bytes": memory,
        "step_ratios": ratios(
            step_ms,
            ("sam", "base"),
            ("zsharp", "sam"),
            ("zsharp_official", "sam"),
            ("sam", "pytorch_optimizer_sam"),
        ),
        "graph_ratios": ratios(graph_ms, ("sam", "base"), ("zsharp", "sam"), ("zsharp_official", "sam"))
        | {
            f"{name} one by one/graph": ratios({"a": step_ms[name], "b": ms}, ("a", "b"))["a/b"]
            for name, ms in graph_ms.items()
        },
        "ascent_ratios": ratios(
            ascent_ms,
            ("authors", "zsharp_official"),
            ("authors", "zsharp"),
            ("sam_loop", "sam"),
            ("sam", "pytorch_optimizer_sam"),
            ("zsharp", "sam"),
        ),
    }


def build(name: str, device: torch.device, batch_size: int) -> tuple[nn.Module, Callable[[], None], str]:
    """Returns a model, a function that leaves fresh gradients in it, and the precision of its forward pass."""
    torch.manual_seed(0)
    if name == "linear_4096":
        model: nn.Module = nn.Sequential(
            nn.Flatten(), nn.Linear(3072, 4096), nn.ReLU(), nn.Linear(4096, 4096)
        )
        layout = torch.contiguous_format
    else:
        model = build_model(name, SHAPE, 10)
        layout = layout_of(name)
    model = model.to(device, memory_format=layout)
    inputs = torch.randn(batch_size, *SHAPE, device=device).contiguous(memory_format=layout)
    labels = torch.randint(10, (batch_size,), device=device)
    bf16 = uses_bf16("auto", device, SHAPE, name)

    def forward_backward() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(inputs)
        nn.functional.cross_entropy(logits.float(), labels).backward()

    return model, forward_backward, "bf16" if bf16 else "fp32"


def whole_step(model: nn.Module, optimizer: Any, forward_backward: Callable[[], None]) -> Callable[[], None]:
    """Both passes and the base step; one pass for an optimizer without an ascent."""

    def step() -> None:
        optimizer.zero_grad()
        forward_backward()
        if hasattr(optimizer, "first_step"):
            optimizer.first_step(zero_grad=True)
            with frozen_batch_norm(model):
                forward_backward()
            optimizer.second_step()
        else:
            optimizer.step()

    return step


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A whole step replayed from a CUDA graph, as the trainer does it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with filled_after_capture(device) as tables, torch.cuda.graph(graph):
        step()

    def replay(tables: torch.Tensor = tables) -> None:
        graph.replay()

    return replay


def two_halves(optimizer: Any) -> Callable[[], None]:
    """To w + e and back."""

    def there_and_back() -> None:
        optimizer.first_step()
        optimizer.restore()

    return there_and_back


def pytorch_optimizer_sam(params: list[nn.Parameter]) -> Any:
    """The SAM of pytorch_optimizer, where it is installed."""
    try:
        from pytorch_optimizer import SAM
    except ImportError:
        return None
    return SAM(params, torch.optim.SGD, rho=0.05, lr=1e-6, momentum=0.9)


@torch.no_grad()
def their_ascent(optimizer: Any, params: list[nn.Parameter]) -> None:
    """To w + e and back as its second step goes back, without the base step in it."""
    optimizer.first_step()
    torch._foreach_copy_(params, [optimizer.state[p]["old_p"] for p in params])


def time_in_turn(
    variants: dict[str, Callable[[], None]], device: torch.device, repeats: int, at_least_s: float = 0.0
) -> dict[str, list[float]]:
    """Milliseconds a call of each variant, `repeats` times in turn after one warm-up."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, call in variants.items():
            calls, began = 0, now(device)
            while calls == 0 or now(device) - began < at_least_s / len(variants):
                call()
                calls += 1
            elapsed_ms = (now(device) - began) / calls * 1e3
            if repeat:
                found[name].append(elapsed_ms)
    return found


def now(device: torch.device) -> float:
    """Wall seconds with the GPU's work done; the process's own CPU seconds on the CPU, where neighbours disturb."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def peak_bytes(step: Callable[[], None], device: torch.device) -> int:
    """Largest allocation during a step on CUDA; on the CPU the process's peak so far, which only grows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step()
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ratios(times: dict[str, list[float]], *pairs: tuple[str, str]) -> dict[str, list[float]]:
    """Ratios of neighbours in time, for the pairs whose variants were timed."""
    return {
        f"{one}/{other}": [a / b for a, b in zip(times[one], times[other], strict=True)]
        for one, other in pairs
        if one in times and other in times
    }


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})"


def verdict(kind: str, ratio: str, model: str, values: list[float]) -> str:
    """What the ratio is held against, and whether it keeps it."""
    limits = {
        ("step", "sam/base"): (2.05, True),
        ("step", "zsharp/sam"): (1.10 if model == "vgg16_bn" else 1.05, True),
        ("graph", "sam/base"): (2.05, True),
        ("graph", "zsharp/sam"): (1.10 if model == "vgg16_bn" else 1.05, True),
        ("ascent", "sam/pytorch_optimizer_sam"): (1.0, True),
        ("ascent", "authors/zsharp_official"): (20.0, False),
    }
    if (kind, ratio) not in limits or model == "linear_4096":
        return ""
    if ratio.startswith("authors") and model != "vgg16_bn":
        return ""
    limit, is_upper = limits[kind, ratio]
    median = statistics.median(values)
    kept = median <= limit if is_upper else median >= limit
    return f"  target {'<=' if is_upper else '>='} {limit:g}: {'kept' if kept else 'MISSED'}"


if __name__ == "__main__":
    main()
