"""Which searched parameters mattered, and reasons not to trust an optimum."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from tune_jobs.job.space import Distribution, find_value, fixed_value, to_optuna
from tune_jobs.report.data import Report, limits
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.tables import records, setting, share
from tune_jobs.wording import counted

MIN_TRIALS = 10
"""Trials that a fit of importances needs, and that each searched parameter should have."""

_MAX_TRIALS = 250  # more make the page slow and hardly change the fit
_EDGE = 0.02  # fraction of a range, on its own scale
_INFEASIBLE = 0.2


@dataclass(frozen=True)
class Importance:
    """How much of the variance of the metric each parameter of a study explains."""

    # By parameter that all trials have, adding up to 1; empty if there is too little to fit.
    shares: Mapping[str, float]
    # At which epoch the trials are compared; None if there is none that enough of them reached.
    epoch: int | None
    n: int  # how many trials are compared


@dataclass(frozen=True)
class Bound:
    """A study's best point that lies at an end of a parameter's range."""

    label: str
    parameter: str
    best: float
    side: str  # "lower" or "upper"
    low: float
    high: float


def importance(report: Report, workload: str, label: str) -> Importance:
    """Returns the importances of a study's parameters by fANOVA.

    Trials are only comparable at one fidelity, and those that early stopping let through are alike in what matters
    most: they are compared at the last epoch that at least half of them, and `MIN_TRIALS`, reported.

    Raises:
        ModuleNotFoundError: Optuna is not installed.

    References:
        Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014.
    """
    epochs = report.of(report.epochs, workload, label).dropna(subset=["value"])
    reached = epochs.groupby("epoch")["uid"].nunique()
    trials = report.of(report.trials, workload, label)
    enough = reached[(reached >= MIN_TRIALS) & (2 * reached >= len(trials))]
    if not len(enough):
        return Importance({}, None, int(reached.max()) if len(reached) else 0)
    epoch = int(enough.index.max())
    value = epochs[epochs["epoch"] == epoch].drop_duplicates("uid").set_index("uid")["value"]
    trials = trials.assign(value=trials["uid"].map(value)).dropna(subset=["value"]).tail(_MAX_TRIALS)
    space = report.space(str(trials["folder"].iloc[0]))
    names = [
        name
        for name in report.params
        if name in space and fixed_value(space[name]) is None and trials[PARAM_PREFIX + name].notna().all()
    ]
    if not names or trials["value"].nunique() < 2:
        return Importance({}, epoch, len(trials))
    return Importance(_fit(trials, {name: space[name] for name in names}), epoch, len(trials))


def warnings(report: Report, workload: str) -> Iterator[str]:
    """Yields reasons not to trust the optima found on a workload."""
    for study in records(report.of(report.studies, workload)):
        study_name = f"{workload}, {study['label']}"
        trials = report.of(report.trials, workload, study["label"])
        space = report.space(str(study["folder"]))
        searched = {
            name: limits(space[name])
            for name in report.params
            if name in space
            and fixed_value(space[name]) is None
            and trials[PARAM_PREFIX + name].notna().any()
        }
        if len(trials) < MIN_TRIALS * len(searched):
            few = f"{counted(len(trials), 'trial')} {'is' if len(trials) == 1 else 'are'} few"
            yield (
                f"{study_name}: n = {few} to search {', '.join(searched)}; a rule of thumb is {MIN_TRIALS} per "
                "parameter."
            )
        ended = trials[trials["status"] != "running"]
        infeasible = ended["status"].isin(["diverged", "failed"]).mean() if len(ended) else 0.0
        if infeasible > _INFEASIBLE:
            of_all = f"{share(infeasible)} of n = {counted(len(ended), 'trial')}"
            yield f"{study_name}: {of_all} diverged or failed; narrow the space."
    for bound in bounds_reached(report, workload):
        yield (
            f"{workload}, {bound.label}: the best {bound.parameter}, {setting(bound.best)}, is at the {bound.side} end "
            f"of its range, {setting(bound.low)} to {setting(bound.high)}; the optimum may lie outside."
        )


def bounds_reached(report: Report, workload: str) -> Iterator[Bound]:
    """Yields where a study's best point lies at an end of a range."""
    for study in records(report.of(report.studies, workload)):
        space = report.space(str(study["folder"]))
        for parameter in report.params:
            best, ends = study[PARAM_PREFIX + parameter], limits(space.get(parameter))
            if best is None or ends is None or ends[0] == ends[1]:
                continue
            low, high, is_log = ends
            side = _edge(best, low, high, is_log)
            if side and not (side == "lower" and low == 0):  # no setting of ours can be negative
                yield Bound(study["label"], parameter, best, side, low, high)


def _edge(value: float, low: float, high: float, is_log: bool) -> str | None:
    if is_log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    position = (value - low) / (high - low)
    return "lower" if position <= _EDGE else "upper" if position >= 1 - _EDGE else None


def _fit(trials: pd.DataFrame, space: Mapping[str, Distribution]) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    distributions = {name: to_optuna(distribution) for name, distribution in space.items()}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it logs a line for every study
    try:
        study = optuna.create_study(direction="maximize")
        for row in records(trials):
            params = {name: find_value(kind, row[PARAM_PREFIX + name]) for name, kind in space.items()}
            if None not in params.values():
                trial = optuna.create_trial(params=params, distributions=distributions, value=row["value"])
                study.add_trial(trial)
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=32, seed=0))
    finally:
        optuna.logging.set_verbosity(before)
    return {name: float(value) for name, value in shares.items()}
