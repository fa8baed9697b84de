"""The report's answer: which method won where, by how much and with what confidence."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from tune_jobs.job.metric import VAL_ACCURACY, Metric
from tune_jobs.report.contest_figures import searched_picture, seeds_picture, trend_pictures
from tune_jobs.report.contests import Contest, budget_in_words, contests, repeats
from tune_jobs.report.data import Report
from tune_jobs.report.page import Bullets, Part, Section
from tune_jobs.results.compare import metric_of_row, param_column
from tune_jobs.results.schema import PARAM_PREFIX
from tune_jobs.results.statistics import VERDICTS, Comparison, smallest_n, summarize
from tune_jobs.results.tables import (
    NONE,
    Column,
    Table,
    count,
    difference,
    interval,
    measured,
    records,
    short,
)


def answer_section(report: Report) -> Section:
    """Returns the answer in words, the table of methods, and what it rests on."""
    confirmed, repeated = contests(report), repeats(report)
    parts: list[Part] = [
        _headline(report, confirmed, repeated),
        Bullets(list(_sentences(report, confirmed, repeated))),
    ]
    shown = {contest.workload for contest in (*confirmed, *repeated)}
    running = int((report.trials["status"] == "running").sum())
    if running:
        parts.append(f"{running} of {len(report.trials)} trials are still running: this is a partial result.")
    if repeated:
        parts.append(_repeats_table(repeated))
    parts += _differences_tables("repeat-differences", repeated)
    if confirmed or {contest.workload for contest in repeated} != set(report.workloads):
        parts.append(_methods_table(report, confirmed))
    parts += _differences_tables("differences", confirmed)
    if (report.confirmations["rank_in_study"] > 1).any():
        parts.append(_candidates_table(report))
    parts.append([seeds_picture(report, contest) for contest in (*confirmed, *repeated)])
    parts.append([picture for contest in repeated for picture in trend_pictures(report, contest)])
    parts.append(
        [searched_picture(report, workload) for workload in report.workloads if workload not in shown]
    )
    return Section("answer", "Answer", parts)


def answer_in_words(report: Report) -> list[str]:
    """Returns the answer as lines of text, for a terminal; none if every configuration has one seed."""
    confirmed, repeated = contests(report), repeats(report)
    if not confirmed and not repeated:
        return []
    return [_headline(report, confirmed, repeated), *_sentences(report, confirmed, repeated)]


def _headline(report: Report, confirmed: list[Contest], repeated: list[Contest]) -> str:
    if confirmed:
        untested = sorted({contest.measure for contest in confirmed if "no test data" in contest.measure})
        note = f", by {', '.join(untested)}" if untested else ""
        return _verdict(confirmed, "method", f"on fresh seeds{note}")
    if repeated:
        return _verdict(repeated, "setting", "of settings repeated with the same seeds, on validation data")
    folder = shlex.quote(str(report.folders[0])) if len(report.folders) == 1 else "DIR"
    most = max(len(report.labels_on(workload)) for workload in report.workloads) if report.workloads else 2
    num_seeds = smallest_n(max(most, 2))
    return (
        "Searched on one seed each and not confirmed: differences between methods are not established. "
        f"`tune-jobs confirm {folder} --seeds {num_seeds}` retrains the winners on fresh seeds and reads the "
        f"test data; with fewer seeds no difference between {most} methods can be significant."
    )


def _verdict(compared: list[Contest], noun: str, how: str) -> str:
    won: dict[str, list[str]] = {}
    for contest in compared:
        if best := _established(contest):
            won.setdefault(best, []).append(contest.workload)
    over = "one comparison" if len(compared) == 1 else f"{len(compared)} comparisons"
    if not won:
        return f"No {noun} is shown to be better than all the others, in {over} {how}. {_needed(compared)}".strip()
    wins = "; ".join(
        f"{label} in {len(workloads)} ({', '.join(workloads)})" for label, workloads in won.items()
    )
    return f"Shown to be better than every other {noun}, of {over} {how}: {wins}."


def _needed(compared: list[Contest]) -> str:
    """Returns how many seeds it takes, if some comparison had too few to show anything."""
    lacking = [
        contest for contest in compared if VERDICTS[-1] in {pair.verdict for pair in contest.comparisons}
    ]
    if not lacking:
        return ""
    most = max(len(contest.values) for contest in lacking)
    noun = "settings" if lacking[0].is_repeated else "methods"
    return f"To compare {most} {noun}, at least {smallest_n(most)} seeds are needed."


def _interval_in_words(low: float | None, high: float | None, metric: Metric) -> str:
    if low is None or high is None:
        return "too few for an interval"
    return f"95 % interval {interval(low, high, metric)}"


def _established(contest: Contest) -> str | None:
    """Returns the competitor that is shown to be better than every other; None if there is none."""
    best = next(iter(contest.summaries))
    own = [_seen_from(best, pair, contest.metric) for pair in contest.comparisons if best in (pair.a, pair.b)]
    return best if own and all(verdict == "better" for _, _, verdict in own) else None


def _seen_from(label: str, pair: Comparison, metric: Metric) -> tuple[str, str, str]:
    """Returns the rival, the difference to it with an unclosed bracket of its interval, and the verdict for `label`."""
    ours, theirs = ("a", "b") if pair.a == label else ("b", "a")
    sign = 1 if ours == "a" else -1
    ends = [None if end is None else sign * end for end in (pair.low, pair.high)]
    low, high = ends[::sign]
    verdict = {f"{ours} better": "better", f"{theirs} better": "worse"}.get(pair.verdict, pair.verdict)
    lead = difference(sign * pair.difference, metric)
    return getattr(pair, theirs), f"{lead} ({_interval_in_words(low, high, metric)}", verdict


def _sentences(report: Report, confirmed: list[Contest], repeated: list[Contest]) -> Iterator[str]:
    for contest in (*confirmed, *repeated):
        best, summary = next(iter(contest.summaries.items()))
        metric = contest.metric
        yield (
            f"{contest.workload}, {budget_in_words(contest)}: {best} has the {metric.best} mean {contest.measure}, "
            f"{measured(summary.mean, metric)} ({_interval_in_words(summary.low, summary.high, metric)}, "
            f"n = {summary.n} seeds). {' '.join(_rivals(best, contest))}".strip()
        )
    shown = {contest.workload for contest in (*confirmed, *repeated)}
    for workload in report.workloads:
        if workload not in shown:
            yield _searched_sentence(report, workload)


def _rivals(best: str, contest: Contest) -> Iterator[str]:
    for pair in contest.comparisons:
        if best in (pair.a, pair.b) and not pair.n:
            yield f"Against {pair.a if pair.b == best else pair.b}: no seed in common."
        elif best in (pair.a, pair.b):
            rival, lead, verdict = _seen_from(best, pair, contest.metric)
            p = "" if pair.p_adjusted is None else f", adjusted p = {short(pair.p_adjusted)}"
            yield f"Against {rival}: {lead}; n = {pair.n} shared seeds{p}), {verdict}."


def _searched_sentence(report: Report, workload: str) -> str:
    metric = report.metric(workload)
    rows = report.of(report.studies, workload).dropna(subset=["best_value"])
    if not len(rows):
        return f"{workload}: no trial has reached full fidelity, so there is no best."
    merits = [metric.merit(row["best_value"], row["best_val_loss"]) for row in records(rows)]
    rows = rows.iloc[sorted(range(len(rows)), key=lambda number: merits[number], reverse=True)]
    best = rows.iloc[0]
    sentence = (
        f"{workload}: {best['label']} has the {metric.best} {metric.label}, {metric.text(best['best_value'])} "
        f"(best of {best['num_completed']} completed trials)"
    )
    if len(rows) > 1:
        second = rows.iloc[1]
        lead = metric.text(metric.sign * (best["best_value"] - second["best_value"]))
        side = "above" if metric.mode == "max" else "below"
        sentence += f", {lead} {side} {second['label']} (best of {second['num_completed']})"
    return sentence + "; these are single trials (n = 1 seed each), so a difference is not established."


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
            Column(
                "95 % interval", lambda row: interval(row["test_low"], row["test_high"], metric_of_row(row))
            ),
            Column("sd", _shown("test_std")),
            Column("seeds", lambda row: count(row["num_seeds"])),
        ]
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
    return Table("methods", caption, columns, rows, marked=lambda row: bool(row["is_best"]))


def _ordered(studies: list[dict[str, Any]], contest: Contest | None) -> list[dict[str, Any]]:
    """Returns a workload's studies, the best on fresh seeds first; those without one follow in their old order."""
    if contest is None:
        return studies
    order = list(contest.summaries)
    return sorted(studies, key=lambda row: order.index(row["label"]) if row["label"] in order else len(order))


def _method_row(report: Report, contest: Contest | None, study: Mapping[str, Any]) -> dict[str, Any]:
    summary = contest.summaries.get(study["label"]) if contest else None
    names = ("best_val_accuracy", "best_trial_id", "num_completed", "num_trials", "gradient_evaluations")
    return {
        "workload": study["workload"],
        "label": study["label"],
        "budget": contest.budget if contest else None,
        "job": study["job"],
        "test_mean": summary.mean if summary else None,
        "test_std": summary.std if summary else None,
        "test_low": summary.low if summary else None,
        "test_high": summary.high if summary else None,
        "num_seeds": summary.n if summary else None,
        **{name: study[name] for name in names},
        **{PARAM_PREFIX + name: study[PARAM_PREFIX + name] for name in report.params},
        "is_best": study["label"] == next(iter(contest.summaries)) if contest else study["rank"] == 1,
        "measure": contest.measure if contest else None,
        **{name: study[name] for name in ("metric", "mode", "best_value")},
    }


def _shown(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Returns what shows a column of values of the row's metric."""
    return lambda row: measured(row[name], metric_of_row(row))


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
        Column("95 % interval", lambda row: interval(row["low"], row["high"], metric_of_row(row))),
        Column("sd", _shown("std")),
        Column("seeds", lambda row: count(row["n"])),
    ]
    caption = (
        f"Settings that the search trained with several seeds each: mean {_common([c.measure for c in repeated])} over "
        "the seeds, the interval that of the mean, sd the spread of the seeds."
    )
    return Table("repeats", caption, columns, rows, marked=lambda row: bool(row["is_best"]))


def _differences_tables(name: str, compared: list[Contest]) -> Iterator[Table]:
    """Yields a table for each measure that methods are compared by."""
    for number, measure in enumerate(
        dict.fromkeys(contest.measure for contest in compared if contest.comparisons)
    ):
        contests = [contest for contest in compared if contest.measure == measure]
        yield _differences_table(f"{name}-{number + 1}" if number else name, contests)


def _differences_table(name: str, compared: list[Contest]) -> Table:
    metric = compared[0].metric
    pairs = [
        {"workload": contest.workload, "budget": contest.budget, **vars(pair)}
        for contest in compared
        for pair in contest.comparisons
    ]
    columns = [Column("architecture", lambda row: row["workload"], is_number=False)]
    if len({contest.budget for contest in compared}) > 1:
        columns.append(Column("equal", lambda row: row["budget"], is_number=False))
    columns += [
        Column("a", lambda row: row["a"], is_number=False),
        Column("b", lambda row: row["b"], is_number=False),
        Column("a − b", lambda row: difference(row["difference"], metric)),
        Column("95 % interval", lambda row: interval(row["low"], row["high"], metric)),
        Column("effect size", lambda row: short(row["effect_size"])),
        Column("n", lambda row: count(row["n"])),
        Column("p", lambda row: short(row["p_value"])),
        Column("p adjusted", lambda row: short(row["p_adjusted"])),
        Column("verdict", _named_verdict, is_number=False),
    ]
    caption = (
        f"Differences of {metric.sided(compared[0].measure)} between methods on the seeds that both have (n); p is "
        "adjusted for the number of pairs of the architecture."
    )
    return Table(name, caption, columns, records(pd.DataFrame(pairs)))


def _named_verdict(row: Mapping[str, Any]) -> str:
    winner = {"a better": row["a"], "b better": row["b"]}.get(row["verdict"])
    return row["verdict"] if winner is None else f"{winner} better"


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
        Column("95 % interval", lambda row: interval(row["low"], row["high"], metric_of_row(row))),
        Column("seeds", lambda row: count(row["n"])),
    ]
    caption = "All confirmed configurations: does the order that the search gave them hold?"
    return Table("candidates", caption, columns, rows)
