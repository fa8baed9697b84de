"""Words that many messages share: numbers with their nouns, and the line of an error that says what happened."""

import re


def counted(number: float, noun: str, nouns: str | None = None) -> str:
    """Returns `1 trial`, `2 trials`, `1,000 trials` or `0.5 GPUs`.

    Give the plural if it is not the singular with an s.
    """
    digits = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{digits} {noun if number == 1 else nouns or noun + 's'}"


def last_line(text: str) -> str:
    """Returns the last line of an error's text that is not empty, without colours and control characters."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return "".join(char for char in lines[-1] if char.isprintable()) if lines else ""
