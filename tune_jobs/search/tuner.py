"""Runs what is left of a search on Ray: one Tune run over all its studies, in as many sittings as it takes."""

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from ray import tune

from tune_jobs.cluster.ray import Totals, ray_session
from tune_jobs.cluster.slots import Slots
from tune_jobs.cluster.watch import kill_children, watched
from tune_jobs.errors import EXIT_INTERRUPTED
from tune_jobs.search import packing_probe
from tune_jobs.search.optuna_journal import new_journal
from tune_jobs.search.recorder import Recorder
from tune_jobs.search.room import Room
from tune_jobs.search.scheduler import JobASHA
from tune_jobs.search.searcher import JobSearch
from tune_jobs.search.wind_down import say
from tune_jobs.search.worker import TrialRunner


def run_trials(recorder: Recorder, slots: Slots, totals: Totals, listen: Callable[[], None]) -> None:
    """Runs the trials that are left, until all have ended or the search is stopped.

    `listen` installs the search's signal handlers again.
    """

    def without_ray(name: str) -> None:
        say(f"Ray's {name} died. Nothing recorded is lost. {recorder.folder.resume_hint}", is_last=True)
        kill_children()
        # As Ray would, a minute later.
        os._exit(EXIT_INTERRUPTED if recorder.wind_down.kind == "signal" else 1)

    try:
        with ray_session(slots, totals), watched(without_ray):
            listen()  # Ray has taken SIGTERM for itself
            _run_and_repack(recorder, slots, totals)
    except SystemExit:  # Ray makes one of a SIGTERM while it starts
        recorder.wind_down.begin("interrupted by SIGTERM", "signal")


def _run_and_repack(recorder: Recorder, slots: Slots, totals: Totals) -> None:
    """Runs the search; again with fewer trials to a GPU as long as one runs out of its memory."""
    job, ledger, wind_down = recorder.job, recorder.ledger, recorder.wind_down
    if wind_down.has_begun:
        return
    slots = packing_probe.packed(
        job, ledger, slots, totals, lambda: wind_down.has_begun, recorder.folder.address
    )
    recorder.repack(slots.gpus_per_trial)
    while not wind_down.has_begun:
        _tune(recorder, slots)
        if wind_down.kind == "repack":
            slots = packing_probe.with_fewer(job, ledger, slots, totals)
            recorder.repack(slots.gpus_per_trial)
        else:
            return


def _tune(recorder: Recorder, slots: Slots) -> None:
    """Runs one Tuner over all studies, so that no slot idles at the end of a study."""
    job = recorder.job
    trainable: Any = tune.with_parameters(
        TrialRunner,
        job=job.model_dump(mode="json"),
        folder=recorder.folder,
        code=recorder.code,
        task=recorder.task,
        slots=slots,
    )
    if slots.workers_per_trial == 1:
        reserved: Any = {"cpu": slots.cpus_per_trial, "gpu": slots.gpus_per_trial}
    else:
        reserved = tune.PlacementGroupFactory(slots.bundles)
    trainable = tune.with_resources(trainable, reserved)
    with (
        tempfile.TemporaryDirectory(prefix="tune-jobs-") as scratch,
        make_searcher(recorder) as search,
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
                progress_reporter=Silent(),
                stop=EndOfRun(recorder),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()


class Silent(tune.ProgressReporter):
    """Reports nothing: in a notebook, Tune's own reporter would clear the output, with our live table in it."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Never."""
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: Any) -> None:
        """Nothing."""


@contextmanager
def make_searcher(recorder: Recorder) -> Iterator[JobSearch]:
    """Yields the searcher, after Optuna and its journal were told what the ledger holds."""
    level = optuna.logging.get_verbosity()
    with new_journal(recorder.folder.local) as journal:
        # Otherwise it writes a line for every trial of earlier sessions.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        search = JobSearch(recorder.job, recorder, journal)
        optuna.logging.set_verbosity(level)
        yield search


class EndOfRun(tune.Stopper):
    """Ends the whole run once the search is stopping and running epochs had time to end.

    No epoch is lost if they do not: each trial has its checkpoint.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Returns whether one trial has to stop: never, the scheduler decides that."""
        return False

    def stop_all(self) -> bool:
        """Returns whether everything has to stop."""
        self._recorder.check_budget()  # hours pass without a report too
        return self._recorder.wind_down.is_done(len(self._recorder.training))

    def __getstate__(self) -> dict[str, Any]:
        """Ray pickles the stopper into a snapshot that nothing here reads."""
        return {}
