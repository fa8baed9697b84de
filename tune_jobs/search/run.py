"""Running a job: checks, one Ray Tune run over all its studies, the ledger, the Parquet files."""

import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_jobs.cluster import ray as cluster
from tune_jobs.cluster.session import ray_session
from tune_jobs.cluster.slots import Slots, plan_slots
from tune_jobs.errors import JobError, Problem
from tune_jobs.job.data_checks import check_data
from tune_jobs.job.load import dump_job, load_job
from tune_jobs.job.spec import JobSpec
from tune_jobs.ledger.writer import Ledger
from tune_jobs.provenance import provenance
from tune_jobs.results.write import export
from tune_jobs.search.extend import extended, reopen_for_more_epochs
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.recorder import Recorder, StopKind
from tune_jobs.search.trial import LiveTrial
from tune_jobs.search.wind_down import EXIT_INTERRUPTED, say, stopped_by_signals
from tune_jobs.storage import is_address
from zsharp.atomic import atomic_write

if TYPE_CHECKING:
    from tune_jobs.search.searcher import JobSearch

OnStart = Callable[[Slots, Sequence[LiveTrial]], None]


@dataclass(frozen=True)
class SearchResult:
    """How a search, or one session of it, ended.

    Attributes:
        folder: The search folder, with its ledger and Parquet files; a copy on this machine of a remote one.
        place: The search folder's path or address.
        counts: Number of trials by status.
        stopped: Why it ended before its last trial; None if it did not.
        stop_kind: Whether a signal, the budget or an error was the reason.
    """

    folder: Path
    place: str
    counts: dict[str, int]
    stopped: str | None = None
    stop_kind: StopKind | None = None

    @property
    def is_interrupted(self) -> bool:
        """Whether somebody stopped it before its last trial."""
        return self.stop_kind == "signal"


def search_folder(job: JobSpec, out: str | Path | None = None) -> SearchFolder:
    """Returns the folder a job's search is kept in: `out`, or its name below its storage."""
    if out is None and is_address(job.storage):
        return SearchFolder(f"{job.storage.rstrip('/')}/{job.name}", writes=True)
    place = out if out is not None else Path(job.storage).expanduser() / job.name
    return SearchFolder(place, writes=True)


def check_folder(job: JobSpec, folder: SearchFolder) -> bool:
    """Returns whether `folder` holds this very search already, whole or in part.

    Raises:
        JobError: If it holds another job, or files that are not a search's.
    """
    folder.check_usable()
    if not folder.has_search():
        return False
    with folder.open(read_only=True) as ledger:
        other = ledger.job
    if other != job.model_dump(mode="json"):
        text = f"it holds another job ({other['name']!r}); expected another folder"
        raise JobError([Problem("--out", folder.place, text)])
    return True


def plan_resources(job: JobSpec) -> tuple[Slots, cluster.Totals]:
    """Returns how the job's trials fill this machine, or the Ray that is there to connect to.

    Raises:
        JobError: If not one trial fits.
    """
    if cluster.is_remote():
        cluster.connect()
    totals = cluster.cluster_totals() if cluster.is_remote() else cluster.local_totals()
    return plan_slots(job.resources, totals.cpus, totals.gpus, totals.gpus_per_node), totals


def run(
    job: JobSpec | str,
    out: str | Path | None = None,
    *,
    fresh: bool = False,
    on_change: Callable[[LiveTrial], None] | None = None,
    on_start: OnStart | None = None,
) -> SearchResult:
    """Runs a job's search and writes its Parquet files.

    Uses the Ray that is initialised or that `RAY_ADDRESS` names; else starts one on this machine for the run.
    A folder that holds the same search is continued where it stopped; a finished one is left as it is.

    Args:
        job: What to search; a text is the name of a preset or the path of a job file.
        out: The search folder; by default the job's name below its storage.
        fresh: Delete a search that is in the folder and start again.
        on_change: Called with each trial that started, reported or ended, in this thread.
        on_start: Called once before the first trial with how trials fill the machine, and the trials of earlier
            sessions.

    Raises:
        JobError: If the job does not fit the data, the machine or the folder; nothing was started or written.
    """
    job = load_job(job) if isinstance(job, str) else job
    folder = search_folder(job, out)
    begins_again = fresh and folder.has_search()
    if begins_again:
        folder.open().close()  # refuses while another process writes it
    elif check_folder(job, folder):
        return resume(folder.place, on_change=on_change, on_start=on_start)
    check_data(job)
    slots, totals = plan_resources(job)
    if begins_again:
        folder.delete()
    with folder.create(job.model_dump(mode="json"), provenance(totals.gpu_names)) as ledger:
        return _search(job, folder, ledger, slots, totals, on_change, on_start)


def resume(
    folder: str | Path,
    sets: Sequence[str] = (),
    *,
    on_change: Callable[[LiveTrial], None] | None = None,
    on_start: OnStart | None = None,
) -> SearchResult:
    """Continues a search where it stopped, however that was, or extends it.

    Trials that ended are not run again, unfinished ones continue from their checkpoints, and the search goes on with
    the suggestions and decisions that it would have made.

    Args:
        folder: The search folder.
        sets: Changes of the job as `path=value`: more trials, another budget, other resources; see `extended`.
        on_change: As for `run`.
        on_start: As for `run`; not called if nothing is left to do.

    Raises:
        LedgerError: If the folder has no ledger that can be used, or another process writes it.
        JobError: If a change is not one that a search can take, or the job no longer fits data or machine.
    """
    where = SearchFolder(folder, writes=True)
    with where.open(read_only=True) as ledger:  # opening for writing would change what is damaged
        ledger.check_whole()
    with where.open() as ledger:
        before, job = extended(ledger, sets)
        check_data(job)
        slots, totals = plan_resources(job)
        if job != before:
            ledger.extend(job.model_dump(mode="json"))
            if job.train.epochs > before.train.epochs:
                reopen_for_more_epochs(job, ledger, where.place)
        return _search(job, where, ledger, slots, totals, on_change, on_start)


def _search(
    job: JobSpec,
    folder: SearchFolder,
    ledger: Ledger,
    slots: Slots,
    totals: cluster.Totals,
    on_change: Callable[[LiveTrial], None] | None,
    on_start: OnStart | None,
) -> SearchResult:
    """Runs what is left of a search, whose ledger is open, and exports it."""
    recorder = Recorder(job, ledger, on_change, slots.gpus_per_trial, folder.place)
    recorder.check_budget()
    with stopped_by_signals(recorder) as listen, _failing_storage_stops(recorder):
        _write_job(job, folder.local)
        if not recorder.is_over and not recorder.stopping:
            ledger.record_event("start", {"slots": slots.num_slots, "hardware": provenance(totals.gpu_names)})
            recorder.clean_checkpoints()
            if on_start is not None:
                on_start(slots, list(recorder.trials.values()))
            _session(job, recorder, slots, totals, listen)
            recorder.interrupt()
            recorder.checkpoints.keep_only(recorder.kept_checkpoints())  # killed workers leave halves
            ledger.record_event("stop", {"reason": recorder.stopping})
        elif recorder.was_cut_off:
            recorder.clean_checkpoints()
            with _searcher(job, recorder):  # writes Optuna's journal
                recorder.interrupt()
            ledger.record_event("stop", {"reason": recorder.stopping})
        export(folder.local)
        ledger.store_copy()
        folder.publish()
    counts = Counter(trial.status or "running" for trial in recorder.trials.values())
    if recorder.is_over and recorder.stop_kind != "error":
        return SearchResult(folder.local, folder.place, dict(counts))
    return SearchResult(folder.local, folder.place, dict(counts), recorder.stopping, recorder.stop_kind)


def _session(
    job: JobSpec, recorder: Recorder, slots: Slots, totals: cluster.Totals, listen: Callable[[], None]
) -> None:
    """What is left of a search, on a Ray; not begun if somebody stops it meanwhile."""
    from tune_jobs.cluster.watch import kill_children, watched
    from tune_jobs.search.packing_probe import packed, with_fewer

    def without_ray(name: str) -> None:
        say(f"Ray's {name} died. The ledger is whole; it goes on with: tune-jobs resume {recorder.place}")
        kill_children()
        os._exit(EXIT_INTERRUPTED if recorder.stop_kind == "signal" else 1)  # as Ray would, a minute later

    try:
        with ray_session(slots, totals), watched(without_ray):
            listen()  # Ray has taken SIGTERM for itself
            if not recorder.stopping:
                slots = packed(job, recorder.ledger, slots, totals)
                recorder.begin_again(slots.gpus_per_trial)
                _tune(job, recorder, slots)
                while recorder.stop_kind == "repack":
                    slots = with_fewer(job, recorder.ledger, slots, totals)
                    recorder.begin_again(slots.gpus_per_trial)
                    _tune(job, recorder, slots)
    except SystemExit:  # which Ray makes of a SIGTERM while it starts
        recorder.stop("interrupted by SIGTERM", "signal")


@contextmanager
def _failing_storage_stops(recorder: Recorder) -> Iterator[None]:
    """A disk without room, or storage that fails, ends the session, not the program: the ledger holds what it took."""
    try:
        yield
    except Exception as error:  # Ray wraps what its callbacks raise
        record = recorder.ledger.record
        if record is not None and record.failure is not None:
            recorder.stop(record.failure, "error")
        elif not recorder.stop_if_disk_full(str(error)) and recorder.stop_kind != "error":
            raise


def _write_job(job: JobSpec, folder: Path) -> None:
    with atomic_write(folder / "job.yaml") as unfinished:
        unfinished.write_text(dump_job(job))


@contextmanager
def _searcher(job: JobSpec, recorder: Recorder) -> Iterator["JobSearch"]:
    """Yields the searcher, with what the ledger holds told to Optuna and its journal."""
    import optuna

    from tune_jobs.search.optuna_journal import new_journal
    from tune_jobs.search.searcher import JobSearch

    level = optuna.logging.get_verbosity()
    with new_journal(recorder.ledger.file.parent) as journal:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        search = JobSearch(job, recorder, journal)
        optuna.logging.set_verbosity(level)
        yield search


def _tune(job: JobSpec, recorder: Recorder, slots: Slots) -> None:
    """One Tuner over all studies, so that no slot idles at the end of a study."""
    from ray import tune

    from tune_jobs.search.room import Room
    from tune_jobs.search.scheduler import JobASHA, WindDown
    from tune_jobs.search.worker import TrialRunner

    trainable: Any = tune.with_parameters(
        TrialRunner, job=job.model_dump(mode="json"), place=recorder.checkpoints.place
    )
    trainable = tune.with_resources(trainable, {"cpu": slots.cpus_per_trial, "gpu": slots.gpus_per_trial})
    with (
        tempfile.TemporaryDirectory(prefix="tune-jobs-") as scratch,
        _searcher(job, recorder) as search,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        room = Room(search, job.resources, slots, recorder.ledger)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=room,
                scheduler=JobASHA(recorder, search, room),
                num_samples=sys.maxsize,  # the searcher knows when it is over: trials may be tried again
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                verbose=0,
                stop=WindDown(recorder),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
