"""This machine's processor: its name, and how many cores this process may use."""

import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path


def cpu_model() -> str | None:
    """Returns the processor's name, such as `Intel(R) Xeon(R) Platinum 8480+`, or None if nothing tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine() or None  # Linux on ARM lists no model name


def num_cpus() -> int:
    """Returns how many cores this process may use: those of its affinity, or fewer where a container has a quota."""
    # macOS and Windows have no affinities.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas())]))


def may_have_gpu(devices: Path = Path("/dev")) -> bool:
    """Returns False where no driver of a GPU that torch can use is loaded; asking torch takes seconds to import it.

    NVIDIA's driver has the device `nvidiactl`, AMD's `kfd`, and that of Windows' Linux `dxg`.
    """
    return sys.platform != "linux" or any((devices / name).exists() for name in ("nvidiactl", "kfd", "dxg"))


def quotas(
    groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> Iterator[float]:
    """Yields the CPU quotas, in cores, of this process's control groups and of all groups above them.

    Version 2 has `cpu.max` ("200000 100000", or "max 100000"), version 1 `cpu.cfs_quota_us` (-1: none) and
    `cpu.cfs_period_us`.
    """
    for line in _text(groups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers == "":
            roots = [mounted, mounted / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [mounted / "cpu", mounted / controllers]
        else:
            continue
        # Inside a container the path may be that of the host, which is not mounted: the top is the container's.
        parts = [part for part in name.split("/") if part not in ("", "..")]
        folders = [Path(*parts[:depth]) for depth in range(len(parts) + 1)]
        for folder in (root / folder for root in roots for folder in folders):
            numbers = _text(folder / "cpu.max").split() or [
                *_text(folder / "cpu.cfs_quota_us").split(),
                *_text(folder / "cpu.cfs_period_us").split(),
            ]
            if len(numbers) == 2 and all(number.isdecimal() and int(number) > 0 for number in numbers):
                yield int(numbers[0]) / int(numbers[1])


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
