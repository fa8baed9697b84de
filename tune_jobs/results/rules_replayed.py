"""A finished search under other stopping rules: a row of what each would have spent, saved and lost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from tune_jobs.errors import JobError, Problem, ResultsError
from tune_jobs.results.read import Results
from tune_jobs.results.tables import Column, Table, records
from tune_jobs.stopping.asha import Rule, RuleName
from tune_jobs.stopping.hindsight import Outcome, outcomes


def rule_of(results: Results) -> Rule:
    """Returns the rule that a search has now, without the trials that it never stops.

    Raises:
        ResultsError: If an older version wrote the files and did not record enough to judge the reports again.
    """
    job = results.metadata["job"]
    if not job or "asha" not in job or results.epochs["seq"].isna().any():
        raise ResultsError(
            f"{results.folder_name}: an older version wrote these results, without what judging them again takes; "
            "run `tune-jobs export` on the search folder first"
        )
    return replace(Rule.of_job(job), enabled=True, immortal_fraction=0.0)


def rules_like(
    own: Rule,
    *,
    names: Sequence[str] | None = None,
    grace: Sequence[int] | None = None,
    reduction_factor: Sequence[int] | None = None,
    protect_top: int | None = None,
) -> list[Rule]:
    """Returns each combination of these settings; those not given are the search's own.

    Raises:
        JobError: If a setting is not valid.
    """
    names = [own.name] if names is None else names
    known = get_args(RuleName)
    problems = [
        Problem("--rule", name, f"expected {' or '.join(known)}") for name in names if name not in known
    ]
    first = own.fork_epoch + 1
    for given in grace or ():
        if not first <= given < own.max_epochs:
            shared = f", and share the first {own.fork_epoch}" if own.fork_epoch else ""
            text = f"expected {first} to {own.max_epochs - 1}: trials have {own.max_epochs} epochs{shared}"
            problems.append(Problem("--grace", given, text))
    problems += [
        Problem("--reduction-factor", given, "expected 2 to 100")
        for given in reduction_factor or ()
        if not 2 <= given <= 100
    ]
    if problems:
        raise JobError(problems)
    rule = replace(own, protect_top=own.protect_top if protect_top is None else protect_top)
    factors: Mapping[RuleName, Sequence[float]] = {
        "asha": reduction_factor or [own.reduction_factor],
        "i_epoch": [own.reduction_factor],  # which it does not use
    }
    return [
        replace(rule, name=name, grace_epochs=epochs, reduction_factor=factor)
        for name in known
        if name in names
        for epochs in grace or [own.grace_epochs]
        for factor in factors[name]
    ]


def replay_table(results: Results, rules: Sequence[Rule]) -> Table:
    """Returns a row for each rule, after one for what the search really did."""
    trials, reports = records(results.trials), records(results.epochs)
    each = [outcomes(rule, trials, reports) for rule in rules]
    # Without a rule nothing is stopped: what the record knows of every trial.
    full = sum(outcome.full_epochs for outcome in each[0])
    trained = len(reports)
    recorded = {
        "rule": "as recorded", "grace_epochs": None, "reduction_factor": None, "epochs": trained,
        "epochs_at_most": trained, "saved": 1 - trained / full if full else None, "winners": None, "winners_lost": None,
        "lost": "", "loss": None, "unknown": 0,
    }  # fmt: skip
    rows = [recorded, *(_row(rule, judged, full) for rule, judged in zip(rules, each, strict=True))]
    metric = rules[0].metric
    columns = [
        Column("rule", lambda row: str(row["rule"]), is_number=False),
        Column("grace", lambda row: _text(row["grace_epochs"])),
        Column("factor", lambda row: _text(row["reduction_factor"])),
        Column("epochs", _epochs),
        Column("saved", lambda row: _text(row["saved"], "{:.0%}")),
        Column("winners lost", lambda row: _of(row["winners_lost"], row["winners"])),
        Column(
            f"worst loss in {metric.short_label}",
            lambda row: "" if row["loss"] is None else metric.text(row["loss"]),
        ),
        Column("unknown", lambda row: str(row["unknown"])),
    ]
    caption = (
        f"{results.folder.name}: other stopping rules on its {len(trials):,} trials, {full:,} epochs in full"
    )
    return Table("replay", caption, columns, rows, notes=_notes(rules, each))


def _row(rule: Rule, judged: Sequence[Outcome], full: int) -> dict[str, Any]:
    least, most = (
        sum(counts) for counts in zip(*((o.least_epochs, o.most_epochs) for o in judged), strict=True)
    )
    lost = [outcome for outcome in judged if outcome.stopped_at is not None]
    losses = [outcome.loss for outcome in judged if outcome.loss is not None]
    return {
        "rule": rule.name,
        "grace_epochs": rule.grace_epochs,
        "reduction_factor": rule.reduction_factor if rule.name == "asha" else None,
        "epochs": least,
        "epochs_at_most": most,
        "saved": 1 - most / full if full else None,
        "winners": sum(outcome.winner is not None for outcome in judged),
        "winners_lost": len(lost),
        "lost": ", ".join(str(outcome.winner) for outcome in lost),
        "loss": max(losses, default=None),
        "unknown": sum(outcome.num_unknown for outcome in judged),
    }


def _notes(rules: Sequence[Rule], each: Sequence[Sequence[Outcome]]) -> list[str]:
    unknown = max(sum(outcome.num_unknown for outcome in judged) for judged in each)
    notes = []
    if unknown:
        notes.append(
            f"Not exact: the record ends early for up to {unknown} trials that a rule would have continued (unknown). "
            "Their epochs are a range, what is saved counts them in full, and rungs lack their values. A search with "
            "asha.immortal_fraction=1 or asha.enabled=false has whole curves."
        )
    else:
        notes.append("Exact for these configurations: every curve is as long as each rule needs.")
    if fork := rules[0].fork_epoch:
        notes.append(
            f"Trials start from trunks, after epoch {fork}: epochs are numbered on from there, and only those after it "
            "are counted."
        )
    notes.append("A sampler that learns would have proposed other configurations after other decisions.")
    if len(rules) == 1:
        metric = rules[0].metric
        for outcome in each[0]:
            if outcome.stopped_at is not None:
                left = (
                    "no trial of its study would have been left"
                    if outcome.loss is None
                    else f"the best one left is {metric.text(outcome.loss)} worse"
                )
                stopped = f"{outcome.winner}, the best of its study, is stopped at epoch {outcome.stopped_at}"
                notes.append(f"{stopped}; {left}.")
    return notes


def _epochs(row: Mapping[str, Any]) -> str:
    least, most = row["epochs"], row["epochs_at_most"]
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _of(part: int | None, all_of_them: int | None) -> str:
    return "" if part is None else f"{part} of {all_of_them}"


def _text(value: float | None, form: str = "{:g}") -> str:
    return "" if value is None else form.format(value)
