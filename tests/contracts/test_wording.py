"""Numbers with their nouns, times, and the last line of an error, as all messages show them."""

import pytest

from tune_jobs.wording import clock, counted, duration, duration_band, last_line


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((1, "trial"), "1 trial"),
        ((1.0, "GPU"), "1 GPU"),
        ((0, "trial"), "0 trials"),
        ((1200, "trial"), "1,200 trials"),
        ((0.5, "GPU"), "0.5 GPUs"),
        ((2, "study", "studies"), "2 studies"),
    ],
)
def test_a_number_with_its_noun(arguments: tuple[float, str], shown: str) -> None:
    assert counted(*arguments) == shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("Traceback:\n  File\n\x1b[31mValueError: no\x1b[0m\x07\n\n", "ValueError: no"),
    ],
)
def test_the_last_line_of_an_error(text: str, line: str) -> None:
    assert last_line(text) == line


@pytest.mark.parametrize(
    ("seconds", "clocked", "told"),
    [
        (0.2, "0s", "1 second"),
        (7, "7s", "7 seconds"),
        (42, "42s", "40 seconds"),
        (126, "2m06s", "2 minutes"),
        (150, "2m30s", "2.5 minutes"),
        (900, "15m00s", "15 minutes"),
        (3900, "1h05m", "65 minutes"),
        (9000, "2h30m", "2.5 hours"),
        (86400 * 3, "72h00m", "3 days"),
    ],
)
def test_times(seconds: float, clocked: str, told: str) -> None:
    assert (clock(seconds), duration(seconds)) == (clocked, told)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(350, 550, "6 to 9 minutes"), (60, 62, "60 seconds"), (3000, 7200, "50 minutes to 2 hours")],
)
def test_a_band_of_time(low: float, high: float, told: str) -> None:
    assert duration_band(low, high) == told
