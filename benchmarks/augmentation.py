"""Measures batched augmentation against per-sample torchvision: images a second on one core.

Run `python -m benchmarks.augmentation` from the repository's root; `--data FOLDER` takes real images from a
folder in Hugging Face's Parquet layout. Both sides start at uint8 images in memory, fetch a random batch, and
end at a normalised float batch on the device. They are timed in turn, so a ratio compares neighbours in time.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from zsharp.cpu import cpu_model
from zsharp.data import prepare
from zsharp.data.augment import Augmentation, augment, normalise

TARGET_RATIO = 10.0
BATCH_SIZE = 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CASES = {
    "crop+flip": Augmentation(crop_padding=4, flip=True),
    "crop+flip+cutout": Augmentation(crop_padding=4, flip=True, cutout=8),
    "crop+flip+randaugment": Augmentation(crop_padding=4, flip=True, randaugment=2),
}


def main() -> None:
    """Runs all cases, prints one line each and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="folder with train-*.parquet and test-*.parquet of 32x32 images"
    )
    parser.add_argument("--cache", type=Path, help="where the decoded copy of --data is kept")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/augmentation-DEVICE.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = _images(arguments.data, arguments.cache)
    machine = _hardware(arguments.device)
    print(f"{machine}; torch {torch.__version__}; one thread; batch {BATCH_SIZE}; n = {arguments.repeats}")
    out = arguments.out or Path(__file__).parent / "results" / f"augmentation-{arguments.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for name in CASES:
        rows.append(_measure(name, images, arguments.device, arguments.repeats))
        result = {
            "benchmark": "augmentation",
            "data": "parquet folder" if arguments.data else "synthetic",
            "hardware": machine,
            "torch": torch.__version__,
            "num_threads": 1,
            "batch_size": BATCH_SIZE,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "cases": rows,
        }
        out.write_text(json.dumps(result, indent=1) + "\n")  # each time: a lease may end any time


def _measure(name: str, images: np.ndarray, device: str, repeats: int) -> dict[str, object]:
    """Times both pipelines in turn; spread is smallest to largest."""
    per_sample, batched = _per_sample(images, CASES[name], device), _batched(images, CASES[name], device)
    ours, theirs = [], []
    for _ in range(repeats + 1):  # the first is warm-up
        theirs.append(_images_per_s(per_sample, device, seconds=0.5))
        ours.append(_images_per_s(batched, device, seconds=0.5))
    ours, theirs = ours[1:], theirs[1:]
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    target = f", target {TARGET_RATIO:g} {'met' if statistics.median(ratios) >= TARGET_RATIO else 'MISSED'}"
    print(
        f"{name:>22}: batched {_summary(ours)} images/s, per sample {_summary(theirs)} images/s, "
        f"ratio {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}){target}"
    )
    return {
        "case": name,
        "n": repeats,
        "batched_images_per_s": ours,
        "per_sample_images_per_s": theirs,
        "ratio": ratios,
        "ratio_median": statistics.median(ratios),
        "target_ratio": TARGET_RATIO,
    }


def _per_sample(images: np.ndarray, augmentation: Augmentation, device: str) -> Callable[[], Tensor]:
    """Returns what a torchvision data set and the default collation do for one batch.

    With the first version of torchvision's transforms, on Pillow images: the second takes longer per sample.
    """
    steps: list[Callable] = [
        transforms.RandomCrop(32, padding=augmentation.crop_padding),
        transforms.RandomHorizontalFlip(),
    ]
    if augmentation.randaugment:
        steps.append(transforms.RandAugment(num_ops=augmentation.randaugment))
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if augmentation.cutout:
        area = (augmentation.cutout / 32) ** 2
        steps.append(transforms.RandomErasing(p=1.0, scale=(area, area), ratio=(1.0, 1.0)))
    transform = transforms.Compose(steps)
    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    generator = np.random.default_rng(0)

    def batch() -> Tensor:
        rows = generator.integers(len(pixels), size=BATCH_SIZE)
        return torch.stack([transform(Image.fromarray(pixels[row])) for row in rows]).to(device)

    return batch


def _batched(images: np.ndarray, augmentation: Augmentation, device: str) -> Callable[[], Tensor]:
    resident = torch.from_numpy(images).to(device)
    mean, std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
    generator = torch.Generator(device).manual_seed(0)

    def batch() -> Tensor:
        rows = torch.randint(len(resident), (BATCH_SIZE,), generator=generator, device=device)
        return normalise(augment(resident[rows], augmentation, generator), mean, std)

    return batch


def _images_per_s(batch: Callable[[], Tensor], device: str, seconds: float) -> float:
    """Counts the process's own CPU time, so that neighbours on the machine disturb little; wall time on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    num_batches, started_s = 0, clock()
    while clock() - started_s < seconds:
        batch()
        num_batches += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return num_batches * BATCH_SIZE / (clock() - started_s)


def _images(folder: Path | None, cache: Path | None) -> np.ndarray:
    """Returns uint8 [10000, 3, 32, 32]."""
    if folder is None:
        return np.random.default_rng(0).integers(256, size=(10_000, 3, 32, 32), dtype=np.uint8)
    images, _ = prepare("parquet", folder, cache=cache).train()
    if images.shape[1:] != (3, 32, 32):
        raise SystemExit(f"--data: got images of shape {images.shape[1:]}, expected (3, 32, 32)")
    return np.array(images[:10_000])


def _summary(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _hardware(device: str) -> str:
    cpu = cpu_model() or "unknown CPU"
    return f"{cpu}, {torch.cuda.get_device_name()}" if device == "cuda" else cpu


if __name__ == "__main__":
    main()
