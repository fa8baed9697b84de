"""The report says what the Parquet files say, in words, tables and figures, of any search that can be read."""

import csv
import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_line import assert_refused, call
from generated_search import START, write, write_search
from markdown_it import MarkdownIt
from sections import rows_of, words_of

from tune_jobs.report import svg as report_images
from tune_jobs.report.answer import answer_section
from tune_jobs.report.cost import cost_section, sharpness_section
from tune_jobs.report.curves import budget_section, curves_section
from tune_jobs.report.data import load
from tune_jobs.report.importance import importance, warnings
from tune_jobs.report.write import write_report
from tune_jobs.results.columns import COMPARISON_COLUMNS, DIFFERENCE_COLUMNS, REPORT_COLUMNS
from tune_jobs.results.compare import compare
from tune_jobs.results.read import read_results
from tune_jobs.results.schema import LATER_COLUMNS, confirmations_schema, epochs_schema, trials_schema
from tune_jobs.results.statistics import compare_methods, smallest_n, summarize
from tune_jobs.results.stopping_account import summarise
from tune_jobs.results.tables import to_latex, to_markdown

pytestmark = pytest.mark.usefixtures("no_images")
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    return write_search(tmp_path_factory.mktemp("searched"), num_trials=30, epochs=27)


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory):
    return write_search(tmp_path_factory.mktemp("confirmed"), num_trials=9, seeds=8, places=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """One study, of which a page is made in a moment."""
    return write_search(tmp_path_factory.mktemp("tiny"), architectures=["mlp"], methods=["sam"])


@pytest.fixture(scope="module")
def confirmed_report(confirmed, no_images, tmp_path_factory):
    return write_report([confirmed], tmp_path_factory.mktemp("report") / "deep" / "r.html")


class Page(HTMLParser):
    """The visible texts, links and data of a page."""

    def __init__(self, file):
        super().__init__()
        self.words, self.links, self.data, self._open = [], [], "", []
        self.feed(file.read_text(encoding="utf-8").partition("<script>")[0])  # Plotly and our script end it
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self._open.append((tag, dict(attributes)))
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script" and attributes.get("id") == "data":
            self.data += data
        elif tag not in ("script", "style"):
            self.words.append(data)


def test_without_confirmations_the_search_only_suggests(searched):
    section = answer_section(load([searched]))
    words = words_of(section)
    assert "It suggests only" in words
    assert f"`tune-jobs confirm {searched} --seeds {smallest_n(3)}`" in words
    assert not re.search(r"\bp = |\bbeat\b", words)
    trials = read_results(searched).trials
    for architecture, members in trials[trials["status"] == "completed"].groupby("architecture"):
        best = members.groupby("method")["val_accuracy"].max()
        ahead, behind = ("SAM", "ZSharp") if best["sam"] > best["zsharp"] else ("ZSharp", "SAM")
        lead = 100 * abs(best["sam"] - best["zsharp"])
        claim = f"{architecture}: the search suggests, from single trials: {ahead} is ahead of {behind} by "
        assert float(words.split(claim)[1].split()[0]) == pytest.approx(lead, abs=0.05)
    assert [table.name for table in section.tables] == ["methods"]


def test_the_answer_of_confirmations_is_that_of_the_statistics(confirmed):
    section = answer_section(load([confirmed]))
    words = words_of(section)
    rows = read_results(confirmed).confirmations
    rows = rows[rows["place"] == 1]
    table = {(row["workload"], row["label"]): row for row in rows_of(section, "methods")}
    differences = {(row["architecture"], row["a"], row["b"]): row for row in rows_of(section, "differences")}
    verdicts = set()
    for architecture, members in rows.groupby("architecture"):
        values = {
            method: dict(zip(of["seed"], of["test_accuracy"], strict=True))
            for method, of in members.groupby("method", sort=False)
        }
        means = {method: np.mean(list(of.values())) for method, of in values.items()}
        best = max(means, key=means.get)
        for method, of in values.items():
            summary = summarize(list(of.values()))
            row = table[architecture, method]
            assert (row["test_mean"], row["num_seeds"]) == (pytest.approx(means[method]), 8)
            assert (row["test_low"], row["test_high"]) == (summary.low, summary.high)
            assert row["is_best"] == (method == best)
        for pair in compare_methods(values):
            assert vars(pair).items() <= differences[architecture, pair.a, pair.b].items()
            verdicts.add(pair.verdict)
            if {pair.a, pair.b} == {"zsharp", "sam"}:
                sign = 1 if pair.verdict == "a better" else -1
                beat = (pair.a, pair.b) if sign == 1 else (pair.b, pair.a)
                winner, loser = ({"zsharp": "ZSharp", "sam": "SAM"}[label] for label in beat)
                by = f"{winner} beat {loser} by {100 * sign * pair.difference:.1f} points of test accuracy"
                said = f"{architecture}: {by} (95 % interval "
                assert said in words and ", 8 seeds)" in words.split(said)[1]
    assert len(verdicts) > 1, "the generated methods differ, but not all of them"
    candidates = rows_of(section, "candidates")
    assert {(row["rank_in_study"], row["n"]) for row in candidates} == {(1, 8), (2, 8)}


def test_compare_prints_the_differences_in_every_form(confirmed, confirmed_report):
    answers = {
        form: call("compare", confirmed, "--differences", "--format", form)
        for form in ("csv", "json", "markdown", "latex", "table")
    }
    assert {(code, err) for code, _, err in answers.values()} == {(0, "")}
    texts = {form: out for form, (_, out, _) in answers.items()}
    rows = list(csv.DictReader(texts["csv"].splitlines()))
    assert texts["csv"] == (confirmed_report.files / "differences.csv").read_text()
    assert rows[0].keys() == DIFFERENCE_COLUMNS.keys()
    assert [(row["a"], row["b"]) for row in json.loads(texts["json"])] == [(r["a"], r["b"]) for r in rows]
    assert texts["markdown"].count("\n| ") - 1 == texts["latex"].count(r"\\") == len(rows) + 1
    assert all(row["verdict"].split()[-1] in texts["table"] for row in rows)
    kept = call(
        "compare", confirmed, "--differences", "--format", "csv", "--where", "a == 'sam'", "--sort", "-n"
    )
    assert len(kept[1].splitlines()) - 1 == sum(row["a"] == "sam" for row in rows)


def test_without_two_confirmed_methods_there_are_no_differences(tiny):
    assert_refused(call("compare", tiny, "--differences"), ["--differences", "tune-jobs confirm"])


def test_no_p_value_stands_without_its_n(confirmed_report):
    page = Page(confirmed_report.page)
    beside = re.findall(r"n = \d+[^()]{0,60}p = [\d.e-]+", page.text)
    assert len(beside) == page.text.count("p = ") > 0
    header, _, _ = (confirmed_report.files / "differences.csv").read_text().partition("\n")
    assert {"p_value", "p_adjusted", "n"} <= set(header.split(","))


def test_too_few_seeds_are_no_answer(tmp_path):
    words = words_of(answer_section(load([write_search(tmp_path, seeds=2)])))
    assert "2 seeds are too few to tell ZSharp, SAM and the base optimizer alone apart" in words
    assert f"{smallest_n(3)} can: `tune-jobs confirm {tmp_path} --seeds {smallest_n(3)}`" in words
    assert not re.search(r"\bbeat\b", words)


def test_the_budgets_are_compared_apart(tmp_path):
    write_search(tmp_path, seeds=3, architectures=["mlp"])
    file = tmp_path / "parquet" / "confirmations.parquet"
    rows = pq.read_table(file).to_pylist()
    again = [row | {"budget": "gradients", "test_accuracy": row["test_accuracy"] - 0.25} for row in rows]
    schema = confirmations_schema((), ["hessian_trace"])
    write(tmp_path, "confirmations", schema, rows + again, {"name": "tiny"})
    methods = rows_of(answer_section(load([tmp_path])), "methods")
    means = {(row["budget"], row["label"]): row["test_mean"] for row in methods}
    assert len(means) == 6
    for method in ("base", "sam", "zsharp"):
        assert means["epochs", method] - means["gradients", method] == pytest.approx(0.25)


def test_every_trial_has_its_curve_and_its_end(searched):
    trials = read_results(searched).trials
    section = curves_section(load([searched]))
    assert len(section.pictures) == trials["architecture"].nunique()
    for picture, (_, members) in zip(section.pictures, trials.groupby("architecture"), strict=True):
        traces = picture.figure.data
        curves = [trace for trace in traces if trace.mode == "lines"]
        assert sum(x is None for trace in curves for x in trace.x) == len(members)
        ends = [trace for trace in traces if trace.customdata is not None]
        drawn = [end for trace in ends for end in zip(trace.x, trace.y, trace.marker.symbol, strict=True)]
        symbols = {"completed": "circle", "pruned": "x-thin-open", "diverged": "triangle-up-open"}
        assert sorted(drawn) == sorted(
            (row["epochs_trained"], row["val_accuracy"], symbols.get(row["status"], "square-x-open"))
            for row in members.to_dict(orient="records")
        )


def test_long_searches_are_thinned_and_keep_their_ends(tmp_path):
    write_search(tmp_path, num_trials=300, epochs=81, architectures=["mlp"])
    epochs = read_results(tmp_path).epochs
    (picture,) = curves_section(load([tmp_path])).pictures
    lines = [trace for trace in picture.figure.data if trace.mode == "lines"]
    drawn = [end for trace in lines for end in zip(trace.x, trace.y, strict=True) if end[0] is not None]
    assert len(epochs) > 12_000 > len(drawn) > 900
    last = epochs.drop_duplicates("trial_id", keep="last")
    judged = epochs[epochs["rung"].notna()]
    for kept in (last, judged):
        assert set(zip(kept["epoch"], kept["val_accuracy"], strict=True)) <= set(drawn)


def test_budget_counts_gradient_evaluations(searched):
    trials = read_results(searched).trials.set_index("trial_id")
    report = load([searched])
    pictures = {picture.name: picture for picture in budget_section(report).pictures}
    for study in report.studies.to_dict(orient="records"):
        workload, method = study["architecture"].replace("_", "-"), study["method"]
        training, searching = (
            {trace.name: trace for trace in pictures[f"{kind}-{workload}"].figure.data}[method]
            for kind in ("winners", "anytime")
        )
        winner = trials.loc[study["best_trial_id"]]
        assert training.x[-1] == pytest.approx(winner["gradient_evaluations"])
        assert training.y[-1] == winner["val_accuracy"]
        assert searching.x[-1] == pytest.approx(study["gradient_evaluations"])
        assert list(searching.y) == sorted(searching.y)


def test_cost_is_the_sum_over_trials(searched):
    trials = read_results(searched).trials
    rows = rows_of(cost_section(load([searched])), "cost")
    assert len(rows) == 6
    for row in rows:
        members = trials[(trials["architecture"] == row["workload"]) & (trials["method"] == row["label"])]
        pruned = members[members["status"] == "pruned"]
        saved_epochs = (pruned["max_epochs"] - pruned["epochs_trained"]).sum()
        saved_s = saved_epochs * (members["wall_s"] / members["epochs_trained"]).median()
        assert saved_epochs > 0
        assert row["saved_epochs"] == saved_epochs
        assert row["saved_s"] == pytest.approx(saved_s)
        assert row["epochs"] == members["epochs_trained"].sum()
        assert row["device_hours"] == pytest.approx(members["wall_s"].sum() / 3600)
        assert row["confirmation_s"] is None


def test_terminal_and_page_say_the_same_share_saved(searched):
    (line,) = summarise([read_results(searched)])
    saved = re.search(r"saved \d+% of the epochs", line)[0]
    assert saved in " ".join(part for part in cost_section(load([searched])).parts if isinstance(part, str))


def test_every_column_of_a_csv_file_is_described(confirmed, confirmed_report):
    files = list(confirmed_report.files.glob("*.csv"))
    assert len(files) > 4
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            names = next(csv.reader(lines), [])
        undescribed = {name for name in names if not name.startswith("param.")} - REPORT_COLUMNS.keys()
        assert not undescribed, file.name
    compared = {name for name in compare([confirmed]) if not name.startswith("param.")}
    assert compared <= COMPARISON_COLUMNS.keys()


def test_cost_has_the_confirmation_and_a_total(confirmed):
    section = cost_section(load([confirmed]))
    rows = read_results(confirmed).confirmations
    costs = rows_of(section, "cost")
    assert sum(row["confirmation_evaluations"] for row in costs) == rows["gradient_evaluations"].sum()
    together = sum(row["confirmation_evaluations"] + row["gradient_evaluations"] for row in costs)
    assert f"{together:,.0f} gradient evaluations" in section.parts[0]


def test_importance_finds_the_parameter_that_matters(searched):
    matters = importance(load([searched]), "vit_tiny", "zsharp")
    assert sum(matters.shares.values()) == pytest.approx(1)
    assert set(matters.shares) == {"q_p", "rho", "lr"}
    assert max(matters.shares, key=matters.shares.get) == "lr"
    epochs = read_results(searched).epochs
    reached = epochs[(epochs["study"] == "vit_tiny-zsharp") & (epochs["epoch"] == matters.epoch)]
    assert matters.n == len(reached) >= 10


def test_too_few_trials_have_no_importance(tmp_path):
    report = load([write_search(tmp_path, num_trials=9, architectures=["resnet8"])])
    assert importance(report, "resnet8", "zsharp").shares == {}
    page = Page(write_report([tmp_path], tmp_path / "r.html").page)
    assert "No importances for resnet8, zsharp; " in page.text


def test_warnings_say_what_speaks_against_an_optimum(tmp_path):
    write_search(tmp_path, num_trials=40, architectures=["mlp"], methods=["sam"])
    assert list(warnings(load([tmp_path]), "mlp")) == []
    file = tmp_path / "parquet" / "trials.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()[:9]
    for number, row in enumerate(rows):
        row["status"] = "diverged" if number < 3 else "completed"
        row["val_accuracy"], row["param.rho"] = 0.5, 0.07
    rows[5] |= {"val_accuracy": 0.9, "param.lr": 0.0299}
    job = json.loads(table.schema.metadata[b"job"])
    write(tmp_path, "trials", trials_schema(), rows, job)
    kept = {row["trial_id"] for row in rows}
    epochs = pq.read_table(tmp_path / "parquet" / "epochs.parquet").to_pylist()
    write(tmp_path, "epochs", epochs_schema(), [row for row in epochs if row["trial_id"] in kept], job)
    few, infeasible, edge = warnings(load([tmp_path]), "mlp")
    assert few.startswith("mlp, sam: n = 9 trials are few to search rho, lr;")
    assert infeasible.startswith("mlp, sam: 33% of n = 9 trials diverged or failed")
    assert edge.startswith("mlp, sam: the best lr, 0.0299, is at the upper end of its range, 0.0003 to 0.03")


def test_a_running_search_is_a_partial_result(tmp_path):
    write_search(tmp_path, num_trials=6, running=2, architectures=["mlp"])
    page = Page(write_report([tmp_path], tmp_path / "r.html").page)
    running = int(read_results(tmp_path).trials["status"].isna().sum())
    assert running >= 3
    assert f"{running} of 18 trials are still running: this is a partial result." in page.text
    assert f"{running} running" in page.text


@pytest.mark.parametrize("num_trials", [0, 1])
def test_a_search_that_has_hardly_begun_has_a_report(tmp_path, num_trials):
    row = {"job": "tiny", "study": "mlp-sam", "trial_id": "t", "dataset": "digits", "architecture": "mlp"}
    row |= {"method": "sam", "started_at": START, "max_epochs": 9, "param.lr": 0.01, "param.rho": 0.1}
    write(tmp_path, "trials", trials_schema(), [row] * num_trials, {"name": "tiny"})
    write(tmp_path, "epochs", epochs_schema(), [], {"name": "tiny"})
    write(tmp_path, "confirmations", confirmations_schema(), [], {"name": "tiny"})
    page = Page(write_report([tmp_path], tmp_path / "r.html").page)
    said = "No trial has reached full fidelity" if num_trials else "No trial has started yet."
    assert said in page.text
    assert "0123abcd" in page.text


def test_columns_of_other_versions_may_be_missing_or_new(tmp_path, confirmed):
    folder = tmp_path / "parquet"
    folder.mkdir()
    for name in ("trials", "epochs", "confirmations"):
        table = pq.read_table(confirmed / "parquet" / f"{name}.parquet")
        assert set(LATER_COLUMNS[name]) < set(table.column_names)
        pq.write_table(table.drop_columns(list(LATER_COLUMNS[name])), folder / f"{name}.parquet")
    old, new = read_results(tmp_path), read_results(confirmed)
    for name in ("trials", "epochs", "confirmations"):
        before, after = getattr(old, name), getattr(new, name)
        assert set(before.columns) == set(after.columns)
        assert before[list(LATER_COLUMNS[name])].isna().all(axis=None)
        kept = [column for column in after.columns if column not in LATER_COLUMNS[name]]
        pd.testing.assert_frame_equal(before[kept], after[kept])
    table = pq.read_table(folder / "trials.parquet")
    pq.write_table(table.append_column("of_tomorrow", table["status"]), folder / "trials.parquet")
    assert "of_tomorrow" in read_results(tmp_path).trials, "columns of a later version are left alone"
    assert "points of test accuracy" in Page(write_report([tmp_path], tmp_path / "r.html").page).text


def test_searches_side_by_side_keep_their_names(tmp_path, searched):
    again = write_search(tmp_path / "again", num_trials=5, epochs=27, seed=1)
    other = write_search(tmp_path / "other", num_trials=5, epochs=27, name="other", methods=["sam"])
    report = load([searched, again, other, again])
    folders = (searched.name, again.name)
    expected = {f"{method} (tiny) ({folder})" for method in ("zsharp", "sam", "base") for folder in folders}
    assert set(report.labels) == expected | {"sam (other)"}
    assert len(report.trials) == 180 + 30 + 10
    assert report.trials["uid"].is_unique
    assert len(report.epochs) == sum(len(read_results(folder).epochs) for folder in (searched, again, other))
    page = Page(write_report([again, other], tmp_path / "r.html").page)
    assert "Search report: tiny, other" in page.text


def test_a_confirmed_search_is_ranked_by_its_fresh_seeds(confirmed):
    table = compare([confirmed])
    rows = read_results(confirmed).confirmations
    for row in table.to_dict(orient="records"):
        is_own = (rows["study"] == f"{row['architecture']}-{row['method']}") & (rows["place"] == 1)
        summary = summarize(rows.loc[is_own, "test_accuracy"].tolist())
        assert (row["test_mean"], row["num_seeds"]) == (pytest.approx(summary.mean), summary.n)
        assert (row["test_low"], row["test_high"], row["test_interval"]) == (
            summary.low,
            summary.high,
            "bootstrap",
        )
    for _, members in table.groupby("architecture"):
        assert members["test_mean"].is_monotonic_decreasing
        assert members["rank"].tolist() == [1, 2, 3]


def test_searches_that_trained_differently_are_not_compared(tmp_path):
    short = write_search(tmp_path / "short", architectures=["mlp"], num_trials=5, epochs=3, seeds=3)
    long = write_search(tmp_path / "long", architectures=["mlp"], num_trials=5, seeds=3)
    report = load([short, long])
    assert report.workloads == ["mlp (short)", "mlp (long)"]
    section = answer_section(report)
    differences = rows_of(section, "differences")
    assert len(differences) == 2 * 3, "each search has a family of its own"
    assert {row["architecture"] for row in differences} == set(report.workloads)
    words = words_of(section)
    assert "train.epochs 3 and 9" in words
    for folder in (short, long):
        assert f"`tune-jobs confirm {folder} --seeds {smallest_n(3)}`" in words
    assert (report.studies["rank"] == 1).groupby(report.studies["folder"]).sum().tolist() == [1, 1]
    alike = load([long, write_search(tmp_path / "again", architectures=["mlp"], num_trials=5)])
    assert alike.workloads == ["mlp"]


def test_the_page_is_self_contained_and_its_data_hold_no_markup(tmp_path, confirmed, confirmed_report):
    written = confirmed_report
    page = Page(written.page)
    assert page.links
    assert all(link.startswith("#") for link in page.links)
    assert "<" not in page.data
    figures = json.loads(page.data)["figures"]
    assert len(figures) > 15
    assert all(f'id="figure-{name}"' in written.page.read_text(encoding="utf-8") for name in figures)
    assert written.page.stat().st_size < 6_000_000
    first = written.page.read_bytes()
    assert write_report([confirmed], tmp_path / "r.html").page.read_bytes() == first


def test_tables_stand_beside_the_page_in_three_forms(confirmed, confirmed_report):
    files = confirmed_report.files
    assert files == confirmed_report.page.parent / "r_files"
    names = {"methods", "differences", "candidates", "rungs", "cost", "failures", "provenance"}
    expected = {f"{name}.{ending}" for name in names for ending in ("csv", "md", "tex")}
    assert {file.name for file in files.iterdir()} == expected
    with (files / "methods.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    summary = read_results(confirmed).confirmations.query("place == 1").groupby(["architecture", "method"])
    means = summary["test_accuracy"].mean()
    for row in rows:
        assert float(row["test_mean"]) == pytest.approx(means[row["architecture"], row["method"]])
    for name in names:
        html = MarkdownIt("commonmark").enable("table").render((files / f"{name}.md").read_text())
        latex = (files / f"{name}.tex").read_text()
        num_columns = html.count("<th>") + html.count("<th style")
        body = latex.split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
        assert len(body) == html.count("<tr>") - 1 > 0
        assert all(len(re.findall(r"(?<!\\)&", line)) == num_columns - 1 for line in body)


def test_names_stay_text_in_every_form(tmp_path):
    methods = ["zsharp", "b_1_ *x* `y` | \\end{tabular} $z$ %{x} & # ~ ^"]
    names = {"name": EVIL, "architectures": [EVIL], "methods": methods, "error": EVIL}
    write_search(tmp_path, seeds=7, num_trials=20, **names)
    written = write_report([tmp_path], tmp_path / "r.html")
    page = Page(written.page)
    assert page.text.count(EVIL) > 20
    assert EVIL not in written.page.read_text(encoding="utf-8")
    tables = {table.name: table for table in answer_section(load([tmp_path])).tables}
    html = MarkdownIt("commonmark").enable("table").render(to_markdown(tables["methods"]))
    assert EVIL not in html
    assert {EVIL, *methods} <= {unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", html)}
    latex = to_latex(tables["methods"])
    assert r"\textless{}script\textgreater{}" in latex
    assert r"\textbackslash{}end\{tabular\} \$z\$ \%\{x\} \& \# \textasciitilde{} \textasciicircum{}" in latex
    for name, figure in json.loads(page.data)["figures"].items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        for trace in figure["data"]:
            trace.pop("legendgroup", None)  # shown nowhere
        texts = json.dumps(figure)
        assert "script>" not in texts.replace("&lt;script&gt;", "").replace("&lt;/script&gt;", ""), name
        assert "%{x} " not in texts, name


def test_reads_without_torch_ray_and_optuna(tmp_path, tiny):
    code = """
import sys
class Missing:
    def find_spec(name, path, target=None):
        if name in ("torch", "ray", "optuna", "kaleido", "choreographer"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing)
from tune_jobs.cli.app import main
main()
"""
    page = tmp_path / "r.html"
    arguments = ["compare", str(tiny), "--html", str(page)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "zsharp-tune[images]" in done.stdout
    assert "Importances need Optuna, which is not installed here" in Page(page).text


def test_the_command_refuses_what_it_cannot_read_or_write(tmp_path, tiny):
    page = tmp_path / "r.html"
    assert_refused(call("compare", tmp_path / "none", "--html", page), "no such file")
    code, _, err = call("compare", tiny, "--html", tmp_path)
    assert (code, "cannot be written" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []
    code, out, _ = call("compare", tiny, "--html", page)
    assert (code, str(page) in out) == (0, True)
    by_verb = tmp_path / "by_verb.html"
    code, out, _ = call("report", tiny, "--out", by_verb)
    assert (code, str(by_verb) in out, by_verb.read_bytes() == page.read_bytes()) == (0, True, True)
    assert_refused(call("report", tmp_path / "none"), "no such file")
    code, out, _ = call("compare", tiny, "--format", "latex")
    assert (code, out.count("\\begin{tabular}"), "mlp & sam &" in out) == (0, 1, True)


@pytest.mark.parametrize(
    ("module", "said"), [("kaleido", "pip install zsharp-tune"), (None, "no Chrome or Chromium")]
)
def test_without_a_browser_the_figures_are_said_to_be_missing(tmp_path, tiny, monkeypatch, module, said):
    if module:
        monkeypatch.setitem(sys.modules, module, None)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("choreographer.browsers.chromium.Chromium.find_browser", lambda *a, **k: None)
    assert said in report_images.write_images(curves_section(load([tiny])).pictures, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sharpness_shows_measures_with_their_errors_and_no_diagnostics(tmp_path):
    names = ["average", "average_se", "hessian_max", "hessian_max_converged", "hessian_max_residual", "loss"]
    write_search(tmp_path, architectures=["mlp"], methods=["sam"], seeds=4)
    file = tmp_path / "parquet" / "confirmations.parquet"
    values = (0.5, 0.01, 7.0, 1.0, 0.02, 0.3)
    measured = {f"sharpness.{name}": value for name, value in zip(names, values, strict=True)}
    rows = [row | measured for row in pq.read_table(file).to_pylist()]
    write(tmp_path, "confirmations", confirmations_schema((), names), rows, {"name": "tiny"})
    average, largest = sharpness_section(load([tmp_path])).pictures
    assert (average.name, largest.name) == ("sharpness-average-mlp", "sharpness-hessian-max-mlp")
    (trace,) = average.figure.data
    assert (list(trace.x), list(trace.error_x.array)) == ([0.5] * 4, [0.01] * 4)
    assert list(trace.y) == [row["test_accuracy"] for row in rows]
    assert largest.figure.data[0].error_x.array is None
