"""Estimates how many epochs a search still has to train, from the trials that have ended."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from functools import cache


def epochs_left(ended: Sequence[int], running: Sequence[int], num_waiting: int, max_epochs: int) -> float:
    """Returns how many more epochs running and waiting trials are expected to train.

    `ended` and `running` hold the epochs that each of these trials has trained.

    Uses the product-limit (Kaplan-Meier) estimate of a trial's length. The mean over ended trials would be far too low
    at first, since pruned trials end before the others.

    References:
        Kaplan and Meier, "Nonparametric estimation from incomplete observations", JASA 1958.
    """
    stops = sorted(Counter(epochs for epochs in ended if epochs < max_epochs).items())
    # Running trials count too, as long as it is known that they got this far.
    lengths = sorted((*ended, *running))
    num_reached = {stop: len(lengths) - bisect_left(lengths, stop) for stop, _ in stops}

    @cache
    def after(epoch: int) -> float:
        """Returns the expected further epochs of a trial that trains on after `epoch`; -1 if it has not started."""
        surviving, expected, last = 1.0, 0.0, max(0, epoch)
        for stop, num_stopped in stops:
            if stop > epoch:
                expected += surviving * (stop - last)
                last = stop
                surviving *= 1 - num_stopped / num_reached[stop]
        return expected + surviving * (max_epochs - last)

    return num_waiting * after(-1) + sum(map(after, running))
