"""Times whole training steps on a GPU: replayed from a CUDA graph, one by one, and as one would usually write them.

    python benchmarks/training.py [--device cuda] [--models resnet20 ...] [--seconds 2] [--repeats 3] [--out FILE]

Images a second, each image counted once a step. "Usual" is the loop of the SAM scripts in circulation, in bfloat16
and channels_last as ours: SAM tensor by tensor (the authors' mask for zsharp), torch's SGD, the loss read at each
step, a fresh augmented batch by torchvision on the GPU or (`loader`) from a DataLoader with workers. All variants of
a model are timed in turn, `repeats` times; a ratio compares neighbours in time. Models that the file has already
are not timed again. With `--device cpu` a rehearsal that shows only that it runs.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from other_ascents import authors_perturb, sam_loop_perturb
from torch import Tensor, nn

from zsharp.data import prepare
from zsharp.data.training_data import TrainingData
from zsharp.models import build_model, layout_of
from zsharp.training import Training, TrainSpec, TrialSpec
from zsharp.training.device import choose_device, device_name

MODELS = ("resnet20", "resnet56", "vgg16_bn", "vit_7_8_8_384")
METHODS = ("base", "sam", "zsharp")
NUM_IMAGES, BATCH_SIZE = 6_400, 128
RATIOS = (
    ("{} graph", "{} one by one"),
    ("{} graph", "{} usual"),
    ("{} graph", "{} usual loader"),
)


def main() -> None:
    """Runs all models, prints their ratios and writes everything as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement, at least an epoch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loader", nargs="*", default=["resnet20"], help="models fed by a DataLoader too")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training-cuda.json")
    options = parser.parse_args()
    device = choose_device(options.device)
    print(
        f"{device_name(device)}; torch {torch.__version__}; batch {BATCH_SIZE}; bf16; n = {options.repeats}"
    )
    data, rows = few_images(device), []
    if options.out.exists():
        rows = json.loads(options.out.read_text())["models"]
    for model in options.models:
        if any(row["model"] == model for row in rows):
            print(f"{model}: in {options.out.name} already", flush=True)
            continue
        speeds = measure(model, data, options.seconds, options.repeats, model in options.loader)
        rows.append({"model": model, "images_per_s": speeds, "ratios": ratios(speeds)})
        print(model, flush=True)
        for name, values in speeds.items():
            print(f"  {name:<24} {statistics.median(values):>9,.0f} images/s", flush=True)
        for name, values in rows[-1]["ratios"].items():
            print(f"  {name:<48} {statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})")
        result = {
            "benchmark": "training",
            "hardware": device_name(device),
            "torch": torch.__version__,
            "batch_size": BATCH_SIZE,
            "n": options.repeats,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "models": rows,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")  # each model: a lease may end any time


def random_images(device: torch.device) -> TrainingData:
    """Noise of CIFAR-10's shape: speeds do not depend on what is in the images."""
    info = replace(prepare("digits").info, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (NUM_IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (NUM_IMAGES,), generator=generator)
    rows = torch.arange(NUM_IMAGES)
    return TrainingData(
        replace(info, flip=True), *(part.to(device) for part in (images, labels, rows, rows[:0]))
    )


def few_images(device: torch.device) -> TrainingData:
    """Returns these images; a batch of them where a rehearsal is to take no time."""
    data = random_images(device)
    num = NUM_IMAGES if device.type == "cuda" else BATCH_SIZE
    return replace(data, train_indices=data.train_indices[:num])


def measure(
    model: str, data: TrainingData, seconds: float, repeats: int, with_loader: bool
) -> dict[str, list[float]]:
    """Images a second of each variant, `repeats` times in turn after one warm-up."""
    variants: dict[str, Callable[[], Any]] = {}
    for method in METHODS:
        variants[f"{method} graph"] = ours(model, method, data, True)
        variants[f"{method} one by one"] = ours(model, method, data, False)
        variants[f"{method} usual"] = usual(model, method, data, resident_batches)
    if with_loader:
        variants["sam usual loader"] = usual(model, "sam", data, loader_batches)
    found: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, epoch in variants.items():
            num_images, began = 0, time.perf_counter()
            while num_images == 0 or time.perf_counter() - began < seconds * (repeat > 0):
                epoch()
                num_images += len(data.train_indices)
            if data.images.is_cuda:
                torch.cuda.synchronize()
            if repeat:
                found[name].append(num_images / (time.perf_counter() - began))
    return found


def ours(model: str, method: str, data: TrainingData, use_graph: bool) -> Callable[[], Any]:
    """An epoch of the trainer, without its validation."""
    train = TrainSpec(
        epochs=1_000_000 // BATCH_SIZE,
        batch_size=BATCH_SIZE,
        base_optimizer="sgd",
        schedule="constant",
        precision="bf16",
    )
    spec = TrialSpec(
        model, method, {"lr": 1e-3}, train=train, device="cuda" if data.images.is_cuda else "cpu"
    )
    training = Training(spec, data, use_graph=use_graph)

    def epoch() -> None:
        training.run_epoch()

    return epoch


def usual(
    model: str,
    method: str,
    data: TrainingData,
    batches: Callable[[TrainingData], Iterator[tuple[Tensor, Tensor]]],
) -> Callable[[], Any]:
    """An epoch as scripts have it."""
    torch.manual_seed(0)
    layout = layout_of(model)
    device = data.images.device
    net = build_model(model, (3, 32, 32), 10).to(device, memory_format=layout)
    params = list(net.parameters())
    optimizer = torch.optim.SGD(params, lr=1e-3, momentum=0.9, weight_decay=5e-5, foreach=False)
    perturb = {"base": None, "sam": sam_loop_perturb, "zsharp": authors_perturb}[method]

    def loss_of(inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            logits = net(inputs)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        return loss

    def epoch() -> None:
        net.train()
        seen = 0.0
        for images, labels in batches(data):
            inputs = images.contiguous(memory_format=layout)
            optimizer.zero_grad()
            loss = loss_of(inputs, labels)
            if perturb is not None:
                perturb(params)
                optimizer.zero_grad()
                loss_of(inputs, labels)
                for p in params:
                    p.data = p.old
            optimizer.step()
            seen += loss.item()

    return epoch


def resident_batches(data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images on the GPU, cropped and mirrored together, normalised."""
    from torchvision.transforms import v2

    transform = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
    mean = torch.full((3, 1, 1), 0.5, device=data.images.device)
    order = torch.randperm(len(data.train_indices), device=data.images.device)
    for rows in order.split(BATCH_SIZE):
        yield (transform(data.images[rows]).float().div_(255) - mean) / (mean / 2), data.labels[rows]


def loader_batches(data: TrainingData) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches from a DataLoader with a worker for each core but one, up to 12, kept from epoch to epoch."""
    if id(data) not in _loaders:
        num_workers = min(12, max(1, (os.cpu_count() or 2) - 1))
        _loaders[id(data)] = torch.utils.data.DataLoader(
            _Images(data),
            BATCH_SIZE,
            shuffle=True,
            num_workers=num_workers,
            pin_memory=True,
            persistent_workers=True,
        )
    for inputs, labels in _loaders[id(data)]:
        yield inputs.cuda(non_blocking=True), labels.cuda(non_blocking=True)


_loaders: dict[int, Any] = {}


class _Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """As torchvision's CIFAR10: Pillow images through the usual transforms."""

    def __init__(self, data: TrainingData) -> None:
        from torchvision import transforms

        self.pixels = np.ascontiguousarray(data.images.cpu().numpy().transpose(0, 2, 3, 1))
        self.labels = data.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.25,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[row])), self.labels[row]


def ratios(speeds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Ours over theirs, and what a sharpness-aware step costs."""
    pairs = [(one.format(m), other.format(m)) for m in METHODS for one, other in RATIOS]
    pairs += [("base graph", "sam graph"), ("sam graph", "zsharp graph")]
    return {
        f"{one} / {other}": [a / b for a, b in zip(speeds[one], speeds[other], strict=True)]
        for one, other in pairs
        if one in speeds and other in speeds
    }


if __name__ == "__main__":
    main()
