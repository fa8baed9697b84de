"""Runs and resumes searches: checks, then Ray Tune over what is left of the job, then the Parquet files."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tune_jobs.cluster import ray as cluster
from tune_jobs.cluster.slots import Slots, plan_slots
from tune_jobs.job.code import Named, OwnCode, name_object
from tune_jobs.job.data_checks import split_sizes
from tune_jobs.job.load import dump_job, load_job
from tune_jobs.job.rehearsal import Rehearsed, rehearse
from tune_jobs.job.spec import JobSpec
from tune_jobs.ledger.writer import Ledger
from tune_jobs.provenance import provenance
from tune_jobs.results.write import export
from tune_jobs.search.checkpoints import Checkpoints
from tune_jobs.search.extend import check_same_data, check_same_weights, extended, reopen_for_more_epochs
from tune_jobs.search.folder import SearchFolder, check_folder, search_folder
from tune_jobs.search.own_code import check_same_code, code_facts, with_code
from tune_jobs.search.recorder import Recorder
from tune_jobs.search.trial import LiveTrial
from tune_jobs.search.warm_start import warm_points
from tune_jobs.search.wind_down import StopKind, stopped_by_signals
from tune_jobs.trackers.follow import WritePage, followed
from zsharp.atomic import atomic_write

_logger = logging.getLogger(__name__)

OnChange = Callable[[LiveTrial], None]
OnStart = Callable[[Slots, Sequence[LiveTrial]], None]
OnData = Callable[[str], None]


@dataclass(frozen=True)
class SearchResult:
    """How a search, or one session of it, ended.

    Attributes:
        search: Where the search is.
        counts: Number of trials by status.
        stopped: Why it ended before its last trial; None if it did not.
        stop_kind: Whether a signal, the budget or an error was the reason.
    """

    search: SearchFolder
    counts: dict[str, int]
    stopped: str | None = None
    stop_kind: StopKind | None = None

    @property
    def folder(self) -> Path:
        """The search folder, with its ledger and Parquet files; of a remote one, a copy on this machine."""
        return self.search.local

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal stopped it before its last trial."""
        return self.stop_kind == "signal"


def run(
    job: JobSpec | str | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    task: Callable[..., Any] | None = None,
    train: Callable[..., Any] | None = None,
    fresh: bool = False,
    allow_changed_code: bool = False,
    on_change: OnChange | None = None,
    on_start: OnStart | None = None,
    write_page: WritePage | None = None,
    on_data: OnData | None = None,
) -> SearchResult:
    """Runs a job's search and writes its Parquet files.

    Uses the Ray that is initialised or that `RAY_ADDRESS` names; else starts one on this machine for the run.
    If the folder holds the same search, an unfinished one is continued and a finished one is left as it is.

    Args:
        job: What to search; a text is the name of a preset or the path of a job file, a mapping has its values.
        out: The search folder; by default the job's name below its storage.
        task: The class or function that makes the job's task (`zsharp.training.task`), instead of data and
            architectures. What a script or notebook defines is sent to the workers; pass it again to `resume`.
        train: The training loop of a trial (`tune_jobs.search.own_loop.LoopTrial` is what it is passed), likewise.
        fresh: Delete a search that is in the folder and start again.
        allow_changed_code: Continue a search although code of the user's own is not what it began with.
        on_change: Called with each trial that started, reported or ended, in this thread.
        on_start: Called once before the first trial with how trials fill the machine, and the trials of earlier
            sessions.
        write_page: Writes the report that is attached to the search in its trackers, unless a signal ends the search.
        on_data: Called once before that with a sentence on the data that were read; not called with a task or a loop.

    Raises:
        JobError: If the job does not fit the data, the machine or the folder; nothing was started or written.

    Example:
        >>> result = run("digits", out="results/digits")  # doctest: +SKIP
        >>> result.best(method="zsharp")["val_accuracy"]  # doctest: +SKIP
    """
    job, named = resolved(job, task, train)
    folder = search_folder(job, out)
    replaces = fresh and folder.has_search()
    if replaces:
        folder.check_unused()
    elif check_folder(job, folder):
        return resume(
            folder,
            task=task,
            train=train,
            allow_changed_code=allow_changed_code,
            on_change=on_change,
            on_start=on_start,
            write_page=write_page,
            on_data=on_data,
        )
    rehearsed = rehearsed_with(job, named)
    job = rehearsed.job
    slots, totals = plan_resources(job)
    warm = warm_points(job)
    cluster.check_can_start()
    if replaces:
        folder.delete()
    facts = provenance(totals.gpu_names)
    if rehearsed.data is not None:
        facts["data"] = {
            "num_train": rehearsed.data.num_train,
            "num_val": split_sizes(job, rehearsed.data)[1],
            "num_test": rehearsed.data.num_test,
            "num_classes": rehearsed.data.num_classes,
        }
    if rehearsed.code is not None:
        facts["code"] = code_facts(rehearsed.code)
    if warm:
        facts["warm_start"] = warm
    with folder.create(job.model_dump(mode="json"), facts) as ledger:
        return _search(
            job, rehearsed, named, folder, ledger, slots, totals, on_change, on_start, write_page, on_data
        )


def resolved(
    job: JobSpec | str | Mapping[str, Any],
    task: Callable[..., Any] | None,
    train: Callable[..., Any] | None,
) -> tuple[JobSpec, Named | None]:
    """Returns the job with the task or loop that was passed, and how that is named."""
    own = train if task is None else task
    if own is None:
        job = job if isinstance(job, JobSpec) else load_job(job)
        # Another search, whose `job.yaml` this may be, found out for itself what its architectures take.
        return job.model_copy(update={"model_arguments": {}}).with_absolute_root(), None
    named = name_object(own)
    if not isinstance(job, JobSpec):
        job = load_job(job, **{"loop" if task is None else "task": named.reference})
    if task is None:
        changes: dict[str, Any] = {"train": job.train.model_copy(update={"loop": named.reference})}
    else:
        changes = {"task": named.reference}
    return job.model_copy(update={**changes, "code": named.folders}).with_absolute_root(), named


def rehearsed_with(job: JobSpec, named: Named | None) -> Rehearsed:
    """Returns what trials will find on this machine, for a job whose task may have been passed as an object."""
    cluster.check_threads()
    if named is None or named.by_value is None:
        return rehearse(job)
    rehearsed = rehearse(job, named.by_value)
    return replace(rehearsed, code=OwnCode((), {"main/source.py": named.source.encode()}))


def resume(
    folder: str | Path | SearchFolder,
    sets: Sequence[str] = (),
    *,
    task: Callable[..., Any] | None = None,
    train: Callable[..., Any] | None = None,
    allow_changed_code: bool = False,
    on_change: OnChange | None = None,
    on_start: OnStart | None = None,
    write_page: WritePage | None = None,
    on_data: OnData | None = None,
) -> SearchResult:
    """Continues a search where it stopped, however that was, or extends it.

    Trials that ended are not run again, unfinished ones continue from their checkpoints, and the search makes the
    suggestions and decisions that it would have made without the stop.

    Args:
        folder: The search folder.
        sets: Changes of the job as `path=value`: more trials, another budget, other resources; see `extended`.
        task: The class or function that `run` was passed, if workers cannot import it.
        train: The loop that `run` was passed, likewise.
        allow_changed_code: Continue although code of the user's own is not what the search began with.
        on_change: As for `run`.
        on_start: As for `run`; not called if nothing is left to do.
        write_page: As for `run`.
        on_data: Likewise.

    Raises:
        LedgerError: If the folder has no ledger that can be used, or another process is writing it.
        JobError: If the search does not accept a change, or the job no longer fits data or machine.
    """
    search = folder if isinstance(folder, SearchFolder) else SearchFolder(folder, writes=True)
    with search.open() as ledger:
        before, job = extended(ledger, sets)
        job, named = with_code(job, search, train if task is None else task)
        rehearsed = rehearsed_with(job, named)
        if rehearsed.checksum is not None:
            check_same_data(ledger, before, job, rehearsed.checksum)
        check_same_weights(ledger, job, rehearsed.weights_checksum)
        if not allow_changed_code:
            check_same_code(ledger, rehearsed.code, search)
        slots, totals = plan_resources(job)
        if job.model_copy(update={"code": before.code}) != before:
            cluster.check_can_start()
            ledger.extend(job.model_dump(mode="json"))
            if job.train.epochs > before.train.epochs:
                reopen_for_more_epochs(job, ledger, Checkpoints(search))
        return _search(
            job, rehearsed, named, search, ledger, slots, totals, on_change, on_start, write_page, on_data
        )


def plan_resources(job: JobSpec) -> tuple[Slots, cluster.Totals]:
    """Returns how the job's trials fill this machine, or the Ray that is there to connect to.

    Raises:
        JobError: If not even one trial fits.
    """
    if cluster.is_running_elsewhere():
        cluster.connect()
    totals = cluster.cluster_totals() if cluster.is_running_elsewhere() else cluster.local_totals()
    return plan_slots(job.resources, totals.cpus, totals.gpus, totals.nodes), totals


def _search(
    job: JobSpec,
    rehearsed: Rehearsed,
    named: Named | None,
    folder: SearchFolder,
    ledger: Ledger,
    slots: Slots,
    totals: cluster.Totals,
    on_change: OnChange | None,
    on_start: OnStart | None,
    write_page: WritePage | None,
    on_data: OnData | None,
) -> SearchResult:
    """Runs what is left of a search, whose ledger is open, and exports it."""
    code, by_value = rehearsed.code, None if named is None else named.by_value
    recorder = Recorder(job, ledger, folder, on_change, slots.gpus_per_trial, code, by_value)
    recorder.check_budget()
    if not recorder.is_over:
        cluster.check_can_start()
    wind_down = recorder.wind_down
    with (
        followed(job.model_dump(mode="json"), folder.local, folder.address) as trackers,
        stopped_by_signals(wind_down, folder) as listen,
        _failing_storage_stops(recorder),
    ):
        with atomic_write(folder.local / "job.yaml") as unfinished:
            unfinished.write_text(dump_job(job))
        if code is not None:
            code.keep(folder.local)
        if not recorder.is_over and not wind_down.has_begun:
            from tune_jobs.search.tuner import run_trials

            hardware = provenance(totals.gpu_names)
            started = {"slots": slots.num_slots, "hardware": hardware, "data_checksum": rehearsed.checksum}
            if code is not None:
                started["code_checksum"] = code.checksum
            if rehearsed.weights_checksum is not None:
                started["weights_checksum"] = rehearsed.weights_checksum
            if rehearsed.notes:
                started["notes"] = list(rehearsed.notes)
            for note in rehearsed.notes:
                _logger.warning("%s", note)
            ledger.record_event("start", started)
            recorder.clean_checkpoints()
            if on_data is not None and rehearsed.data_in_words is not None:
                on_data(rehearsed.data_in_words)
            if on_start is not None:
                on_start(slots, list(recorder.trials.values()))
            run_trials(recorder, slots, totals, listen)
            recorder.interrupt()
            recorder.retention.clean()  # killed workers leave half-written files
            ledger.record_event("stop", {"reason": wind_down.reason})
        elif _was_cut_off(ledger):
            # The last session was killed between its last report and its end: do what it left undone.
            from tune_jobs.search.tuner import make_searcher

            recorder.clean_checkpoints()
            with make_searcher(recorder):  # writes Optuna's journal
                recorder.interrupt()
            ledger.record_event("stop", {"reason": wind_down.reason})
        export(folder.local)
        ledger.store_copy()
        folder.publish()
        if wind_down.kind != "signal":  # who interrupts does not wait for a report
            trackers.write_page = write_page
    counts = Counter(trial.status or "running" for trial in recorder.trials.values())
    if recorder.is_over and wind_down.kind != "error":
        # A stop that came after the last trial changed nothing.
        return SearchResult(folder, dict(counts))
    return SearchResult(folder, dict(counts), wind_down.reason, wind_down.kind)


@contextmanager
def _failing_storage_stops(recorder: Recorder) -> Iterator[None]:
    """Inside, a full disk, failing storage or a lost folder ends the session, not the program."""
    try:
        yield
    except Exception as error:  # Ray wraps what its callbacks raise
        record = recorder.ledger.record
        failure = recorder.ledger.loss or (None if record is None else record.failure)
        if failure is not None:
            recorder.wind_down.begin(failure, "error")
        elif not recorder.stop_if_disk_full(str(error)) and recorder.wind_down.kind != "error":
            raise


def _was_cut_off(ledger: Ledger) -> bool:
    """Whether the last session was killed, so that what it left beside the ledger may be out of date."""
    sessions = [event["kind"] for event in ledger.events() if event["kind"] in ("start", "stop")]
    return sessions[-1:] == ["start"]
