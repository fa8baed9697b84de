"""Decides how many trials share a GPU and how, from what a short probe measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LEAST_GAIN = (
    1.05  # in throughput of the whole GPU, that sharing it among more trials, or by MPS, has to bring
)
_USABLE = 0.9  # of the memory: the driver's share and fragmentation grow with the number of trials
PACKINGS = (1, 2, 4, 8, 16)
SHARING = {"time": "taking turns", "mps": "side by side (CUDA MPS)"}


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


def choose_sharing(series: Sequence[Mapping[str, Sequence[Measured]]]) -> tuple[int, str]:
    """Returns how many trials of all architectures should share a GPU, and how: MPS has to be worth it.

    Args:
        series: For each architecture, what `choose_packing` takes, by the kind of sharing.
    """
    choices = []
    for kind in (kind for kind in SHARING if all(kind in measured for measured in series)):
        # The architecture that needs most room decides, since trials of all of them share the slots.
        together = min(choose_packing(measured[kind]) for measured in series)
        gains = [
            of_kind[PACKINGS.index(together)].images_per_s / of_kind[0].images_per_s
            for of_kind in (measured[kind] for measured in series)
        ]
        choices.append((sum(gains), together, kind))
    best = choices[0]
    for other in choices[1:]:
        if other[0] >= _LEAST_GAIN * best[0]:
            best = other
    return best[1:]


def fewer(share: float) -> float:
    """Returns the next larger share of a GPU for each trial; at most a whole GPU."""
    together = round(1 / share)
    return 1.0 / max([packing for packing in PACKINGS if packing < together] or [1])


def explain(name: str, series: Mapping[str, Sequence[Measured]]) -> str:
    """Returns what was measured of an architecture, in words."""
    alone = next(iter(series.values()))[0]
    parts = [
        f"{more.together} {SHARING[kind]} {more.images_per_s / alone.images_per_s:.2f} times that"
        for kind, measured in series.items()
        for more in measured[1:]
    ]
    facts = f"{name} takes {alone.peak_memory_bytes / 1e9:.2f} GB and trains {alone.images_per_s:,.0f} images/s alone"
    return ", ".join([facts, *parts])
