"""Plans, runs and explains hyperparameter searches for sharpness-aware training.

Example:
    >>> import tune_jobs
    >>> job = tune_jobs.load_job("digits", ["search.num_trials=4"])
    >>> job.search.num_trials
    4

`tune_jobs.run(job)` then searches, and `tune_jobs.compare(["results/digits"])` returns what it says as a table.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_jobs.api import resume, run
    from tune_jobs.confirmation.run import confirm
    from tune_jobs.errors import (
        ClusterError,
        JobError,
        LedgerError,
        ResultsError,
        StorageError,
        TuneJobsError,
    )
    from tune_jobs.job.load import load_job
    from tune_jobs.job.spec import JobSpec
    from tune_jobs.results.compare import compare
    from tune_jobs.results.read import read_results
    from tune_jobs.results.write import export
    from tune_jobs.search.run import SearchResult

    __version__: str

__all__ = [
    "ClusterError",
    "JobError",
    "JobSpec",
    "LedgerError",
    "ResultsError",
    "SearchResult",
    "StorageError",
    "TuneJobsError",
    "__version__",
    "compare",
    "confirm",
    "export",
    "load_job",
    "read_results",
    "resume",
    "run",
]

_MODULES = {
    "ClusterError": "errors",
    "JobError": "errors",
    "JobSpec": "job.spec",
    "LedgerError": "errors",
    "ResultsError": "errors",
    "SearchResult": "search.run",
    "StorageError": "errors",
    "TuneJobsError": "errors",
    "compare": "results.compare",
    "comparison": "results.compare",  # its name in version 0.1
    "confirm": "confirmation.run",
    "export": "results.write",
    "load_job": "job.load",
    "read_results": "results.read",
    "resume": "api",
    "run": "api",
}


def __getattr__(name: str) -> Any:
    """Imports a name's module on first use, so that reading results does not load Ray."""
    if name == "__version__":
        from importlib.metadata import version

        return version("zsharp-tune")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
