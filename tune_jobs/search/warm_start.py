"""Which configurations of earlier searches a new search tries first."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tune_jobs.errors import JobError, Problem, ResultsError
from tune_jobs.job.space import Value, describe, find_value
from tune_jobs.job.spec import JobSpec, Study
from tune_jobs.results.read import Results, read_results
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.tables import records, setting

MOST_POINTS = 10
_logger = logging.getLogger(__name__)

Points = dict[str, list[dict[str, Any]]]
"""For each study its first points: `params`, and `origin`, which says where they are from. As JSON has them."""


def warm_points(job: JobSpec) -> Points:
    """Returns the best completed configurations of the searches that `search.warm_start` names.

    Those of the same architecture come first, of each folder the best ones in turn: a third of the trials at most, and
    at most `MOST_POINTS`. What is not in the job's space is left out of them, and told in a warning.

    Raises:
        JobError: If a folder has no results that can be read.
    """
    searches: dict[str, Results] = {}
    problems = []
    for index, folder in enumerate(job.search.warm_start):
        try:
            searches[folder] = read_results(Path(folder).expanduser())
        except ResultsError as error:
            problems.append(Problem(f"search.warm_start[{index}]", folder, str(error)))
    if problems:
        raise JobError(problems)
    left_out: dict[tuple[str, str], str] = {}
    points = (
        {study.name: _points_of(job, study, searches, left_out) for study in job.studies()}
        if searches
        else {}
    )
    for (folder, name), reason in left_out.items():
        _logger.warning("search.warm_start, %s: %s is left out: %s", folder, name, reason)
    for name, own in points.items():
        if not own:
            _logger.warning("search.warm_start: no completed trial of the same method for %s", name)
    return points


def _points_of(
    job: JobSpec, study: Study, searches: Mapping[str, Results], left_out: dict[tuple[str, str], str]
) -> list[dict[str, Any]]:
    most = min(MOST_POINTS, job.search.num_trials // 3)
    points: list[dict[str, Any]] = []
    for folder, row in _candidates(study, searches):
        if len(points) >= most:
            break
        params = _mapped(job, study, folder, row, left_out)
        if params and params not in [point["params"] for point in points]:
            points.append({"params": params, "origin": f"warm_start: {folder} {row['trial_id']}"})
    return points


def _candidates(study: Study, searches: Mapping[str, Results]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields completed trials of the method with their folders: of the study's architecture, then of others."""
    ranked: dict[str, list[dict[str, Any]]] = {}
    for folder, results in searches.items():
        trials = results.trials
        completed = trials[(trials["status"] == "completed") & (trials["method"] == study.method)]
        ranked[folder] = records(results.best_first(completed))
    for is_same in (True, False):
        columns: list[Sequence[tuple[str, Mapping[str, Any]]]] = [
            [(folder, row) for row in rows if (row["architecture"] == study.architecture) == is_same]
            for folder, rows in ranked.items()
        ]
        # Accuracies of two searches may be on different data, so neither ranks before the other.
        for row_of_each in zip_longest(*columns):
            yield from (candidate for candidate in row_of_each if candidate is not None)


def _mapped(
    job: JobSpec, study: Study, folder: str, row: Mapping[str, Any], left_out: dict[tuple[str, str], str]
) -> dict[str, Value]:
    """Returns a trial's values of the study's parameters; says once for each name why it was left out."""
    space = job.space_of(study.method, study.architecture)
    params: dict[str, Value] = {}
    for column, value in row.items():
        name = column.removeprefix(PARAM_PREFIX)
        if name == column or value is None:
            continue
        if name in job.space and name not in space:  # an argument that this architecture does not take
            continue
        drawn = find_value(space[name], value) if name in space else None
        if drawn is None:
            reason = (
                f"the space has {name} {describe(space[name])}"
                if name in space
                else "the space does not have it"
            )
            left_out.setdefault((folder, name), f"{setting(value)} of {row['trial_id']}; {reason}")
        elif name in study.parameters:
            params[name] = drawn
    return params
