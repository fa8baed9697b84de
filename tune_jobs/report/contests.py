"""Methods that were trained with several seeds each, compared, and their outcomes as pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import plotly.graph_objects as go

from tune_jobs.report.data import Report
from tune_jobs.report.figures import Picture, colours, new_figure, slug, text
from tune_jobs.results.statistics import Comparison, Summary, compare_methods, summarize

_BUDGETS = {"epochs": "the same epochs", "gradients": "the same gradient evaluations"}


@dataclass(frozen=True)
class Contest:
    """Methods of one place under one budget, each trained with several seeds.

    Attributes:
        place: An architecture on a data set.
        budget: What is equal among methods.
        values: Accuracy by seed, by method: of the confirmed winner of each, or of settings that a search repeated.
        summaries: Of each method, best mean first.
        comparisons: Of each pair.
        measure: Which accuracy it is.
    """

    place: str
    budget: str
    values: Mapping[str, Mapping[int, float]]
    summaries: Mapping[str, Summary]
    comparisons: list[Comparison]
    measure: str = "test accuracy"


def contests(report: Report) -> list[Contest]:
    """Returns what the confirmations of the searches' winners say."""
    rows = report.confirmations
    rows = rows[(rows["place_in_study"] == 1) & rows["test_accuracy"].notna() & rows["seed"].notna()]
    found = []
    for (place, budget), members in rows.groupby(["place", "budget"], sort=False):
        values = {
            str(label): {
                int(seed): float(value) for seed, value in zip(of["seed"], of["test_accuracy"], strict=True)
            }
            for label, of in members.groupby("label", sort=False)
        }
        summaries = {label: summarize(list(of.values())) for label, of in values.items()}
        ordered = dict(sorted(summaries.items(), key=lambda item: -item[1].mean))
        found.append(Contest(str(place), str(budget), values, ordered, compare_methods(values)))
    return found


def budget_in_words(contest: Contest) -> str:
    """Returns what the methods of a contest have in common."""
    return _BUDGETS.get(contest.budget, contest.budget)


def seeds_picture(report: Report, contest: Contest) -> Picture:
    """Returns the accuracies of one contest: each seed, mean and interval."""
    colour = colours([*report.labels, *(name for name in contest.values if name not in report.labels)])
    traces = []
    for label, one in reversed(list(contest.summaries.items())):
        seeds = contest.values[label]
        traces.append(
            go.Scatter(
                x=list(seeds.values()),
                y=[text(label)] * len(seeds),
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 11, "color": colour[label]},
                customdata=list(seeds),
                hovertemplate=f"seed %{{customdata}}<br>{contest.measure} %{{x:.4f}}<extra></extra>",
            )
        )
        traces.append(
            go.Scatter(
                x=[one.mean],
                y=[text(label)],
                mode="markers",
                marker={"size": 11, "color": colour[label]},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "thickness": 2,
                    "width": 6,
                    "array": [0.0 if one.high is None else one.high - one.mean],
                    "arrayminus": [0.0 if one.low is None else one.mean - one.low],
                },
                customdata=[one.n],
                hovertemplate="mean %{x:.4f}, n = %{customdata} seeds<extra></extra>",
            )
        )
    return Picture(
        slug(
            "confirmed" if contest.measure == "test accuracy" else "repeated", contest.budget, contest.place
        ),
        f"{contest.place}, {budget_in_words(contest)}: {contest.measure} of each seed (ticks), mean "
        f"and 95 % interval; n = {', '.join(str(one.n) for one in contest.summaries.values())} seeds from the top.",
        new_figure(
            traces,
            title=contest.place,
            x={"title": contest.measure},
            y={"type": "category"},
            height=130 + 38 * len(contest.summaries),
            showlegend=False,
        ),
    )


def searched_picture(report: Report, place: str) -> Picture:
    """Returns the validation accuracies that completed trials reached, for a place that was not confirmed."""
    colour = colours(report.labels)
    traces: list[go.Scatter] = []
    sizes: list[int] = []
    for label in reversed(report.labels_at(place)):
        rows = report.of(report.trials, place, label)
        rows = rows[(rows["status"] == "completed") & rows["val_accuracy"].notna()]
        sizes.insert(0, len(rows))
        traces.append(
            go.Scatter(
                x=rows["val_accuracy"].tolist(),
                y=[text(label)] * len(rows),
                mode="markers",
                marker={"size": 9, "color": colour[label], "opacity": 0.8},
                customdata=[text(name) for name in rows["trial_id"]],
                hovertemplate="%{customdata}<br>validation accuracy %{x:.4f}<extra></extra>",
            )
        )
    return Picture(
        slug("searched", place),
        f"{place}: validation accuracy of the completed trials, which differ in configuration, one seed each; "
        f"n = {', '.join(map(str, sizes))} trials from the top.",
        new_figure(
            traces,
            title=place,
            x={"title": "validation accuracy"},
            y={
                "type": "category",
                "categoryorder": "array",
                "categoryarray": [text(label) for label in reversed(report.labels_at(place))],
            },
            height=130 + 32 * len(sizes),
            showlegend=False,
        ),
    )
