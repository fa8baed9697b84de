"""What differs between a search's job and another one, and which of the changes the search accepts."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

from tune_jobs.errors import Problem, show
from tune_jobs.job.renamed import named_now
from tune_jobs.job.spec import JobSpec, default_grace_epochs
from tune_jobs.wording import counted
from zsharp.settings import flat
from zsharp.training.spec import default_warmup_epochs

# Anything else would change what trials are or how they are judged, so old and new ones could not be compared.
_FREE = (
    "budget",
    "code",
    "data.on_device",
    "data.root",
    "failures",
    "init.weights",
    "resources",
    "search.num_trials",
    "search.keep_checkpoints",
    "search.finalists",
    "search.finalist_seeds",
    "track",
    "train.epochs",
)
_NUM_SHOWN = 6


def changed_settings(old: JobSpec, new: JobSpec) -> dict[str, tuple[Any, Any]]:
    """Returns the settings in which two jobs differ, by path, with both values; empty if they are the same search.

    Where the code is does not count, since its contents are compared; nor does what its models take, nor what only
    follows from the epochs.
    """
    before, after = (
        dict(flat(_comparable(job).model_dump(mode="json"))) for job in (old, _with_derived(old, new))
    )
    paths = dict.fromkeys([*before, *after])
    return {
        named_now(path): (before.get(path), after.get(path))
        for path in paths
        if before.get(path) != after.get(path)
    }


def refused_changes(old: JobSpec, new: JobSpec, num_started: int) -> Iterator[Problem]:
    """Yields the changes of a job that its search, of which so many trials have started, does not accept."""
    before, after = (dict(flat(job.model_dump(mode="json"))) for job in (old, new))
    for path in sorted({**before, **after}):
        if before.get(path) != after.get(path) and not path.startswith(_FREE):
            text = f"the search began with {before.get(path)!r}; expected a change of {', '.join(_FREE)}"
            yield Problem(named_now(path), after.get(path), f"{text}, or another folder")
    yield from _shortened(old, new, num_started)


def another_job(old: JobSpec, new: JobSpec, num_started: int, address: str) -> str | None:
    """Returns how a job differs from that of the search in a folder, and the ways on; None if it does not differ."""
    changes = changed_settings(old, new)
    if not changes:
        return None
    shown = [f"{path}: {show(was)} -> {show(now)}" for path, (was, now) in changes.items()]
    if len(shown) > _NUM_SHOWN:
        shown[_NUM_SHOWN:] = [counted(len(shown) - _NUM_SHOWN, "more change")]
    ways = ["--fresh to delete that search and start over", "--out DIR to keep both"]
    if not any(refused_changes(_comparable(old), _comparable(_with_derived(old, new)), num_started)):
        sets = (f"--set {shlex.quote(f'{path}={json.dumps(now)}')}" for path, (_, now) in changes.items())
        ways.insert(0, f"`tune-jobs resume {shlex.quote(address)} {' '.join(sets)}` to go on with the change")
    return f"it holds another job ({', '.join(shown)}); expected {', or '.join(ways)}"


def _with_derived(old: JobSpec, new: JobSpec) -> JobSpec:
    """Returns the new job with the old one's values of what follows from the epochs, as `resume` keeps them."""
    before, after = old.train.epochs, new.train.epochs
    if (old.grace_epochs, new.grace_epochs) == (default_grace_epochs(before), default_grace_epochs(after)):
        asha = new.asha.model_copy(update={"grace_epochs": old.grace_epochs})
        new = new.model_copy(update={"asha": asha})
    if (old.train.warmup, new.train.warmup) == (default_warmup_epochs(before), default_warmup_epochs(after)):
        train = new.train.model_copy(update={"warmup_epochs": old.train.warmup_epochs})
        new = new.model_copy(update={"train": train})
    return new


def _comparable(job: JobSpec) -> JobSpec:
    return job.with_absolute_root().model_copy(update={"code": (), "model_arguments": {}})


def _shortened(before: JobSpec, job: JobSpec, num_started: int) -> Iterator[Problem]:
    epochs, num_trials = job.train.epochs, job.search.num_trials
    if epochs < before.train.epochs:
        yield Problem("train.epochs", epochs, f"expected at least {before.train.epochs}, which trials have")
    schedules = [schedule for schedule in before.possible("train.schedule") if schedule != "constant"]
    if epochs > before.train.epochs and schedules:
        text = f"with train.schedule={schedules[0]} every learning rate depends on the number of epochs"
        yield Problem("train.epochs", epochs, f"{text}: trials of two lengths cannot be compared")
    elif epochs > before.train.epochs and before.init.trunk is not None:
        text = "with init.trunk the fork would move, and trials of two trunks cannot be compared"
        yield Problem("train.epochs", epochs, f"{text}; start another search")
    if num_trials < before.search.num_trials:
        yield Problem("search.num_trials", num_trials, f"expected at least {before.search.num_trials}")
    if num_trials > before.search.num_trials and before.search.seeds > 1 and num_started:
        yield Problem(
            "search.num_trials", num_trials, "with search.repeats above 1 the seeds of trials would change"
        )
