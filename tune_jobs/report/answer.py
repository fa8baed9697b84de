"""The report's answer: which method won where, by how much and with what confidence."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tune_jobs.job.metric import VAL_ACCURACY
from tune_jobs.report.contest_figures import searched_picture, seeds_picture, trend_pictures
from tune_jobs.report.contests import Contest, budget_in_words, contests, repeats
from tune_jobs.report.data import Report
from tune_jobs.report.differences import all_differences, differences_table, interval_note
from tune_jobs.report.finalists import finalists_parts
from tune_jobs.report.importance import bounds_reached
from tune_jobs.report.page import Bullets, Lead, Part, Section
from tune_jobs.results.compare import metric_of_row, param_column
from tune_jobs.results.conditions import differences_in_words
from tune_jobs.results.method_names import long_form, named_pairs, short_name
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.statistics import smallest_n, summarize
from tune_jobs.results.tables import (
    NONE,
    Column,
    Table,
    count,
    interval,
    measured,
    records,
    setting,
)
from tune_jobs.results.trained import num_validated, trained_in_words
from tune_jobs.results.verdicts import (
    Standing,
    chance_in_words,
    listed,
    suggestion_in_words,
    verdict_in_words,
)
from tune_jobs.wording import counted

_MANY_TIMES = 4
"""How far apart two winners' learning rates are before their methods' difference is taken with caution."""


def answer_section(report: Report) -> Section:
    """Returns the answer in words, what was trained, the tables of methods and differences, and their pictures."""
    confirmed, repeated = contests(report), repeats(report)
    verdicts, *rest = _lines(report, confirmed, repeated)
    parts: list[Part] = [
        Lead(verdicts),
        *(Bullets(lines) for lines in rest),
    ]
    shown = {contest.workload for contest in (*confirmed, *repeated)}
    running = int((report.trials["status"] == "running").sum())
    if running:
        parts.append(f"{running} of {len(report.trials)} trials are still running: this is a partial result.")
    if repeated:
        parts.append(_repeats_table(repeated))
    parts += filter(None, [differences_table("repeat-differences", repeated)])
    if confirmed or {contest.workload for contest in repeated} != set(report.workloads):
        parts.append(_methods_table(report, confirmed))
    parts += filter(None, [differences_table("differences", confirmed)])
    if (report.confirmations["rank_in_study"] > 1).any():
        parts.append(_candidates_table(report))
    parts += finalists_parts(report)
    parts.append([seeds_picture(report, contest) for contest in (*confirmed, *repeated)])
    parts.append([picture for contest in repeated for picture in trend_pictures(report, contest)])
    parts.append(
        [searched_picture(report, workload) for workload in report.workloads if workload not in shown]
    )
    return Section("answer", "Answer", parts)


def answer_in_words(report: Report, *, names_command: bool = True) -> list[str]:
    """Returns the answer as lines of text: who beat whom, what was trained, the winners' settings, cautions.

    Args:
        report: What it is about.
        names_command: Whether to name the command that confirms what a search only suggests.
    """
    if not len(report.trials):
        return ["No trial has started yet."]
    lines = _lines(report, contests(report), repeats(report), names_command=names_command)
    return [line for group in lines for line in group]


def other_differences(report: Report) -> Table | None:
    """Returns the table of those pairs that `answer_in_words` does not say, for a terminal."""
    table = all_differences(report)
    unsaid = [] if table is None else [row for row in table.rows if not row["is_said"]]
    if table is None or not unsaid:
        return None
    return replace(
        table, rows=unsaid, caption=f"The other pairs. {table.caption}", notes=interval_note(unsaid)
    )


def _lines(
    report: Report, confirmed: list[Contest], repeated: list[Contest], *, names_command: bool = True
) -> list[list[str]]:
    """Returns the verdicts, and what goes with them; each list has a line or more."""
    compared = [*confirmed, *repeated]
    shown = {contest.workload for contest in compared}
    searched = [workload for workload in report.workloads if workload not in shown]
    has_prefix = len(report.workloads) > 1
    budgets = {contest.budget for contest in confirmed}
    verdicts = [
        verdict_in_words(
            _standing(report, contest),
            None if contest.is_repeated else _confirm_command(report, [contest.workload]),
            _where(contest, has_prefix, budgets),
        )
        for contest in compared
    ]
    for workload in searched:
        said = _suggestion(report, workload)
        verdicts.append(f"{workload}: {said}" if has_prefix else said[0].upper() + said[1:])
    if any(_has_best(report, workload) for workload in searched):
        verdicts.append(_how_to_settle(report, searched, names_command=names_command))
    verdicts += differences_in_words(report.results, report.addresses)
    tuned = [workload for workload in report.workloads if workload not in {c.workload for c in repeated}]
    settings = [line for workload in tuned for line in _winner(report, workload, compared)]
    settings += [line for workload in tuned for line in _caution(report, workload)]
    return [
        verdicts,
        [
            *map(trained_in_words, (result for result in report.results if len(result.trials))),
            *settings,
            *_long_names(report),
        ],
    ]


def _where(contest: Contest, has_prefix: bool, budgets: set[str]) -> str:
    """Returns where a verdict holds, as far as there is more than one such."""
    at = f"at {budget_in_words(contest)}" if len(budgets) > 1 or contest.budget == "gradients" else ""
    return ", ".join(filter(None, [contest.workload if has_prefix else "", at]))


def _standing(report: Report, contest: Contest) -> Standing:
    noun = "setting" if contest.is_repeated else "method"
    names = _names(report, contest.workload, contest.methods)
    return Standing(
        contest.methods, names, contest.summaries, contest.comparisons, contest.metric, contest.measure, noun
    )


def _names(report: Report, workload: str, methods: Mapping[str, str]) -> dict[str, str]:
    """Returns what sentences call competitors: `ZSharp`, `AdamW alone`, `ZSharp (other job)`."""
    folder = str(report.of(report.trials, workload)["folder"].iloc[0])
    job = report.job(folder)
    is_searched = "train.base_optimizer" in (job.get("space") or {})
    optimizer = None if is_searched else (job.get("train") or {}).get("base_optimizer")
    return {
        label: short_name(method, optimizer) + label.removeprefix(method)
        if label.startswith(method)
        else label
        for label, method in methods.items()
    }


def _methods_on(report: Report, workload: str) -> dict[str, str]:
    trials = report.of(report.trials, workload)
    return dict(zip(trials["label"], trials["method"], strict=True))


def _ranked_studies(report: Report, workload: str) -> list[dict[str, Any]]:
    """Returns the studies that have a winner, the best one first: by what finalists reached, if all have some."""
    metric = report.metric(workload)
    rows = records(report.of(report.studies, workload).dropna(subset=["best_value"]))
    name = "finalist_mean" if _have_finalists(rows) else "best_value"
    return sorted(rows, key=lambda row: metric.merit(row[name], row["val_loss"]), reverse=True)


def _have_finalists(studies: Sequence[Mapping[str, Any]]) -> bool:
    return all(row["finalist_mean"] is not None for row in studies)


def _has_best(report: Report, workload: str) -> bool:
    return bool(report.of(report.studies, workload)["best_value"].notna().any())


def _suggestion(report: Report, workload: str) -> str:
    studies = _ranked_studies(report, workload)
    if not studies:
        return "no trial has reached full fidelity, so there is no best."
    name, basis = "best_value", "single trials"
    if _have_finalists(studies):
        name, basis = "finalist_mean", f"means of {counted(studies[0]['finalist_seeds'], 'seed')}"
    values = {row["label"]: row[name] for row in studies}
    methods = _methods_on(report, workload)
    metric = report.metric(workload)
    num_images = None if name == "finalist_mean" else _num_validated(report, workload)
    said = suggestion_in_words(_names(report, workload, methods), methods, values, metric, num_images)
    said = f"the search suggests, from {basis}: {said}."
    if num_images and metric.is_accuracy and len(values) > 1:
        return f"{said} {chance_in_words(max(values.values()), num_images)}"
    return said


def _num_validated(report: Report, workload: str) -> int | None:
    """Returns how many images the trials of a workload were validated on; None if not known, or not all alike."""
    folders = set(report.of(report.trials, workload)["folder"])
    numbers = {num_validated(result) for result in report.results if result.folder_name in folders}
    return numbers.pop() if len(numbers) == 1 else None


def _confirm_command(report: Report, workloads: Sequence[str]) -> str:
    """Returns the command that confirms these workloads, or those for each of their searches."""
    folders = set(report.trials.loc[report.trials["workload"].isin(workloads), "folder"])
    addresses = [
        shlex.quote(address)
        for address, result in zip(report.addresses, report.results, strict=True)
        if result.folder_name in folders
    ]
    return "` and `".join(f"tune-jobs confirm {address} --seeds {{}}" for address in addresses)


def _how_to_settle(report: Report, workloads: Sequence[str], *, names_command: bool) -> str:
    searched = [workload for workload in workloads if _has_best(report, workload)]
    if all(len(report.labels_on(workload)) == 1 for workload in searched):
        return "With one method there is nothing to compare: search a second one, such as base, to learn what it adds."
    most = max(max(len(report.labels_on(workload)) for workload in searched), 2)
    command = _confirm_command(report, searched).replace("{}", str(smallest_n(most)))
    settle = "settle" if "` and `" in command else "settles"
    if all(_have_finalists(_ranked_studies(report, workload)) for workload in searched):
        how = "each study's best was chosen by the same means"
    else:
        how = "each study's best is one trial with one seed"
    only = f"It suggests only: {how}."
    return f"{only} `{command}` {settle} it." if names_command else only


def _winner(report: Report, workload: str, compared: Sequence[Contest]) -> Iterator[str]:
    """Yields the settings of the best method and what tuning it had."""
    studies = {row["label"]: row for row in _ranked_studies(report, workload)}
    labels = [next(iter(contest.summaries)) for contest in compared if contest.workload == workload]
    best = next(iter(labels or studies), None)
    if best is None or best not in studies:
        return
    row = studies[best]
    settings = ", ".join(
        f"{name} {setting(row[PARAM_PREFIX + name])}"
        for name in report.params
        if row[PARAM_PREFIX + name] is not None
    )
    name = _names(report, workload, _methods_on(report, workload))[best]
    where = f" on {workload}" if len(report.workloads) > 1 else ""
    tuned = f"best of {counted(row['num_trials'], 'trial')}, {row['num_completed']} trained in full"
    ends = [bound for bound in bounds_reached(report, workload) if bound.label == best]
    at_end = "".join(
        f" Its {bound.parameter} is at the {bound.side} end of the range that was searched: a wider one may do better."
        for bound in ends
    )
    yield f"Best{where}: {name} with {settings or 'its defaults'}, {tuned}.{at_end}"


def _caution(report: Report, workload: str) -> Iterator[str]:
    """Yields a line if winners that are compared were trained with very different learning rates."""
    rates = {
        row["label"]: row[f"{PARAM_PREFIX}lr"]
        for row in _ranked_studies(report, workload)
        if isinstance(row.get(f"{PARAM_PREFIX}lr"), float)
    }
    methods = {label: method for label, method in _methods_on(report, workload).items() if label in rates}
    names = _names(report, workload, methods)
    apart = [
        (a, b)
        for a, b in named_pairs(methods)
        if max(rates[a], rates[b]) >= _MANY_TIMES * min(rates[a], rates[b]) > 0
    ]
    if apart:
        labels = dict.fromkeys(label for pair in apart for label in pair)
        most = max(max(rates[a], rates[b]) / min(rates[a], rates[b]) for a, b in apart)
        where = f" on {workload}" if len(report.workloads) > 1 else ""
        best = listed([f"{names[label]} {setting(rates[label])}" for label in labels], "and")
        yield (
            f"Caution{where}: the best learning rates lie up to {most:.2g} times apart ({best}). Part of a "
            "difference may be due to that; more trials narrow it down."
        )


def _long_names(report: Report) -> Iterator[str]:
    """Yields what the abbreviations of methods stand for."""
    methods = dict.fromkeys(report.trials["method"])
    known = [f"{short_name(name)}: {form}" for name in methods if (form := long_form(name))]
    if known:
        yield f"{'; '.join(known)}."


def _methods_table(report: Report, confirmed: list[Contest]) -> Table:
    contests_of: dict[str, list[Contest | None]] = {workload: [] for workload in report.workloads}
    for contest in confirmed:
        contests_of[contest.workload].append(contest)
    rows = [
        _method_row(report, contest, study)
        for workload in report.workloads
        for contest in contests_of[workload] or [None]
        for study in _ordered(records(report.of(report.studies, workload)), contest)
    ]
    columns = [
        Column("architecture", lambda row: row["workload"], is_number=False),
        Column("method", lambda row: row["label"], is_number=False),
    ]
    if len({contest.budget for contest in confirmed}) > 1:
        columns.append(Column("equal", lambda row: row["budget"] or NONE, is_number=False))
    if confirmed:
        columns += [
            *_measure_column(confirmed),
            Column(_common([contest.measure for contest in confirmed]), _shown("test_mean")),
            Column("95 % interval", _interval_of("test_")),
            Column("sd", _shown("test_std")),
            Column("seeds", lambda row: count(row["num_seeds"])),
        ]
    if report.studies["finalist_mean"].notna().any():
        columns.append(Column("mean of finalist", _shown("finalist_mean")))
    columns += [
        Column(_searched_header(report), _shown("best_value")),
        *map(param_column, report.params),
        Column("completed", lambda row: f"{row['num_completed']}/{row['num_trials']}"),
    ]
    if confirmed:
        measure = _common([contest.measure for contest in confirmed])
        caption = (
            f"Architectures and methods: {measure} is the mean over fresh seeds of the study's winner, the "
            "interval that of the mean, sd the spread of the seeds."
        )
    else:
        caption = (
            f"Architectures and methods: each study's best completed trial by {_searched_measure(report)}, one seed "
            "each, so no interval can be given."
        )
        if report.studies["finalist_mean"].notna().any():
            caption += " The mean is that of further seeds, by which the study's finalists were ranked."
    return Table("methods", caption, columns, rows, notes=interval_note(rows, "test_"))


def _ordered(studies: list[dict[str, Any]], contest: Contest | None) -> list[dict[str, Any]]:
    """Returns a workload's studies, the best on fresh seeds first; those without one follow in their old order."""
    if contest is None:
        return studies
    order = list(contest.summaries)
    return sorted(studies, key=lambda row: order.index(row["label"]) if row["label"] in order else len(order))


def _method_row(report: Report, contest: Contest | None, study: Mapping[str, Any]) -> dict[str, Any]:
    summary = contest.summaries.get(study["label"]) if contest else None
    names = ("val_accuracy", "best_trial_id", "num_completed", "num_trials", "gradient_evaluations")
    return {
        "workload": study["workload"],
        "label": study["label"],
        "budget": contest.budget if contest else None,
        "job": study["job"],
        "test_mean": summary.mean if summary else None,
        "test_std": summary.std if summary else None,
        "test_low": summary.low if summary else None,
        "test_high": summary.high if summary else None,
        "test_interval": summary.interval if summary else None,
        "num_seeds": summary.n if summary else None,
        **{name: study[name] for name in names},
        **{PARAM_PREFIX + name: study[PARAM_PREFIX + name] for name in report.params},
        "is_best": study["label"] == next(iter(contest.summaries)) if contest else study["rank"] == 1,
        "measure": contest.measure if contest else None,
        **{name: study[name] for name in ("metric", "mode", "best_value", "finalist_mean", "finalist_seeds")},
    }


def _shown(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Returns what shows a column of values of the row's metric."""
    return lambda row: measured(row[name], metric_of_row(row))


def _interval_of(prefix: str = "") -> Callable[[Mapping[str, Any]], str]:
    """Returns what shows the interval of a row, whose columns have this prefix."""
    low, high, kind = (f"{prefix}{name}" for name in ("low", "high", "interval"))
    return lambda row: interval(row[low], row[high], metric_of_row(row), row[kind])


def _common(names: Sequence[str]) -> str:
    """Returns the name that all share."""
    return names[0] if len(set(names)) == 1 else "value"


def _measure_column(compared: Sequence[Contest]) -> list[Column]:
    """Returns the column that says what values are, where they are not all the same."""
    if len({contest.measure for contest in compared}) == 1:
        return []
    return [Column("value of", lambda row: row["measure"] or NONE, is_number=False)]


def _searched_measure(report: Report) -> str:
    labels = {metric.label + metric.note for metric in report.metrics}
    return labels.pop() if len(labels) == 1 else "its metric"


def _searched_header(report: Report) -> str:
    metrics = report.metrics
    if metrics == [VAL_ACCURACY]:
        return "val accuracy"
    return f"{metrics[0].name} in search" if len(metrics) == 1 else "best value"


def _repeats_table(repeated: list[Contest]) -> Table:
    rows = [
        {
            "workload": contest.workload,
            "setting": name,
            **vars(summary),
            "measure": contest.measure,
            "metric": contest.metric.name,
            "mode": contest.metric.mode,
            "is_best": name == next(iter(contest.summaries)),
        }
        for contest in repeated
        for name, summary in contest.summaries.items()
    ]
    columns = [
        Column("architecture", lambda row: row["workload"], False),
        Column("setting", lambda row: row["setting"], False),
        *_measure_column(repeated),
        Column(
            _common([contest.measure.replace("validation", "val") for contest in repeated]), _shown("mean")
        ),
        Column("95 % interval", _interval_of()),
        Column("sd", _shown("std")),
        Column("seeds", lambda row: count(row["n"])),
    ]
    caption = (
        f"Settings that the search trained with several seeds each: mean {_common([c.measure for c in repeated])} over "
        "the seeds, the interval that of the mean, sd the spread of the seeds."
    )
    return Table("repeats", caption, columns, rows, notes=interval_note(rows))


def _candidates_table(report: Report) -> Table:
    rows: list[dict[str, Any]] = []
    keys = ["workload", "label", "budget", "rank_in_study", "measure"]
    for (workload, *_), members in report.confirmations.dropna(subset=["test_value"]).groupby(
        keys, sort=False
    ):
        (first,) = records(members[[*keys, "val_accuracy", "search_value"]].head(1))
        metric = report.metric(str(workload))
        if metric == VAL_ACCURACY:  # 0.1 had no other
            first["search_value"] = first["val_accuracy"]
        rows.append(
            first
            | vars(summarize(members["test_value"].tolist()))
            | {"metric": metric.name, "mode": metric.mode}
        )
    # As the jobs have them, not as the groups happened to come.
    rows.sort(
        key=lambda row: (
            report.workloads.index(row["workload"]),
            row["label"],
            row["budget"],
            row["rank_in_study"],
        )
    )
    columns = [
        Column("architecture", lambda row: row["workload"], False),
        Column("method", lambda row: row["label"], False),
        Column("equal", lambda row: row["budget"], False),
        Column("rank in search", lambda row: count(row["rank_in_study"])),
        Column(_searched_header(report), _shown("search_value")),
        Column(_common([row["measure"] for row in rows]), _shown("mean")),
        Column("95 % interval", _interval_of()),
        Column("seeds", lambda row: count(row["n"])),
    ]
    caption = "All confirmed configurations: does the order that the search gave them hold?"
    return Table("candidates", caption, columns, rows, notes=interval_note(rows))
