"""Guesses which name a user meant: the hint in every message about an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches

_MIN_SIMILARITY = 0.65  # a bit lower, and `extra` would be taken for `train`


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Returns the valid name that is spelt most like `name`, or None if none is close."""
    by_spelling = {_spelling(choice): choice for choice in valid}
    close = get_close_matches(_spelling(name), by_spelling, n=1, cutoff=_MIN_SIMILARITY)
    return by_spelling[close[0]] if close else None


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Returns `did you mean NAME? `, with the space after it, or nothing if no valid name is close."""
    name_meant = nearest(name, valid)
    return f"did you mean {name_meant}? " if name_meant else ""


def _spelling(name: str) -> str:
    return name.lower().replace("-", "_")
