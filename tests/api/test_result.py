"""What `tune_jobs.run` returns: tables, the best trial and the report's figures. The notebook's test loads a model."""

import pytest
from generated_search import write_search

from tune_jobs.api import Result
from tune_jobs.errors import ResultsError
from tune_jobs.search.folder import SearchFolder


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return Result(SearchFolder(write_search(tmp_path_factory.mktemp("search"))), {})


def test_tables_and_the_best_trial(result):
    assert len(result.trials) == 2 * 3 * 12
    assert set(result.epochs["trial_id"]) == set(result.trials["trial_id"])
    completed = result.trials[result.trials["status"] == "completed"]
    assert result.best()["val_accuracy"] == completed["val_accuracy"].max()
    own = completed[(completed["architecture"] == "vit_tiny") & (completed["method"] == "sam")]
    assert result.best("vit_tiny", "sam")["val_accuracy"] == own["val_accuracy"].max()
    with pytest.raises(ResultsError):
        result.best(method="adam")


@pytest.mark.parametrize("kind", ["curves", "rungs", "params", "pareto"])
def test_figures(result, kind):
    for architecture in (None, "vit_tiny"):
        figure = result.figure(kind, architecture)
        assert (architecture or "resnet8") in figure.layout.title.text
        assert figure.data


def test_a_figure_of_one_setting_and_of_none(result):
    assert "rho" in result.figure("params", param="rho").layout.title.text
    for wrong in (
        {"kind": "curve"},
        {"kind": "curves", "architecture": "no"},
        {"kind": "params", "param": "no"},
    ):
        with pytest.raises(ResultsError):
            result.figure(**wrong)


def test_the_line_of_the_pareto_figure_is_beaten_by_no_trial(result):
    line = next(
        trace for trace in result.figure("pareto").data if trace.mode == "lines" and len(trace.x or ()) > 1
    )
    trials = result.trials[result.trials["architecture"] == "resnet8"]
    for cost, value in zip(line.x, line.y, strict=True):
        cheaper = trials[trials["gradient_evaluations"] <= cost]
        assert cheaper["val_accuracy"].max() <= value
