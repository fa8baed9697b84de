"""What searches trained on and how: methods of searches that differ in this are not compared with one another."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from tune_jobs.results.read import Results

_SECTIONS = ("data", "train", "init", "model")
_NEUTRAL = {f"data.{name}" for name in ("root", "download", "on_device", "image_column", "label_column")} | {
    f"train.{name}" for name in ("seed", "eval_batch_size", "compile", "sharding")
}
"""Settings that do not change what is learnt, or not on average."""


def conditions(results: Sequence[Results]) -> list[int]:
    """Returns a number for each search, from 1; those that trained alike have the same one.

    A setting that one of two searches does not have, since an older version wrote it, does not tell them apart.
    """
    kinds: list[Results] = []
    numbers = []
    for result in results:
        alike = (number for number, kind in enumerate(kinds, 1) if not _differing(kind, result))
        number = next(alike, None)
        if number is None:
            kinds.append(result)
            number = len(kinds)
        numbers.append(number)
    return numbers


def differences_in_words(results: Sequence[Results], names: Sequence[str]) -> list[str]:
    """Returns a line for every two searches of the same architecture that are not compared, with what differs."""
    searches = list(zip(names, results, conditions(results), strict=True))
    lines = []
    for (one, a, kind), (other, b, other_kind) in combinations(searches, 2):
        if kind != other_kind and _workloads(a) & _workloads(b):
            differing = ", ".join(f"{name} {ours} and {theirs}" for name, ours, theirs in _differing(a, b))
            lines.append(
                f"Not compared with one another: {one} and {other}, which trained differently"
                f"{f' ({differing})' if differing else ''}. Each is ranked and tested by itself."
            )
    return lines


def _workloads(results: Results) -> set[tuple[str, str]]:
    trials = results.trials
    return set(zip(trials["dataset"], trials["architecture"], strict=True))


def _differing(a: Results, b: Results) -> list[tuple[str, Any, Any]]:
    ours, theirs = (dict(_settings(result.metadata["job"] or {})) for result in (a, b))
    return [(name, ours[name], theirs[name]) for name in ours if theirs.get(name, ours[name]) != ours[name]]


def _settings(job: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section in _SECTIONS:
        for name, value in (job.get(section) or {}).items():
            path = f"{section}.{name}"
            if path in _NEUTRAL:
                continue
            if name == "augment" and isinstance(value, Mapping):
                yield from ((f"{path}.{part}", setting) for part, setting in value.items())
            else:
                yield path, value
