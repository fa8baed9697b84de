"""Which code of the user's own a resumed search runs, and whether it is what the search began with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tune_jobs.errors import NOTHING, JobError, Problem
from tune_jobs.job.code import FOLDER_NAME, Named, OwnCode, name_object, uses_own_code
from tune_jobs.job.spec import JobSpec
from tune_jobs.ledger.writer import Ledger
from tune_jobs.provenance import git_state_of
from tune_jobs.search.folder import SearchFolder


def with_code(
    job: JobSpec, search: SearchFolder, task: Callable[..., Any] | None
) -> tuple[JobSpec, Named | None]:
    """Returns a recorded job with folders that its code can be imported from, and its task if that was passed.

    The job's own folders are used if they are there, the copy in the search folder otherwise.

    Raises:
        JobError: If there is neither, or the task passed is not the recorded one.
    """
    keyword, path = ("task", "task") if job.task else ("train", "train.loop")
    if task is not None:
        named = name_object(task)
        if named.reference != job.own:
            message = f"the search began with {job.own}; pass that, or start another search"
            raise JobError([Problem(path, named.reference, message)])
        return job.model_copy(update={"code": named.folders}), named
    if not uses_own_code(job):
        return job, None
    if not job.code:
        message = (
            "was passed by a program and cannot be imported; "
            f"resume with tune_jobs.resume(folder, {keyword}=...)"
        )
        raise JobError([Problem(path, job.own, message)])
    if all(Path(folder).is_dir() for folder in job.code):
        return job, None
    search.fetch_code()
    copy = search.local / FOLDER_NAME
    if not copy.is_dir():
        message = f"no such folders, and {search.address} has no copy of the code; give others with --set code=[...]"
        raise JobError([Problem("code", list(job.code), message)])
    folders = tuple(str(copy / str(number)) for number in range(len(job.code)))
    return job.model_copy(update={"code": folders}), None


def check_same_code(ledger: Ledger, code: OwnCode | None, search: SearchFolder) -> None:
    """Raises JobError if code of the user's own is not what the search last ran with."""
    if code is None:
        return
    checksums = [event["data"].get("code_checksum") for event in ledger.events() if event["kind"] == "start"]
    if not checksums or checksums[-1] is None or checksums[-1] == code.checksum:
        return
    kept = OwnCode.kept(search.local, ledger_job(ledger))
    changed = sorted(
        name for name in {**kept.files, **code.files} if kept.files.get(name) != code.files.get(name)
    )
    names = ", ".join(name.partition("/")[2] for name in changed) or "its files"
    message = (
        f"{names} changed since the search ran, so its trials would not be comparable; put back what is in "
        f"{search.address}/{FOLDER_NAME}, search in another folder, or continue with --allow-changed-code"
    )
    raise JobError([Problem("code", NOTHING, message)])


def ledger_job(ledger: Ledger) -> JobSpec:
    """Returns the job of a ledger that has been checked."""
    return JobSpec.model_validate(ledger.job)


def code_facts(code: OwnCode) -> dict[str, Any]:
    """Returns what results say about the code: its checksum, its files, and the git commit that they are from."""
    named = [(name.partition("/")[0], name.partition("/")[2]) for name in code.files]
    files = [Path(code.folders[int(number)]) / name for number, name in named if number.isdigit()]
    commit, dirty = git_state_of(files)
    return {"checksum": code.checksum, "files": sorted(code.files), "git_commit": commit, "git_dirty": dirty}
