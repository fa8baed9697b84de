"""Decides which winners are retrained with which seeds, and what is recorded of each run."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from tune_jobs.errors import NOTHING, JobError, Problem, unknown
from tune_jobs.job.metric import Metric
from tune_jobs.job.space import Value
from tune_jobs.job.spec import JobSpec, Study
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.finalists import Final, ended, finals
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.statistics import smallest_n
from tune_jobs.search.recorder import dataset_name
from tune_jobs.search.trunk import Trunk
from zsharp.optim.methods import METHODS, find_method
from zsharp.training.spec import TrialSpec

Budget = Literal["epochs", "gradients"]
Role = Literal["winner", "incumbent"]
BUDGETS: tuple[Budget, ...] = ("epochs", "gradients")
ROLES: tuple[Role, ...] = ("winner", "incumbent")


@dataclass(frozen=True)
class Winner:
    """One of the best configurations of a study, at full fidelity."""

    study: Study
    rank: int  # 1 is the study's best; of incumbents, 1 is the first
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
    role: Role = "winner"  # what it is measured for: methods are compared by winners only

    @property
    def key(self) -> str:
        """Identifies the run within its search, also after the search was extended."""
        key = f"{self.winner.trial_id}/{self.budget}/{self.spec.train.epochs}/{self.seed}"
        return key if self.role == "winner" else f"{key}/{self.role}"


def winners(
    job: JobSpec, trials: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]], top: int
) -> list[Winner]:
    """Returns the best configurations of each study by the job's metric, as `Metric.merit` has it, then by trial.

    Only trials at the job's full fidelity count. If a configuration was tried with several seeds, its means count.
    Finalists come first, by the means over their further seeds, once all of these are trained.
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
        order = {final.trial_id: rank for rank, final in enumerate(_finals(job, study, trials, last))}
        ranked.sort(key=lambda members: order.get(members[0]["trial_id"], len(order)))
        for rank, members in enumerate(ranked[:top], 1):
            value, accuracy, _ = _means(members, last, metric)
            if value is not None:
                first = members[0]
                best.append(Winner(study, rank, first["trial_id"], first["params"], value, accuracy))
    return best


def incumbents(
    job: JobSpec, trials: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]]
) -> list[Winner]:
    """Returns the configurations that were each study's best so far, as its trials completed, in that order.

    The study's winner is among them, the last one unless it is a finalist that came before. If a configuration was
    tried with several seeds, the mean over those that have completed counts.
    """
    last = {report["trial_id"]: report for report in reports}
    ended = sorted(
        (trial for trial in trials if trial["status"] == "completed"),
        key=lambda trial: last[trial["trial_id"]]["seq"],
    )
    best_so_far: dict[str, dict[str, Winner]] = {study.name: {} for study in job.studies()}
    completed: set[str] = set()
    for newest in ended:
        completed.add(newest["trial_id"])
        if (study := newest["study"]) in best_so_far:  # not one of trunks or finalists
            own = [trial for trial in trials if trial["study"] == study and trial["trial_id"] in completed]
            for best in winners(job, own, reports, 1):
                best_so_far[study].setdefault(best.trial_id, best)
    for best in winners(job, trials, reports, 1):
        best_so_far[best.study.name].setdefault(best.trial_id, best)
    return [
        replace(best, rank=rank) for own in best_so_far.values() for rank, best in enumerate(own.values(), 1)
    ]


def plan_confirmations(
    job: JobSpec,
    ledger: Ledger,
    address: str,
    num_seeds: int | None = None,
    top: int = 1,
    budget: Budget = "epochs",
    *,
    methods: Sequence[str] = (),
    architectures: Sequence[str] = (),
    with_incumbents: bool = False,
) -> list[Confirmation]:
    """Returns every run of a confirmation, done or not, ordered by seed first.

    Without a number of seeds, it is the smallest that can decide (`deciding_seeds`). With the budget `gradients`, a
    method that takes one gradient a step trains for more epochs: as many times more as the costliest method of the job
    takes gradients a step. Methods and architectures that are not named are left out; none named are all.

    Raises:
        JobError: If a number is out of range, the job has no such method or architecture, or no study has a winner.
    """
    problems = [
        Problem(f"--{name}", value, f"expected 1 to {most}")
        for name, value, most in (("seeds", num_seeds, 1000), ("top", top, 1000))
        if value is not None and not 1 <= value <= most
    ]
    valid = {
        "method": job.methods,
        "architecture": tuple(dict.fromkeys(s.architecture for s in job.studies())),
    }
    problems += [
        Problem(f"--{kind}s", NOTHING, unknown(kind, name, valid[kind]))
        for kind, names in (("method", methods), ("architecture", architectures))
        for name in names
        if name not in valid[kind]
    ]
    if budget not in BUDGETS:
        problems.append(Problem("--equal", budget, f"expected one of {', '.join(BUDGETS)}"))
    if problems:
        raise JobError(problems)

    def is_chosen(winner: Winner) -> bool:
        study = winner.study
        return study.method in (methods or job.methods) and study.architecture in (
            architectures or valid["architecture"]
        )

    best = list(filter(is_chosen, winners(job, ledger.trials(), ledger.reports(), top)))
    if not best:
        among = "of these studies " if methods or architectures else ""
        raise JobError(
            [Problem("DIR", address, f"no trial {among}reached full fidelity, so there is no winner")]
        )
    if num_seeds is None:
        num_seeds = deciding_seeds(num_compared(best))
    first_seed = job.train.seed + job.search.seeds
    before = incumbents(job, ledger.trials(), ledger.reports()) if with_incumbents else []
    before = list(filter(is_chosen, before))
    return [
        _confirmation(job, winner, seed, budget, role)
        for seed in range(first_seed, first_seed + num_seeds)
        for role, chosen in zip(ROLES, (best, before), strict=True)
        for winner in chosen
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
        "place": winner.rank if confirmation.role == "winner" else None,
        "budget": confirmation.budget,
        "epochs": spec.train.epochs,
        "role": confirmation.role,
        **outcome,
    }


def done_already(
    confirmations: Sequence[Confirmation], recorded: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Confirmation, Mapping[str, Any]]]:
    """Yields runs that need not be trained, with their rows: the same run was recorded for another budget or role."""
    for confirmation in confirmations:
        place = confirmation.winner.rank if confirmation.role == "winner" else None
        own = {"budget": confirmation.budget, "role": confirmation.role, "place": place}
        for budget, role in product(BUDGETS, ROLES):
            twin = replace(confirmation, budget=budget, role=role)
            if confirmation.key not in recorded and twin.key in recorded:
                yield confirmation, {**recorded[twin.key], **own}
                break


def to_train(
    confirmations: Iterable[Confirmation], recorded: Mapping[str, Mapping[str, Any]]
) -> list[Confirmation]:
    """Returns the runs that are not recorded, each once: an incumbent that is the winner as well is the same run."""
    coming: dict[str, Confirmation] = {}
    for confirmation in confirmations:
        if confirmation.key not in recorded:
            coming.setdefault(replace(confirmation, role="winner").key, confirmation)
    return list(coming.values())


def _confirmation(job: JobSpec, winner: Winner, seed: int, budget: Budget, role: Role) -> Confirmation:
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
        return Confirmation(winner, seed, budget, fresh(spec), None, role)
    study, number = trunk
    name = f"confirm-{study.name}-{epochs}-{seed}"
    from_trunk = Trunk(name, fresh(job.trial_spec(study, {}, number)), fork)
    return Confirmation(winner, seed, budget, fresh(spec), from_trunk, role)


def _finals(
    job: JobSpec, study: Study, trials: Sequence[Mapping[str, Any]], last: Mapping[str, Mapping[str, Any]]
) -> list[Final]:
    """Returns a study's finalists, the best mean first."""
    if not job.search.finalists:
        return []
    (again,) = (other.name for other in job.finalist_studies() if other.finalists_of == study.name)
    rows: dict[str, list[dict[str, Any]]] = {study.name: [], again: []}
    for trial in trials:
        if trial["study"] in rows:
            report = last.get(trial["trial_id"], {})
            params = {f"{PARAM_PREFIX}{name}": value for name, value in trial["params"].items()}
            rows[trial["study"]].append({**report, **trial, **params, "epochs_trained": report.get("epoch")})
    metric, epochs = Metric(job.metric, job.mode), job.train.epochs
    return finals(
        metric,
        (job.search.finalists, job.search.finalist_seeds),
        ended(rows[study.name], metric, epochs, of_finalists=False),
        ended(rows[again], metric, epochs, of_finalists=True),
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
