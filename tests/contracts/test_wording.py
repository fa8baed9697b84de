"""Numbers with their nouns, and the last line of an error, as all messages show them."""

import pytest

from tune_jobs.wording import counted, last_line


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
