"""A Ray to run on: the one that is there, or one on this machine for as long as it is needed."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from tune_jobs.cluster import ray as cluster
from tune_jobs.cluster.slots import Slots

# Ray Tune reads these when a run starts. Nothing depends on its own files, loggers and snapshots.
_TUNE_ENV = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",  # of a worker that does not end when told to
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


@contextmanager
def ray_session(slots: Slots, totals: cluster.Totals) -> Iterator[None]:
    """The environment that Tune reads, and a Ray of our own if there is none."""
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
