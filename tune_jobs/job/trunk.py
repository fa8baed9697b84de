"""What results call trunks, which trials start from, and how many epochs they train."""

TRUNK = "trunk"
"""What results call the method of a trunk, which no method of a job is compared with."""


def fork_epoch(fraction: float, epochs: int) -> int:
    """Returns how many epochs a trunk trains: at least one, and at least one fewer than a trial."""
    return min(max(1, round(fraction * epochs)), epochs - 1)
