"""How many trials share a GPU follows from what was measured."""

import pytest

from tune_jobs.search.packing import PACKINGS, Measured, choose_packing, choose_sharing, fewer, fits


def measured(*rates):
    return [Measured(n, rate, 2 * 10**9) for n, rate in zip(PACKINGS, rates, strict=False)]


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ((1000,), 1),
        ((1000, 1040), 1),
        ((1000, 1900), 2),
        ((1000, 1900, 3500), 4),
        ((1000, 1900, 1950, 4000), 2),
        ((1000, 1060, 1200, 1300, 1500), 16),
    ],
)
def test_each_step_up_has_to_be_worth_it(rates, chosen):
    assert choose_packing(measured(*rates)) == chosen


def test_memory_leaves_room_for_what_the_driver_takes():
    one = Measured(1, 1000.0, 20 * 10**9)
    assert fits(one, 4, 90 * 10**9)
    assert not fits(one, 4, 85 * 10**9)


def test_fewer_ends_at_a_whole_gpu():
    assert [fewer(share) for share in (1 / 8, 1 / 5, 1 / 4, 1 / 2, 1.0)] == [1 / 4, 1 / 4, 1 / 2, 1.0, 1.0]


@pytest.mark.parametrize(
    ("series", "chosen"),
    [
        ([{"time": (1000, 1500), "mps": (1000, 1550)}], (2, "time")),
        ([{"time": (1000, 1500), "mps": (1000, 1600)}], (2, "mps")),
        ([{"time": (1000,), "mps": (1000, 1600, 2400)}], (4, "mps")),
        ([{"time": (1000, 1500), "mps": (1000,)}], (2, "time")),  # MPS does not start
        ([{"mps": (1000, 1010)}], (1, "mps")),
        # The architecture that needs most room decides, for each kind.
        ([{"time": (1000, 1500), "mps": (1000, 1900)}, {"time": (10, 15), "mps": (10, 10.1)}], (2, "time")),
    ],
)
def test_mps_has_to_be_worth_it(series, chosen):
    rows = [{kind: measured(*rates) for kind, rates in by_kind.items()} for by_kind in series]
    assert choose_sharing(rows) == chosen
