"""The metric against the gradient evaluations that a trial took, with the trials that no other one beats in both."""

import pandas as pd

from tune_jobs.report.data import Report
from tune_jobs.report.figures import Picture, colours, key, new_figure, silent_line, slug, whole_axis
from tune_jobs.report.trials import trial_points
from tune_jobs.wording import counted


def pareto_picture(report: Report, workload: str) -> Picture:
    """Returns one point for each trial that ended, and a line through those that none beats."""
    metric, colour = report.metric(workload), colours(report.labels)
    trials = report.of(report.trials, workload).dropna(subset=["value", "gradient_evaluations"])
    trials = trials[trials["status"] != "running"]
    front = _front(trials, metric.sign)
    steps = {"color": "#7d8590", "width": 1.5, "shape": "hv"}
    traces = [silent_line("", front["gradient_evaluations"].tolist(), front["value"].tolist(), steps)]
    for label in report.labels_on(workload):
        own = trials[trials["label"] == label]
        traces.append(key(label, colour[label]))
        traces.append(trial_points(own, "gradient_evaluations", "value", label=label, colour=colour[label]))
    return Picture(
        slug("pareto", workload),
        f"{workload}: {metric.label} against gradient evaluations of {counted(len(trials), 'trial')}; no trial is "
        f"better and cheaper than the {len(front)} on the line.",
        new_figure(
            traces,
            title=f"{workload}: {metric.label} and its cost",
            x=whole_axis("gradient evaluations of the trial", trials["gradient_evaluations"]),
            y={"title": metric.sided(metric.label)},
        ),
    )


def _front(trials: pd.DataFrame, sign: int) -> pd.DataFrame:
    """Returns the trials that are better than all cheaper ones, the cheapest first."""
    merit = sign * trials["value"]
    ordered = trials.assign(merit=merit).sort_values(
        ["gradient_evaluations", "merit"], ascending=[True, False]
    )
    before = ordered["merit"].cummax().shift(fill_value=float("-inf"))
    return ordered[ordered["merit"] > before]
