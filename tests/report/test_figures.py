"""Axes of the report's figures: they show the differences that are there, and say where they are cut."""

import math

import pandas as pd
import pytest

from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.report.figures import at_edge, cut_axis, dash, log_ticks, symbol, whole_axis

GOOD = [0.90, 0.91, 0.92, 0.93]
LOSS = Metric("val_loss", "min")


@pytest.mark.parametrize(
    ("metric", "values", "ends", "num_hidden"),
    [
        (VAL_ACCURACY, [*GOOD, 0.1, 0.5], GOOD, 2),
        (VAL_ACCURACY, [*GOOD, 0.89], GOOD, 0),  # hardly a difference: it stays whole
        (VAL_ACCURACY, [*GOOD, 0.1], [*GOOD, 0.1], 1),  # one that trained to the end and failed
        (VAL_ACCURACY, [*GOOD, 0.1], GOOD[:3], 0),  # too few to say what is good
        (VAL_ACCURACY, [0.9] * 9, [0.9] * 9, 0),
        (VAL_ACCURACY, [], [], 0),
        (VAL_ACCURACY, [*GOOD, 0.1, math.nan], [*GOOD, math.nan], 1),
        (LOSS, [*GOOD, 2.5], GOOD, 1),
        (LOSS, [*GOOD, 95.0], GOOD, 0),  # logarithmic instead
    ],
)
def test_an_axis_is_cut_where_differences_would_not_show(metric, values, ends, num_hidden):
    axis, note = cut_axis(metric, values, ends)
    assert ("range" in axis) == bool(num_hidden) == bool(note)
    if num_hidden:
        low, high = axis["range"]
        assert sum(not low <= value <= high for value in values if not math.isnan(value)) == num_hidden
        assert f"{num_hidden} of " in note
        drawn = at_edge(axis, pd.Series(values))
        assert drawn.between(low, high).sum() == sum(not math.isnan(value) for value in values)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (3e-4, 3e-2, ["0.0003", "0.001", "0.003", "0.01", "0.03"]),
        (0.01, 0.1, ["0.01", "0.02", "0.05", "0.1"]),
        (1e-6, 1, ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]),
    ],
)
def test_logarithmic_ticks_are_written_in_full(low, high, ticks):
    assert log_ticks(low, high)["ticktext"] == ticks


def test_epochs_are_whole():
    assert whole_axis("epoch", [1, 2, 3])["dtick"] == 1
    assert "dtick" not in whole_axis("epoch", [200])


def test_controls_and_base_are_told_apart_by_more_than_colour():
    looks = {label: (symbol(label), dash(label)) for label in ("zsharp", "random_sam (other)", "base")}
    assert len(set(looks.values())) == 3
