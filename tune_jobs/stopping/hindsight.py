"""What another rule would have done with the trials of a recorded search: epochs spent, winners lost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tune_jobs.stopping.asha import Rule
from tune_jobs.stopping.replay import Row, in_order, rungs_of, value_of


@dataclass(frozen=True)
class Outcome:
    """What a rule would have made of one study."""

    study: str
    least_epochs: int  # epochs that it would have trained at least
    # At most: trials whose record ends where the rule would have continued may have gone on to full fidelity.
    most_epochs: int
    full_epochs: int  # epochs without any rule
    num_unknown: int  # trials whose record ends too early to tell
    winner: str | None  # the best trial of the record at full fidelity
    stopped_at: int | None  # the epoch at which the rule would have stopped that winner
    # How much better the winner is than the best completed trial that the rule would have left, in the metric: 0 if
    # the winner stays, None if no trial does.
    loss: float | None


def outcomes(rule: Rule, trials: Iterable[Row], reports: Iterable[Row]) -> list[Outcome]:
    """Applies a rule to the curves of a record, in the order of the record, and returns what became of each study.

    Configurations stay those of the record, although a sampler would have learned from other curves. Where the record
    stopped a trial that the rule would have continued, later rungs lack its value.

    Args:
        rule: Any rule; give it an `immortal_fraction` of 0 to see what it does by itself.
        trials: Rows with `trial_id`, `study`, `status`, `ended_after`.
        reports: Rows with `seq`, `trial_id`, `epoch`, `decision`, `val_loss` and the rule's metric.
    """
    trials, reports = list(trials), list(reports)
    study_of = {trial["trial_id"]: trial["study"] for trial in trials}
    rungs = rungs_of(rule, trials)
    ended: dict[str, str] = {}  # how the rule ended each trial
    trained: dict[str, int] = {}  # epochs of each under the rule
    for _, row in in_order(trials, reports):
        trial_id = row["trial_id"]
        if trial_id in ended:
            continue
        of_study = rungs[study_of[trial_id]]
        if "epoch" not in row:
            of_study.record_worst(trial_id)
            ended[trial_id] = "fail"
            continue
        trained[trial_id] = row["epoch"]
        action = of_study.judge(trial_id, row["epoch"], value_of(row, rule)).action
        if action != "continue":
            ended[trial_id] = action
    last = {row["trial_id"]: row for row in sorted(reports, key=lambda row: row["seq"])}
    by_study: dict[str, list[Row]] = {}
    for trial in trials:
        by_study.setdefault(trial["study"], []).append(trial)
    return [
        _outcome(study, members, rungs[study].rule, ended, trained, last)
        for study, members in by_study.items()
    ]


def _outcome(
    study: str,
    trials: Sequence[Row],
    rule: Rule,
    ended: Mapping[str, str],
    trained: Mapping[str, int],
    last: Mapping[str, Row],
) -> Outcome:
    least = most = full = unknown = 0
    for trial in trials:
        trial_id, status = trial["trial_id"], trial["status"]
        if trial_id not in last:
            continue
        epochs = trained[trial_id] - rule.fork_epoch  # a fork's own; its trunk is a study by itself
        least += epochs
        # These ended by themselves: no rule would have trained them further.
        is_over = status in ("completed", "diverged", "failed")
        full += (last[trial_id]["epoch"] if is_over else rule.max_epochs) - rule.fork_epoch
        if trial_id in ended or is_over:
            most += epochs
        else:
            most += rule.max_epochs - rule.fork_epoch
            unknown += 1
    completed = [trial["trial_id"] for trial in trials if trial["status"] == "completed"]
    ranked = _ranked(rule, [last[trial_id] for trial_id in completed if trial_id in last])
    winner = ranked[0] if ranked else None
    left = [trial_id for trial_id in ranked if ended.get(trial_id) != "stop"]
    loss = None
    if winner is not None and left:
        best, next_best = (rule.metric.of(last[trial_id]) or 0.0 for trial_id in (winner, left[0]))
        loss = rule.metric.sign * (best - next_best)
    stopped_at = trained[winner] if winner is not None and ended.get(winner) == "stop" else None
    return Outcome(study, least, most, full, unknown, winner, stopped_at, loss)


def _ranked(rule: Rule, reports: Sequence[Row]) -> list[str]:
    """Returns the ids of these trials, by their last reports, the best first."""
    keys: dict[str, tuple[float, float, str]] = {}
    for row in reports:
        value = rule.metric.of(row)
        if value is not None:
            loss = row.get("val_loss")
            first, second = rule.metric.merit(value, math.inf if loss is None else loss)
            keys[row["trial_id"]] = (-first, -second, row["trial_id"])
    return sorted(keys, key=keys.__getitem__)
