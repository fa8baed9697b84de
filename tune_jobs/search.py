"""Running a job: checks, one Ray Tune run over all its studies, the ledger, the Parquet files."""

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_jobs import cluster
from tune_jobs.data_checks import check_data
from tune_jobs.export import export
from tune_jobs.job_file import dump_job, load_job
from tune_jobs.ledger import FILE_NAME, Ledger
from tune_jobs.problems import JobError, Problem
from tune_jobs.provenance import provenance
from tune_jobs.recorder import LiveTrial, Recorder
from tune_jobs.resources import Slots, plan_slots
from tune_jobs.spec import JobSpec

# Ray Tune reads these when a run starts. Nothing depends on its own files, loggers and snapshots.
_TUNE_ENV = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


# What these say at these levels is about files we switched off, or said at every start.
_CHATTER = {
    "ray.tune.analysis.experiment_analysis": logging.ERROR,
    "ray.tune.tune": logging.CRITICAL,
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
}


@dataclass(frozen=True)
class SearchResult:
    """How a search ended.

    Attributes:
        folder: The search folder, with its ledger and Parquet files.
        counts: Number of trials by status.
        is_interrupted: Whether it was stopped before its last trial.
    """

    folder: Path
    counts: dict[str, int]
    is_interrupted: bool


def search_folder(job: JobSpec, out: str | Path | None = None) -> Path:
    """Returns the folder a job's search is kept in: `out`, or its name below its storage."""
    return Path(out) if out is not None else Path(job.storage).expanduser() / job.name


def check_folder(job: JobSpec, folder: Path) -> bool:
    """Returns whether `folder` holds this very search already, finished.

    Raises:
        JobError: If it holds another job, this job unfinished, or files that are not a search's.
    """
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if above != folder and not (above.is_dir() and os.access(above, os.W_OK)):
        raise JobError(
            [Problem("--out", str(folder), f"no folder can be made in {above}; expected another place")]
        )
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / FILE_NAME).is_file():
        raise JobError(
            [Problem("--out", str(folder), "it exists and is not a search folder; expected a new one")]
        )
    with Ledger.open(folder, read_only=True) as ledger:
        other, trials = ledger.job, ledger.trials()
    if other != job.model_dump(mode="json"):
        raise JobError(
            [
                Problem(
                    "--out", str(folder), f"it holds another job ({other['name']!r}); expected another folder"
                )
            ]
        )
    wanted = len(job.studies()) * job.search.num_trials
    if sum(trial["status"] not in (None, "interrupted") for trial in trials) < wanted:
        text = f"it holds this search unfinished ({len(trials)} of {wanted} trials); --fresh starts it again"
        raise JobError([Problem("--out", str(folder), text)])
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
    on_start: Callable[[Slots], None] | None = None,
) -> SearchResult:
    """Runs a job's search and writes its Parquet files.

    Uses the Ray that is initialised or that `RAY_ADDRESS` names; else starts one on this machine for the run.
    A folder that holds the same search, finished, is left as it is.

    Args:
        job: What to search; a text is the name of a preset or the path of a job file.
        out: The search folder; by default the job's name below its storage.
        fresh: Delete a search that is in the folder and start again.
        on_change: Called with each trial that started, reported or ended, in this thread.
        on_start: Called once before the first trial with how trials fill the machine.

    Raises:
        JobError: If the job does not fit the data, the machine or the folder; nothing was started or written.
    """
    job = load_job(job) if isinstance(job, str) else job
    folder = search_folder(job, out)
    if fresh and (folder / FILE_NAME).is_file():
        Ledger.open(folder).close()  # refuses while another process writes it
    elif check_folder(job, folder):
        export(folder)
        return _result(folder, is_interrupted=False)
    check_data(job)
    slots, totals = plan_resources(job)
    if fresh and (folder / FILE_NAME).is_file():
        shutil.rmtree(folder)
    with Ledger.create(folder, job.model_dump(mode="json"), provenance(totals.gpu_names)) as ledger:
        (folder / "job.yaml").write_text(dump_job(job))
        recorder = Recorder(job, ledger, on_change)
        if on_start is not None:
            on_start(slots)
        with _ray(slots, totals):
            _tune(job, recorder, slots)
        wanted = len(job.studies()) * job.search.num_trials
        is_interrupted = sum(t.status is not None for t in recorder.trials.values()) < wanted
        recorder.interrupt()
    export(folder)
    return _result(folder, is_interrupted)


def _result(folder: Path, is_interrupted: bool) -> SearchResult:
    counts: dict[str, int] = {}
    with Ledger.open(folder, read_only=True) as ledger:
        for trial in ledger.trials():
            counts[trial["status"]] = counts.get(trial["status"], 0) + 1
    return SearchResult(folder, counts, is_interrupted)


def _tune(job: JobSpec, recorder: Recorder, slots: Slots) -> None:
    """One Tuner over all studies, so that no slot idles at the end of a study."""
    import optuna
    from ray import tune

    from tune_jobs.scheduler import JobASHA
    from tune_jobs.searcher import JobSearch
    from tune_jobs.trial import TrialRunner

    optuna_level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = JobSearch(job, recorder)
    optuna.logging.set_verbosity(optuna_level)
    trainable: Any = tune.with_parameters(TrialRunner, job=job.model_dump(mode="json"))
    trainable = tune.with_resources(trainable, {"cpu": slots.cpus_per_trial, "gpu": slots.gpus_per_trial})
    with tempfile.TemporaryDirectory(prefix="tune-jobs-") as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=JobASHA(recorder, search),
                num_samples=len(job.studies()) * job.search.num_trials,
                max_concurrent_trials=slots.num_slots,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()


@contextmanager
def _ray(slots: Slots, totals: cluster.Totals) -> Iterator[None]:
    """The environment Tune reads, and a Ray of our own if there is none."""
    import ray

    before = {name: os.environ.get(name) for name in _TUNE_ENV}
    levels = {name: logging.getLogger(name).level for name in _CHATTER}
    os.environ.update(_TUNE_ENV)
    for name, level in _CHATTER.items():
        logging.getLogger(name).setLevel(level)
    owned = not cluster.is_remote()
    try:
        if owned:
            cluster.start_local(totals, max(1, int(slots.cpus_per_trial)))
        yield
    finally:
        if owned:
            ray.shutdown()
        for name, logger_level in levels.items():
            logging.getLogger(name).setLevel(logger_level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
