"""A metric of which less is better: rankings, tables and words are the mirror image of the same values negated."""

import json
import re

import pandas as pd
import pytest
from generated_search import write_search
from sections import rows_of

from tune_jobs.job.metric import Metric
from tune_jobs.report.answer import answer_in_words, answer_section
from tune_jobs.report.data import load
from tune_jobs.report.write import write_report
from tune_jobs.results.compare import compare, to_json
from tune_jobs.results.read import read_results
from tune_jobs.results.stopping_account import describe, receipts
from tune_jobs.results.tables import records
from tune_jobs.results.transfer import transfer

HIGHER, LOWER = Metric("score", "max"), Metric("score", "min")
SIGNED = (
    "value",
    "best_value",
    "median_value",
    "search_value",
    "mean",
    "test_mean",
    "difference",
    "effect_size",
)


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    folders = {}
    for metric in (HIGHER, LOWER):
        folder = tmp_path_factory.mktemp(metric.mode) / "search"
        folders[metric.mode] = write_search(folder, seeds=8, num_trials=24, metric=metric)
    return folders


def unsigned(rows, mode):
    """Rows as the mirror image has them: values without their sign, and the ends of intervals exchanged."""
    sign, turned = (1 if mode == "max" else -1), []
    for row in rows:
        row = {
            name: value for name, value in row.items() if name not in ("mode", "folder", "uid", "stop_reason")
        }
        for name in SIGNED:
            if row.get(name) is not None:
                row[name] = round(sign * row[name], 9)
        for low, high in (("low", "high"), ("test_low", "test_high")):
            if row.get(low) is not None:
                ends = sorted(sign * row[name] for name in (low, high))
                row[low], row[high] = (round(end, 9) for end in ends)
        turned.append(row)
    return turned


def tables_of(folder):
    section = answer_section(load([folder]))
    return {table.name: table for table in section.tables}


def test_the_same_trials_win(searches):
    compared = {mode: json.loads(to_json(compare([folder]))) for mode, folder in searches.items()}
    assert unsigned(compared["max"], "max") == unsigned(compared["min"], "min")
    best = compare([searches["min"]]).query("rank == 1")
    trials = read_results(searches["min"]).trials
    for row in records(best):
        own = trials[(trials["architecture"] == row["architecture"]) & (trials["status"] == "completed")]
        assert row["best_value"] == own["metric.score"].min()


def test_so_do_methods_on_fresh_seeds(searches):
    up, down = (tables_of(searches[mode]) for mode in ("max", "min"))
    assert {"methods", "differences"} <= up.keys() == down.keys()
    for name in up:
        above, below = unsigned(up[name].rows, "max"), unsigned(down[name].rows, "min")
        # The bootstrap counts ties on one side, so ends of intervals may differ a little.
        pd.testing.assert_frame_equal(pd.DataFrame(above), pd.DataFrame(below), atol=1e-3)
    verdicts = {row["verdict"] for row in down["differences"].rows}
    assert verdicts & {"a better", "b better"}, "else nothing was compared"


def test_stopping_and_transfer_are_accounted_for_alike(searches):
    results = {mode: read_results(folder) for mode, folder in searches.items()}
    up, down = (receipts(results[mode]) for mode in ("max", "min"))
    assert [(r.study, r.used_epochs, r.saved_epochs, r.winner, len(r.close)) for r in up] == [
        (r.study, r.used_epochs, r.saved_epochs, r.winner, len(r.close)) for r in down
    ]
    assert [[-close.value for close in r.close] for r in up] == [
        [close.value for close in r.close] for r in down
    ]
    assert all("accura" not in line for line in describe(list(results.values())))
    tables = {mode: transfer([result]) for mode, result in results.items()}
    for name in ("own_best", "transferred"):
        pd.testing.assert_series_equal(tables["max"][name], -tables["min"][name])
    pd.testing.assert_series_equal(tables["max"]["regret"], tables["min"]["regret"])


def test_words_name_the_metric_and_say_which_side_is_better(searches):
    words = " ".join(answer_in_words(load([searches["min"]])))
    assert re.search(r"beat \w+, test_score lower by 0\.\d+ \(95 % interval 0", words)
    assert "accura" not in words


def test_a_page_of_two_metrics_compares_each_by_itself(searches, tmp_path):
    """With a search by accuracy beside it: nothing is ranked across metrics, and each page says what it shows."""
    other = write_search(tmp_path / "accuracy", seeds=8, name="other")
    report = load([searches["min"], other])
    assert report.workloads == [
        f"{architecture} by {metric}"
        for metric in ("score", "val_accuracy")
        for architecture in ("resnet8", "vit_tiny")
    ]
    assert (
        list(compare([searches["min"], other]).query("rank == 1")["metric"]) == ["score", "val_accuracy"] * 2
    )
    differences = rows_of(answer_section(report), "differences")
    assert {(row["metric"], row["architecture"].partition(" by ")[2]) for row in differences} == {
        ("score", "score"),
        ("val_accuracy", "val_accuracy"),
    }


def test_a_page_by_loss_never_speaks_of_accuracy(tmp_path, monkeypatch):
    monkeypatch.setattr("tune_jobs.report.write.write_images", lambda pictures, folder: "not drawn")
    metric = Metric("val_perplexity", "min")
    folder = write_search(
        tmp_path / "s", seeds=3, architectures=["mlp"], methods=["sam", "base"], metric=metric
    )
    page = write_report([folder], tmp_path / "page.html").page.read_text()
    text = page[page.index("<body") :]
    shown = text.replace("best_val_accuracy", "").replace("val_accuracy", "")
    assert "accura" not in shown.partition("Provenance")[0].lower()
    assert "val_perplexity (lower is better)" in text
