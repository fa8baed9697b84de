"""Decides which winners are retrained with which seeds, and what is recorded of each run."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tune_jobs.errors import JobError, Problem
from tune_jobs.job.metric import Metric
from tune_jobs.job.space import Value
from tune_jobs.job.spec import JobSpec, Study
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.statistics import smallest_n
from tune_jobs.search.recorder import dataset_name
from tune_jobs.search.trunk import Trunk
from zsharp.optim.methods import METHODS, find_method
from zsharp.training.spec import TrialSpec

Budget = Literal["epochs", "gradients"]
BUDGETS = ("epochs", "gradients")


@dataclass(frozen=True)
class Winner:
    """One of the best configurations of a study, at full fidelity."""

    study: Study
    rank: int  # 1 is the study's best
    trial_id: str  # its trial; with several seeds, the first of them
    params: Mapping[str, Value]  # its configuration, fixed parameters included
    value: float  # its value of the job's metric, the mean over its seeds
    val_accuracy: float | None  # its validation accuracy, likewise; None if it has none


@dataclass(frozen=True)
class Confirmation:
    """One training run of a winner with a fresh seed, on all training data."""

    winner: Winner
    # A seed that no trial of the search had. All methods get the same seeds, so that their runs pair up.
    seed: int
    budget: Budget  # what is equal among methods: epochs or gradient evaluations
    spec: TrialSpec  # what the run trains, in full
    trunk: Trunk | None = None  # what it starts from, which all runs of its architecture and seed share

    @property
    def key(self) -> str:
        """Identifies the run within its search, also after the search was extended."""
        return f"{self.winner.trial_id}/{self.budget}/{self.spec.train.epochs}/{self.seed}"


def winners(
    job: JobSpec, trials: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]], top: int
) -> list[Winner]:
    """Returns the best configurations of each study by the job's metric, as `Metric.merit` has it, then by trial.

    Only trials at the job's full fidelity count. If a configuration was tried with several seeds, its means count.
    """
    metric = Metric(job.metric, job.mode)
    last = {report["trial_id"]: report for report in reports}
    best = []
    for study in job.studies():
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for trial in trials:
            is_full = trial["status"] == "completed" and trial["max_epochs"] == job.train.epochs
            if trial["study"] == study.name and is_full:
                groups.setdefault(json.dumps(trial["params"], sort_keys=True), []).append(trial)
        ranked = sorted(groups.values(), key=lambda members: _merit(members, last, metric))
        for rank, members in enumerate(ranked[:top], 1):
            value, accuracy, _ = _means(members, last, metric)
            if value is not None:
                first = members[0]
                best.append(Winner(study, rank, first["trial_id"], first["params"], value, accuracy))
    return best


def plan_confirmations(
    job: JobSpec, ledger: Ledger, address: str, num_seeds: int | None, top: int, budget: Budget
) -> list[Confirmation]:
    """Returns every run of a confirmation, done or not, ordered by seed first.

    Without a number of seeds, it is the smallest that can decide (`deciding_seeds`). With the budget `gradients`, a
    method that takes one gradient a step trains for more epochs: as many times more as the costliest method of the job
    takes gradients a step.

    Raises:
        JobError: If a number is out of range, or no study has a winner.
    """
    problems = [
        Problem(f"--{name}", value, f"expected 1 to {most}")
        for name, value, most in (("seeds", num_seeds, 1000), ("top", top, 1000))
        if value is not None and not 1 <= value <= most
    ]
    if budget not in BUDGETS:
        problems.append(Problem("--equal", budget, f"expected one of {', '.join(BUDGETS)}"))
    if problems:
        raise JobError(problems)
    best = winners(job, ledger.trials(), ledger.reports(), top)
    if not best:
        raise JobError([Problem("DIR", address, "no trial reached full fidelity, so there is no winner")])
    if num_seeds is None:
        num_seeds = deciding_seeds(num_compared(best))
    first_seed = job.train.seed + job.search.seeds
    return [
        _confirmation(job, winner, seed, budget)
        for seed in range(first_seed, first_seed + num_seeds)
        for winner in best
    ]


def num_compared(best: Iterable[Winner]) -> int:
    """Returns how many methods are compared with one another: those of the architecture that has most."""
    methods = {(winner.study.architecture, winner.study.method) for winner in best}
    return max(Counter(architecture for architecture, _ in methods).values())


def deciding_seeds(num_methods: int) -> int:
    """Returns the fewest fresh seeds with which a difference between so many methods can be significant."""
    return smallest_n(max(2, num_methods))


def result_row(confirmation: Confirmation, job: JobSpec, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of `confirmations.parquet` for one run.

    Args:
        outcome: What its worker returned: `status`, `error`, measures and times.
    """
    winner, spec = confirmation.winner, confirmation.spec
    return {
        "job": job.name,
        "study": winner.study.name,
        "architecture": winner.study.architecture,
        "method": winner.study.method,
        "seed": confirmation.seed,
        "val_accuracy": winner.val_accuracy,
        "search_value": winner.value,
        **{f"param.{name}": value for name, value in winner.params.items()},
        "dataset": dataset_name(spec.data),
        "variant": METHODS[spec.method].variant,
        "trial_id": winner.trial_id,
        "place": winner.rank,
        "budget": confirmation.budget,
        "epochs": spec.train.epochs,
        **outcome,
    }


def done_already(
    confirmations: Sequence[Confirmation], recorded: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Confirmation, Mapping[str, Any]]]:
    """Yields runs that need not be trained, with their rows: the same run was recorded for the other budget."""
    for confirmation in confirmations:
        for budget in BUDGETS:
            twin = replace(confirmation, budget=budget)  # type: ignore[arg-type]
            if confirmation.key not in recorded and twin.key in recorded and twin.spec == confirmation.spec:
                yield confirmation, {**recorded[twin.key], "budget": confirmation.budget}
                break


def _confirmation(job: JobSpec, winner: Winner, seed: int, budget: Budget) -> Confirmation:
    spec = job.trial_spec(winner.study, winner.params)
    fork, epochs = job.fork_epoch, spec.train.epochs
    if budget == "gradients":
        costs = [find_method(method).gradient_evaluations_per_step for method in job.methods]
        # Methods spend the same on a trunk, whatever they spend on the epochs after it.
        epochs = fork + (epochs - fork) * (
            max(costs) // find_method(spec.method).gradient_evaluations_per_step
        )

    def fresh(spec: TrialSpec) -> TrialSpec:
        return replace(
            spec,
            data=spec.data if job.own else replace(spec.data, val_fraction=0.0),
            train=replace(spec.train, seed=seed, epochs=epochs),
        )

    trunk = job.trunk_of(winner.study, 0)
    if trunk is None:
        return Confirmation(winner, seed, budget, fresh(spec))
    study, number = trunk
    name = f"confirm-{study.name}-{epochs}-{seed}"
    return Confirmation(
        winner, seed, budget, fresh(spec), Trunk(name, fresh(job.trial_spec(study, {}, number)), fork)
    )


def _merit(
    members: Sequence[Mapping[str, Any]], last: Mapping[str, Mapping[str, Any]], metric: Metric
) -> tuple[float, float, str]:
    value, _, loss = _means(members, last, metric)
    first, second = metric.merit(value, loss)
    return -first, -second, members[0]["trial_id"]


def _means(
    members: Sequence[Mapping[str, Any]], last: Mapping[str, Mapping[str, Any]], metric: Metric
) -> tuple[float | None, float | None, float | None]:
    """Returns the means of the metric, the validation accuracy and the validation loss; None where one is missing."""
    reports = [last[trial["trial_id"]] for trial in members]
    return (
        _mean([metric.of(report) for report in reports]),
        _mean([report["val_accuracy"] for report in reports]),
        _mean([report.get("val_loss") for report in reports]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
