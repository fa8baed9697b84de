"""Plans, runs and explains hyperparameter searches for sharpness-aware training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_jobs.job.load import load_job
    from tune_jobs.job.spec import JobSpec
    from tune_jobs.results.compare import comparison
    from tune_jobs.search.run import SearchResult, run

__all__ = ["JobSpec", "SearchResult", "comparison", "load_job", "run"]

_MODULES = {
    "JobSpec": "job.spec",
    "SearchResult": "search.run",
    "comparison": "results.compare",
    "load_job": "job.load",
    "run": "search.run",
}


def __getattr__(name: str) -> Any:
    """Loads a name's module when it is asked for: reading results needs no Ray, checking a job little of it."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
