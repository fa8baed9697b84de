"""The transfer table of searches whose ledgers and Parquet files are real, against numbers given here."""

from math import exp, log

import ledgers
import pandas as pd
import pytest

from tune_jobs.job.load import load_job
from tune_jobs.ledger.rows import Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.report.write import write_report
from tune_jobs.results.read import read_all
from tune_jobs.results.transfer import COLUMNS, describe, transfer
from tune_jobs.results.write import export


def make_search(folder, rows):
    """Writes and exports a search; a row is (architecture, params, accuracy or status, seed), more is optional."""
    job = load_job("digits")
    with Ledger.create(folder, job.model_dump(mode="json"), {}) as ledger:
        for number, (architecture, params, ending, seed, *more) in enumerate(rows):
            changes = more[0] if more else {}
            trial_id = f"{architecture}-{number:04d}"
            given = {"study": f"{architecture}-{changes.get('method', 'sam')}", "architecture": architecture}
            given |= {"number": number, "variant": None, "seed": seed, "params": params, "max_epochs": 2}
            ledgers.start(ledger, trial_id, **given | changes)
            status, value = (ending, 0.99) if isinstance(ending, str) else ("completed", ending)
            for epoch in (1, 2):
                ledger.report(trial_id, epoch, {"val_accuracy": value * epoch / 2}, Decision("continue"))
            ledger.finish_trial(trial_id, status, "because")
    export(folder)
    return folder


def points(num):
    return [{"lr": 0.001 * (i + 1), "rho": 0.05} for i in range(num)]


def only(table, source, target):
    (row,) = table[(table["source"] == source) & (table["target"] == target)].to_dict("records")
    return row


def test_two_architectures_by_hand(folder):
    small, large = [0.5, 0.7, 0.9, 0.8], [0.6, 0.95, 0.85, 0.7]
    rows = [("small", p, v, 0) for p, v in zip(points(4), small, strict=True)]
    rows += [("large", p, v, 0) for p, v in zip(reversed(points(4)), reversed(large), strict=True)]
    table = transfer(read_all([make_search(folder, rows)]))
    assert list(table.columns) == [*COLUMNS, "param.q_p", "param.rho", "param.lr"]
    assert len(table) == 2
    forward, back = only(table, "small", "large"), only(table, "large", "small")
    assert (forward["transferred"], forward["own_best"]) == (0.85, 0.95)
    assert forward["regret"] == pytest.approx(0.1)
    assert (forward["param.lr"], forward["param.rho"]) == (0.003, 0.05)
    assert (back["transferred"], back["own_best"], back["param.lr"]) == (0.7, 0.9, 0.002)
    assert back["regret"] == pytest.approx(0.2)
    # Of the 6 pairs of configurations, (2nd, 3rd) and (2nd, 4th) are ranked the other way round: (4 - 2) / 6.
    for row in (forward, back):
        assert row["rank_correlation"] == pytest.approx(2 / 6)
        assert row["p_value"] == pytest.approx(18 / 24)  # of the 24 orders, 6 have a tau of 0 in the middle
        assert (row["num_configurations"], row["n"]) == (4, 4)
        assert (row["dataset"], row["method"], row["max_epochs"]) == ("digits", "sam", 2)


def test_architectures_that_agree_have_no_regret(folder):
    rows = [("a", p, 0.5 + p["lr"], 0) for p in points(6)] + [
        ("b", p, exp(log(p["lr"])), 0) for p in points(6)
    ]
    table = transfer(read_all([make_search(folder, rows)]))
    assert table["regret"].tolist() == [0, 0]
    assert table["rank_correlation"].tolist() == pytest.approx([1, 1])
    assert table["p_value"].tolist() == pytest.approx([2 / 720] * 2)


def test_values_are_means_over_seeds(folder):
    rows = [(a, p, v + d, s) for a in "ab" for p, v in zip(points(2), (0.5, 0.6), strict=True)
            for s, d in ((0, 0.3 if v == 0.5 else 0.0), (1, -0.3))]  # fmt: skip
    rows += [("b", points(1)[0], "diverged", 2)]
    row = only(transfer(read_all([make_search(folder, rows)])), "a", "b")
    assert (row["own_best"], row["transferred"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert row["param.lr"] == 0.001, "0.9 is the best single trial, and so is the mean of 0.8 and 0.2"


def test_only_completed_trials_count(folder):
    p = points(4)
    rows = [("a", p[0], 0.9, 0), ("a", p[1], 0.8, 0), ("a", p[2], "pruned", 0), ("a", p[3], 0.7, 0)]
    rows += [("b", p[0], "diverged", 0), ("b", p[1], 0.5, 0), ("b", p[2], 0.6, 0), ("b", p[3], 0.4, 0)]
    table = transfer(read_all([make_search(folder, rows)]))
    forward, back = only(table, "a", "b"), only(table, "b", "a")
    assert pd.isna(forward["transferred"])
    assert pd.isna(forward["regret"])
    assert (forward["own_best"], forward["param.lr"]) == (0.6, 0.001)
    assert pd.isna(back["transferred"])
    assert (back["own_best"], back["param.lr"], back["num_configurations"], back["n"]) == (0.9, 0.003, 4, 2)


def test_only_what_both_tried_and_what_is_alike_is_compared(folder):
    p = points(3)
    rows = [("a", p[0], 0.9, 0), ("a", p[1], 0.5, 0), ("b", p[1], 0.6, 0), ("b", p[2], 0.8, 0)]
    rows += [("a", p[1], 0.99, 0, {"max_epochs": 20}), ("b", p[1], 0.99, 0, {"dataset": "moons"})]
    rows += [("b", p[1], 0.99, 0, {"method": "base"})]
    row = only(transfer(read_all([make_search(folder, rows)])), "a", "b")
    assert (row["num_configurations"], row["transferred"], row["own_best"]) == (1, 0.6, 0.6)
    assert row["rank_correlation"] is None or pd.isna(row["rank_correlation"])


def test_nothing_in_common_is_a_row_without_numbers_and_not_told(folder):
    p = points(2)
    results = read_all([make_search(folder, [("a", p[0], 0.9, 0), ("b", p[1], 0.8, 0)])])
    table = transfer(results)
    assert table["num_configurations"].tolist() == table["n"].tolist() == [0, 0]
    assert table[["transferred", "own_best", "regret", "rank_correlation", "p_value"]].isna().all(axis=None)
    assert describe(results) == []


def test_searches_of_one_architecture_each_and_of_other_parameters(folder):
    wide = [{**p, "momentum": 0.9} for p in points(3)]
    one = make_search(folder / "one", [("a", p, 0.5 + p["lr"], 0) for p in points(3)])
    two = make_search(folder / "two", [("b", p, 0.5 - p["lr"], 0) for p in points(3)])
    three = make_search(folder / "three", [("c", p, 0.5, 0) for p in wide])
    table = transfer(read_all([one, two, one, three]))
    assert len(table) == 6
    assert only(table, "a", "b")["rank_correlation"] == pytest.approx(-1)
    assert only(table, "a", "b")["n"] == 3
    assert only(table, "a", "c")["num_configurations"] == 0, "c was trained with a momentum"


def test_the_table_is_told_in_words_and_on_the_page(folder, monkeypatch):
    monkeypatch.setattr("tune_jobs.report.write.write_images", lambda pictures, files: None)  # takes seconds
    accuracies = {"resnet8": (0.5, 0.7, 0.6), "vit_tiny": (0.3, 0.4, 0.35)}
    rows = [(a, p, v, 0) for a, values in accuracies.items() for p, v in zip(points(3), values, strict=True)]
    make_search(folder / "s", rows)
    lines = describe(read_all([folder / "s"]))
    assert len(lines) == 2
    assert "resnet8's best of 3 reaches 0.4000 on vit_tiny, whose own best has 0.4000" in lines[0]
    assert "1.00 (Kendall's tau" in lines[0]
    page = write_report([folder / "s"], folder / "page.html").page.read_text()
    assert "Do settings carry over" in page
