"""Times a few real steps of each study's trials, and keeps the times in the user's cache folder.

The cache's key is all that they depend on: our code, the user's, the machine, and what is trained.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import zsharp
from tune_jobs.cluster.slots import Slots
from tune_jobs.job.rehearsal import example_params
from tune_jobs.job.spec import JobSpec, Study
from zsharp.atomic import atomic_write
from zsharp.cpu import cpu_model, num_cpus
from zsharp.data.cache import cache_folder
from zsharp.optim.methods import find_method

_STEPS_S = 6.0  # of stepping, shared out among the studies
_LONGEST_STEPS_S = 1.5  # of one of them
_LIMIT_S, _LIMIT_PER_STUDY_S, _LONGEST_LIMIT_S = 20.0, 6.0, 120.0  # after which timing is given up
_MOST_AT_ONCE = 4  # processes: more of them tell little more of how trials slow each other down
_FORMAT = 1  # of what is kept; raise it when that changes
_BUSY_TIMES_LAST_S = 600.0  # how long times are kept that were taken while other programs used the cores
_UNTIMED = (
    "epochs",
    "warmup_epochs",
    "schedule",
    "seed",
)  # settings on which the time of a step does not depend

BUSY = 0.85
"""The share of a core's time that a trial gets below which other programs are said to use the cores."""


@dataclass(frozen=True)
class Timed:
    """What a trial of a study takes on this machine, beside as many others as run at once."""

    begin_s: float  # until its first step
    epoch_s: float  # an epoch with its validation and checkpoint
    worked_share: float = 1.0  # of that time, what a trial would take if no other program used the cores
    validates: bool = True  # whether that includes the validation, which may have taken too long to time


@dataclass(frozen=True)
class Timing:
    """What was timed of a job."""

    studies: Mapping[str, Timed]  # by name; those that could be timed
    startup_s: float  # that a worker takes to start
    took_s: float  # that timing took; 0 if all times were kept from before
    problem: str | None = None  # why studies are missing


def time_job(job: JobSpec, slots: Slots, gpus: Sequence[str], checksums: Sequence[str | None]) -> Timing:
    """Returns how long trials of each study take, from the cache or from real steps.

    As many processes as trials would run at once take the same steps beside each other, with as many threads.

    Args:
        gpus: The names of this machine's GPUs.
        checksums: Of what is trained besides the job: the user's code, and the data.
    """
    # A loop or task may do anything with its GPU, which we do not count; so there one process measures alone.
    at_once = 1 if slots.gpus_per_trial else min(slots.num_slots, job.num_trials, _MOST_AT_ONCE)
    threads = max(1, int(slots.cpus_per_trial))
    machine = [platform.node(), cpu_model(), num_cpus(), *gpus, at_once, threads, slots.gpus_per_trial > 0]
    base = [_FORMAT, _own_checksum(), version("torch"), machine, *checksums]
    keys = {study.name: _key(job, study, base) for study in job.studies()}
    cached = {name: _read(key) for name, key in {**keys, "": _key_of(base[:4])}.items()}
    missing = [name for name in keys if cached[name] is None]
    started, problem = time.monotonic(), None
    answers: dict[str, dict[str, Any]] = {}
    if missing:
        answers, problem = _time(job, missing, at_once, threads, bool(slots.gpus_per_trial))
        for name, answer in answers.items():
            _write(keys[name] if name else _key_of(base[:4]), answer)
    known = {**cached, **answers}
    timed = {name: Timed(**known[name]) for name in keys if known[name] is not None}  # type: ignore[arg-type]
    startup_s = (known[""] or {"startup_s": 0.0})["startup_s"]
    return Timing(
        _with_siblings(job, timed), startup_s, time.monotonic() - started if missing else 0.0, problem
    )


def _time(
    job: JobSpec, names: Sequence[str], at_once: int, threads: int, gpu: bool
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Returns what was measured, by study (what starting took is at ''), and why not everything was."""
    limit_s = min(_LONGEST_LIMIT_S, max(_LIMIT_S, _LIMIT_PER_STUDY_S * len(names)))
    request = {
        "job": job.model_dump(mode="json"),
        "studies": list(names),
        "limit_s": min(_LONGEST_STEPS_S, _STEPS_S / len(names)),
        "threads": threads,
        "gpu": gpu,
        "started_at": time.monotonic(),  # all processes of a machine share this clock
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    with TemporaryDirectory(prefix="tune-jobs-") as name:
        folder = Path(name)
        (folder / "request").write_text(json.dumps(request), encoding="utf-8")
        files = [folder / str(number) for number in range(at_once)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tune_jobs.search.time_trials", str(folder / "request"), str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            for file in files
        ]
        deadline = time.monotonic() + limit_s
        try:
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            is_late = any(process.poll() is None for process in processes)
            for process in processes:
                process.kill()
                process.wait()
        by_study = _by_study(_lines(file) for file in files)
    errors = [answer["error"] for answers in by_study.values() for answer in answers if "error" in answer]
    measured = {
        name: _mean(answers)
        for name, answers in by_study.items()
        if not any("error" in answer for answer in answers)
    }
    if set(names) <= set(measured) or errors:
        return measured, errors[0] if errors else None
    return (
        measured,
        f"that takes more than {limit_s:.0f} s here and now; try again when other programs use less of the machine, "
        "or with fewer images (data.max_images), smaller batches or a smaller model"
        if is_late
        else "the process that measures has died",
    )


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]  # a last one without an end was cut off
    return [json.loads(line) for line in lines]


def _by_study(files: Iterable[Sequence[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    by_study: dict[str, list[dict[str, Any]]] = {}
    for lines in files:
        last = {line.pop("study"): line for line in lines}
        for name, line in last.items():
            by_study.setdefault(name, []).append(line)
    return by_study


def _mean(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the means of what processes measured beside each other."""
    first = answers[0]
    names = [name for name in first if name != "validates"]
    times = {name: fmean(answer[name] for answer in answers) for name in names}
    return times | ({"validates": False} if any("validates" in answer for answer in answers) else {})


def _with_siblings(job: JobSpec, timed: Mapping[str, Timed]) -> dict[str, Timed]:
    """Adds studies for which no time was left, from those of the same architecture: their steps differ in passes."""
    complete = dict(timed)
    for study in job.studies():
        siblings = [other for other in job.studies() if other.architecture == study.architecture]
        known = next((other for other in siblings if other.name in timed), None)
        if study.name not in timed and known is not None:
            passes, others = (
                find_method(method).gradient_evaluations_per_step for method in (study.method, known.method)
            )
            like = timed[known.name]
            complete[study.name] = replace(like, epoch_s=like.epoch_s * passes / others)
    return complete


def _key(job: JobSpec, study: Study, base: Sequence[Any]) -> str:
    spec = asdict(job.trial_spec(study, example_params(job, study)))
    for name in _UNTIMED:
        del spec["train"][name]
    return _key_of([*base, spec])


def _key_of(parts: Sequence[Any]) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _own_checksum() -> str:
    """Returns the SHA-256 of the code that trains."""
    digest = hashlib.sha256()
    for file in sorted(Path(zsharp.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _folder() -> Path:
    return cache_folder(None, None) / "timings"


def _read(key: str) -> dict[str, Any] | None:
    try:
        answer = json.loads((_folder() / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or half written by an older program
        return None
    if not isinstance(answer, dict):
        return None
    is_old = not 0 <= time.time() - answer.pop("timed_at", 0.0) <= _BUSY_TIMES_LAST_S
    return None if is_old and answer.get("worked_share", 1.0) < BUSY else answer


def _write(key: str, answer: Mapping[str, Any]) -> None:
    with suppress(OSError):  # a home that cannot be written only means to time again
        _folder().mkdir(parents=True, exist_ok=True)
        with atomic_write(_folder() / f"{key}.json") as unfinished:
            unfinished.write_text(json.dumps({**answer, "timed_at": time.time()}), encoding="utf-8")
