"""This machine's processor: its name, and how many cores this process may use."""

import os
import platform
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
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows have no affinities
