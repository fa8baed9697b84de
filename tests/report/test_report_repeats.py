"""Settings that a search repeated over seeds: compared seed by seed, and never taken for single trials."""

import random
from datetime import timedelta

import pytest
from command_line import call
from generated_search import START, write, write_search
from sections import words_of

from tune_jobs.report.answer import answer_section
from tune_jobs.report.contests import repeats
from tune_jobs.report.data import load
from tune_jobs.report.write import write_report
from tune_jobs.results.schema import confirmations_schema, epochs_schema, trials_schema
from tune_jobs.results.statistics import compare_methods, summarize

GAIN = {"sam": 0.0, "zsharp": 0.05, "random_sam": 0.001}


pytestmark = pytest.mark.usefixtures("no_images")


def write_repeats(folder, methods=("sam", "zsharp", "random_sam"), percentiles=(0.9,), seeds=10, missing=()):
    """A search of which every setting was trained with each seed; seeds have an effect that methods share."""
    rng = random.Random(0)
    trials = []
    for architecture in ("resnet8", "vit_tiny"):
        for method in methods:
            for number in range(len(percentiles) * seeds):
                seed, q_p = number // len(percentiles), percentiles[number % len(percentiles)]
                value = 0.6 + GAIN[method] + random.Random(seed).gauss(0, 0.02) + rng.gauss(0, 0.002)
                status = "failed" if (architecture, method, seed) in missing else "completed"
                study = f"{architecture}-{method}"
                trials.append(
                    {"job": "mask", "study": study, "trial_id": f"{study}-{number:04d}", "number": number}
                    | {"dataset": "digits", "architecture": architecture, "method": method, "seed": seed}
                    | {"status": status, "epochs_trained": 4, "max_epochs": 4, "val_loss": 1 - value}
                    | {"val_accuracy": value - 0.1 * (q_p - 0.9) ** 2, "param.lr": 1e-3, "param.rho": 0.05}
                    | {"param.q_p": None if method == "sam" else q_p}
                    | {"started_at": START, "finished_at": START + timedelta(seconds=9)}
                )
    job = {
        "name": "mask",
        "architectures": ["resnet8", "vit_tiny"],
        "methods": list(methods),
        "space": {"q_p": {"choice": list(percentiles)}, "rho": 0.05, "lr": 1e-3},
        "search": {"seeds": seeds, "sampler": "grid"},
        "train": {"epochs": 4},
    }
    write(folder, "trials", trials_schema(), trials, job)
    write(folder, "epochs", epochs_schema(), [], job)
    write(folder, "confirmations", confirmations_schema((), []), [], job)
    return trials


def by_seed(trials, architecture, method, q_p=None):
    return {
        row["seed"]: row["val_accuracy"]
        for row in trials
        if (row["architecture"], row["method"], row["status"]) == (architecture, method, "completed")
        and q_p in (None, row["param.q_p"])
    }


def test_methods_are_compared_seed_by_seed(tmp_path):
    trials = write_repeats(tmp_path)
    report = load([tmp_path])
    contests = {contest.workload: contest for contest in repeats(report)}
    assert list(contests) == ["resnet8", "vit_tiny"]
    for workload, contest in contests.items():
        values = {method: by_seed(trials, workload, method) for method in GAIN}
        assert contest.values == values
        for method, own in values.items():
            assert contest.summaries[method] == summarize(list(own.values()))
        assert contest.comparisons == compare_methods(values)
    section = answer_section(report)
    words = words_of(section)
    for workload in ("resnet8", "vit_tiny"):
        assert f"{workload}: ZSharp beat SAM by 5." in words
    assert words.count("points of validation accuracy (95 % interval") == 2
    assert words.count(", 10 seeds); ZSharp beat the random control by") == 2
    assert "test accuracy" not in words and "one seed each" not in words
    tables = {table.name: table for table in section.tables}
    assert set(tables) == {"repeats", "repeat-differences"}
    assert "Differences of validation accuracy" in tables["repeat-differences"].caption
    assert [row["setting"] for row in tables["repeats"].rows if row["is_best"]] == ["zsharp"] * 2
    assert len(section.pictures) == 2


def test_values_of_one_parameter_are_settings_and_a_line_with_error_bars(tmp_path):
    percentiles = (0.0, 0.5, 0.9, 0.99)
    trials = write_repeats(tmp_path, ("zsharp",), percentiles)
    report = load([tmp_path])
    contest = repeats(report)[0]
    assert set(contest.values) == {f"zsharp q_p {q_p:.3g}" for q_p in percentiles}
    assert contest.values["zsharp q_p 0.99"] == by_seed(trials, "resnet8", "zsharp", 0.99)
    pictures = {picture.name: picture for picture in answer_section(report).pictures}
    trend = pictures["trend-q-p-zsharp-resnet8"]
    _, line = trend.figure.data
    assert list(line.x) == list(percentiles)
    for q_p, mean, above in zip(line.x, line.y, line.error_y.array, strict=True):
        summary = summarize(list(by_seed(trials, "resnet8", "zsharp", q_p).values()))
        assert mean == pytest.approx(summary.mean)
        assert above == pytest.approx(summary.high - summary.mean)
    assert "n = 10, 10, 10, 10 seeds" in trend.caption


def test_too_few_seeds_is_an_answer(tmp_path):
    write_repeats(tmp_path, seeds=3)
    words = words_of(answer_section(load([tmp_path])))
    assert "3 seeds are too few to tell SAM, ZSharp and the random control apart; 7 can." in words


def test_a_trial_that_failed_takes_its_seed_out_of_the_pairs_alone(tmp_path):
    write_repeats(tmp_path, missing={("resnet8", "sam", 4)})
    contest = repeats(load([tmp_path]))[0]
    assert contest.summaries["sam"].n == 9 and contest.summaries["zsharp"].n == 10
    sizes = {frozenset((pair.a, pair.b)): pair.n for pair in contest.comparisons}
    assert sizes[frozenset(("sam", "zsharp"))] == 9
    assert sizes[frozenset(("zsharp", "random_sam"))] == 10


def test_a_search_over_configurations_has_no_repeats(tmp_path):
    assert repeats(load([write_search(tmp_path)])) == []


def test_page_and_terminal_say_it(tmp_path):
    write_repeats(tmp_path, percentiles=(0.5, 0.9))
    page = write_report([tmp_path], tmp_path / "report.html").page.read_text(encoding="utf-8")
    assert "ZSharp q_p 0.9 has the highest mean validation accuracy" in page
    assert (tmp_path / "report_files" / "repeats.md").exists()
    code, out, _ = call("compare", tmp_path)
    assert code == 0
    assert "ZSharp q_p 0.9 has the highest mean validation accuracy" in out
    assert "sd: over completed trials" in out and "Winners are single trials" not in out
