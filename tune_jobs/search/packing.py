"""Decides how many trials share a GPU, from what a short probe measured."""

from collections.abc import Sequence
from dataclasses import dataclass

_LEAST_GAIN = 1.1  # in throughput of the whole GPU, that sharing it among more trials has to bring
_USABLE = 0.9  # of the memory: the driver's share and fragmentation grow with the number of trials
PACKINGS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Measured:
    """What trials of one kind did when several shared a GPU."""

    together: int  # how many shared it
    images_per_s: float  # training images per second, the total of all
    peak_memory_bytes: int  # the most memory that any of them took


def fits(measured: Measured, together: int, memory_bytes: int) -> bool:
    """Returns whether `together` trials fit on a GPU with this much memory."""
    return together * measured.peak_memory_bytes <= _USABLE * memory_bytes


def choose_packing(measured: Sequence[Measured]) -> int:
    """Returns how many trials should share a GPU: each step up has to be worth it.

    The measurements come in rising order of `together`, the first with a single trial.
    """
    best = measured[0]
    for more in measured[1:]:
        if more.images_per_s < _LEAST_GAIN * best.images_per_s:
            break
        best = more
    return best.together


def fewer(share: float) -> float:
    """Returns the next larger share of a GPU for each trial; at most a whole GPU."""
    together = round(1 / share)
    return 1.0 / max([packing for packing in PACKINGS if packing < together] or [1])


def explain(name: str, measured: Sequence[Measured]) -> str:
    """Returns what was measured, in words."""
    alone = measured[0]
    parts = [
        f"{more.together} at once {more.images_per_s / alone.images_per_s:.2f} times that"
        for more in measured[1:]
    ]
    facts = f"{name} takes {alone.peak_memory_bytes / 1e9:.2f} GB and trains {alone.images_per_s:,.0f} images/s alone"
    return ", ".join([facts, *parts])
