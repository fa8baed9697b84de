"""Applies the stopping rule to a recorded search: rebuilds its rungs, and checks the decisions it recorded."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from tune_jobs.job.finalists import finalist_of
from tune_jobs.job.trunk import TRUNK
from tune_jobs.ledger.rows import Decision
from tune_jobs.stopping.asha import Rule, Rungs

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """A report on which the rule decides differently from what was recorded."""

    trial_id: str
    epoch: int
    recorded: Decision
    replayed: Decision


def rungs_at_end(rule: Rule, trials: Iterable[Row], reports: Iterable[Row]) -> dict[str, Rungs]:
    """Returns the rungs of each study at the end of a record, so that the search can continue.

    Args:
        rule: The rule from now on. Its milestones may differ from those of the record.
        trials: Rows with `trial_id`, `study`, `method`, `status`, `ended_after`.
        reports: Rows with `seq`, `trial_id`, `epoch`, `decision`, and the rule's metric.
    """
    trials = list(trials)
    study_of = {trial["trial_id"]: trial["study"] for trial in trials}
    by_study = rungs_of(rule, trials)
    for _, row in in_order(trials, reports):
        rungs = by_study[study_of[row["trial_id"]]]
        if "epoch" in row:
            rungs.record(row["trial_id"], row["epoch"], value_of(row, rule))
        else:
            rungs.record_worst(row["trial_id"])
    return by_study


def replay(
    rules: Sequence[tuple[int, Rule]], trials: Iterable[Row], reports: Iterable[Row]
) -> list[Difference]:
    """Judges every report again, and returns those that end differently.

    Args:
        rules: The first rule and those of each extension, each with the `seq` of the last report before it applied.
        trials: As for `rungs_at_end`.
        reports: As for `rungs_at_end`, with `rung`, `cutoff`, `num_values` and `reason` too.
    """
    trials = list(trials)
    study_of = {trial["trial_id"]: trial["study"] for trial in trials}
    differences: list[Difference] = []
    coming = list(rules)
    past: list[Row] = []
    rungs: dict[str, Rungs] = {}
    for at, row in in_order(trials, reports):
        while coming and coming[0][0] < at:
            # An extension can move the milestones: rebuild the rungs under the new rule, as the search did. Of the
            # trials that failed, only those that had failed by then may count.
            _, rule = coming.pop(0)
            failed = {entry["trial_id"] for entry in past if "epoch" not in entry}
            known = [dict(t, status=t["status"] if t["trial_id"] in failed else None) for t in trials]
            rungs = rungs_at_end(rule, known, [entry for entry in past if "epoch" in entry])
        past.append(row)
        of_study = rungs[study_of[row["trial_id"]]]
        if "epoch" not in row:
            of_study.record_worst(row["trial_id"])
            continue
        replayed = of_study.judge(row["trial_id"], row["epoch"], value_of(row, of_study.rule))
        recorded = Decision(row["decision"], row["rung"], row["cutoff"], row["num_values"], row["reason"])
        if replayed != recorded:
            differences.append(Difference(row["trial_id"], row["epoch"], recorded, replayed))
    return differences


def rungs_of(rule: Rule, trials: Iterable[Row]) -> dict[str, Rungs]:
    """Returns empty rungs for each study of these trials; the rules of trunks and finalists stop none."""
    return {trial["study"]: Rungs(_rule_of(rule, trial)) for trial in trials}


def _rule_of(rule: Rule, trial: Row) -> Rule:
    if trial.get("method") == TRUNK:
        return rule.of_trunks
    return rule.of_finalists if finalist_of(trial["study"], trial.get("number") or 0) else rule


def in_order(trials: Iterable[Row], reports: Iterable[Row]) -> Iterator[tuple[float, Row]]:
    """Yields reports, and trials that failed, in the order in which the rule saw them."""
    # Half a step puts a failure between the last report before it and the next one.
    failed = [(trial["ended_after"] + 0.5, trial) for trial in trials if trial["status"] == "failed"]
    yield from sorted([*((report["seq"], report) for report in reports), *failed], key=itemgetter(0))


def value_of(report: Row, rule: Rule) -> float | None:
    """Returns what a report is judged by; None if the trial diverged."""
    return None if report["decision"] == "diverge" else rule.metric.of(report)
