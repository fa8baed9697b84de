"""Says where in a job a key belongs that was given in the wrong section, or with a typing error."""

from collections.abc import Sequence
from difflib import get_close_matches

from tune_jobs.errors import unknown
from tune_jobs.job.spec import SECTIONS
from zsharp.names import nearest

_MIN_SIMILARITY = 0.8  # among all names of all sections, some are always a bit alike


OTHER_WORDS = {
    "learning_rate": "lr",
    "optimizer": "base_optimizer",
    "batch": "batch_size",
    "trials": "num_trials",
    "n_trials": "num_trials",
    "num_epochs": "epochs",
    "seeds": "repeats",
    "gpus": "gpus_per_trial",
    "cpus": "cpus_per_trial",
}
"""What others call some settings."""


def unknown_key(key: str, section: tuple[str, ...], valid: Sequence[str]) -> str:
    """Returns a message about a key that a section does not have: where it belongs, and which keys are valid."""
    paths = paths_of(key)
    is_elsewhere = bool(paths) and (_name_of(paths[0]) == _spelling(key) or nearest(key, valid) is None)
    if section in SECTIONS and is_elsewhere:
        return unknown("key", key, valid, hint=f"did you mean {' or '.join(paths)}? ")
    return unknown("key", key, valid)


def paths_of(key: str) -> Sequence[str]:
    """Returns the paths of the settings that have this name or, if there are none, the name closest to it.

    What users mean most often comes first: `train.epochs` before `budget.epochs`.
    """
    paths: dict[str, list[str]] = {}
    for section, names in SECTIONS.items():
        if section:
            for name in names:
                paths.setdefault(name, []).append(".".join((*section, name)))
    name = OTHER_WORDS.get(_spelling(key), _spelling(key))
    meant = get_close_matches(name, paths, n=1, cutoff=_MIN_SIMILARITY)
    return paths[meant[0]] if meant else ()


def _name_of(path: str) -> str:
    return path.rpartition(".")[2]


def _spelling(key: str) -> str:
    return key.strip().lower().replace("-", "_")
