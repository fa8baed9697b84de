"""Flips bits in a ledger and in its log, and cuts them; tells what a reader makes of each."""

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tune_jobs.errors import LedgerError
from tune_jobs.ledger.rows import Decision
from tune_jobs.ledger.writer import Ledger

FILE, LOG, INDEX = "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"
NUM_TRIALS, NUM_EPOCHS = 6, 12


def write(folder: Path) -> Iterator[list[Any]]:
    """Writes a ledger and yields its content after each transaction; it is open while the generator waits."""
    with Ledger.create(folder, {"name": "damaged"}, {"git_commit": None}) as ledger:
        yield content(folder)
        for number in range(NUM_TRIALS):
            trial = f"mlp-sam-{number:04d}"
            names = {"study": "mlp-sam", "dataset": "digits", "architecture": "mlp", "method": "sam"}
            params = {"rho": 0.05, "lr": 0.1 / (number + 1)}
            ledger.start_trial(
                trial, number=number, variant=None, seed=0, params=params, max_epochs=NUM_EPOCHS, **names
            )
            yield content(folder)
            for epoch in range(1, NUM_EPOCHS + 1):
                row = {"val_accuracy": epoch / 97, "val_loss": 1 / epoch, "device": "cpu " * 60}
                is_last = epoch == NUM_EPOCHS
                decision = Decision("complete" if is_last else "continue", epoch, 0.1, number)
                ledger.report(trial, epoch, row, decision, "completed" if is_last else None)
                yield content(folder)
        ledger.record_event("stop", {"reason": None})
        yield content(folder)
        ledger.confirm("mlp-sam-0000/epochs/12/1", {"seed": 1, "test_accuracy": 0.5})
        yield content(folder)


def content(folder: Path) -> list[Any]:
    """Returns all that a reader can ask a ledger for."""
    with Ledger.open(folder, read_only=True) as ledger:
        parts = [ledger.jobs(), ledger.provenance, ledger.trials(), ledger.reports()]
        parts += [
            ledger.events(),
            ledger.confirmations(),
            ledger.reports("mlp-sam-0003") if parts[2][3:] else [],
        ]
    return parts


def copies(folder: Path) -> tuple[Path, Path, list[list[Any]]]:
    """Returns a closed ledger, one as a killed writer leaves it, and the content after each transaction."""
    steps = []
    for step in write(folder / "closed"):
        steps.append(step)
        shutil.copytree(folder / "closed", folder / "killed", dirs_exist_ok=True)
    return folder / "closed", folder / "killed", steps


def flip(data: bytes, chance: random.Random) -> bytes:
    """Returns the bytes with one bit flipped."""
    bit = chance.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    """Returns the bytes without their end."""
    return data[: chance.randrange(len(data))]


def outcome(folder: Path, steps: list[list[Any]], *, may_be_shorter: bool) -> str:
    """Returns what reading a damaged ledger, and then opening it to write, comes to."""
    try:
        read = content(folder)
        with Ledger.open(folder) as ledger:
            ledger.check_whole()
    except LedgerError:
        return "refused"
    if read == steps[-1]:
        return "same"
    return "shortened" if may_be_shorter and read in steps else "SILENTLY WRONG"


def count(
    original: Path,
    name: str,
    damage: Callable[[bytes, random.Random], bytes],
    steps: list[list[Any]],
    tries: int,
    seed: int,
    without: str | None = None,
) -> dict[str, int]:
    """Returns how often each outcome came of damaging the file `name` of a ledger, whose file `without` is missing."""
    chance, outcomes = random.Random(seed), Counter[str]()
    data = (original / name).read_bytes()
    for _ in range(tries):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(shutil.copytree(original, Path(scratch) / "s"))
            if without is not None:
                (folder / without).unlink()
            (folder / name).write_bytes(damage(data, chance))
            outcomes[outcome(folder, steps, may_be_shorter=damage is cut and name == LOG)] += 1
    return dict(outcomes)
