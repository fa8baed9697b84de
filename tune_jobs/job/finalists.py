"""What trials of finalists are called, and their seeds: a study's best, trained again before it names its winner."""

FINALISTS = "finalists"
"""Ends the name of a study of finalists."""

FIRST_SEED = 1000
"""The seed of finalists' first trials, counted from the first one that no trial of the search has.

Confirmations have the seeds in between, whether a search has finalists or not.
"""

MOST_SEEDS = 99
_NUMBERS = 100  # for each trial of the search, in a study of finalists


def number_of(trial: int, turn: int) -> int:
    """Returns the number, in its study of finalists, of a trial's configuration with its seed number `turn`, from 1."""
    assert 1 <= turn <= MOST_SEEDS
    return trial * _NUMBERS + turn


def trial_and_turn(number: int) -> tuple[int, int]:
    """Returns what `number_of` was given: the number of a trial of the search, and which seed it is."""
    return divmod(number, _NUMBERS)


def finalist_of(study: str, number: int) -> str | None:
    """Returns the id of the trial whose configuration a trial of finalists has; None of any other trial."""
    searched = study.removesuffix(f"-{FINALISTS}")
    return None if searched == study else f"{searched}-{number // _NUMBERS:04d}"
