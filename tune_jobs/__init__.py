"""Plans, runs and explains hyperparameter searches for sharpness-aware training."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_jobs.compare import comparison
    from tune_jobs.job_file import load_job
    from tune_jobs.search import SearchResult, run
    from tune_jobs.spec import JobSpec

__all__ = ["JobSpec", "SearchResult", "comparison", "load_job", "run"]

_MODULES = {
    "JobSpec": "spec",
    "SearchResult": "search",
    "comparison": "compare",
    "load_job": "job_file",
    "run": "search",
}


def __getattr__(name: str) -> Any:
    """Loads a name's module when it is asked for: reading results needs no Ray, checking a job little of it."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
