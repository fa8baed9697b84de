"""A comparison says what a slow reading of the same trials says, in every rendering, and names stay text."""

import csv
import io
import json
import math
import random
import shutil
import statistics
import subprocess

import ledgers
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from tune_jobs.cli.printing import console
from tune_jobs.errors import ResultsError
from tune_jobs.ledger.rows import Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results import tables
from tune_jobs.results.compare import (
    comparison,
    render_table,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
    trials_of,
)
from tune_jobs.results.read import read_all
from tune_jobs.results.write import export
from tune_jobs.wording import printable

ENDS = ("completed", "pruned", "diverged", "failed", "interrupted", None)
METHODS = {"base": ("lr",), "sam": ("lr", "rho"), "zsharp": ("lr", "rho", "q_p"), "odd": ("lr", "momentum")}


def make_search(folder, name, trials):
    """Writes a search whose trials are given as dicts, and exports it."""
    with Ledger.create(folder, {"name": name}, {}) as ledger:
        for number, trial in enumerate(trials):
            fields = {key: trial[key] for key in ("dataset", "architecture", "method", "params")}
            study = f"{trial['dataset']}.{trial['architecture']}.{trial['method']}"
            ledgers.start(
                ledger, trial["id"], study=study, number=number, seed=trial.get("seed", 0), **fields
            )
            for epoch, (accuracy, loss) in enumerate(trial["curve"], start=1):
                measured = {"val_accuracy": accuracy, "val_loss": loss, "gradient_evaluations": 10 * epoch}
                ledger.report(trial["id"], epoch, measured, Decision("continue"))
            if trial["status"]:
                ledger.finish_trial(trial["id"], trial["status"], "because")
    export(folder)
    return folder


def trial(identity, accuracy, *, loss=0.5, status="completed", architecture="mlp", method="sam", **more):
    curve = [(0.1, 1.0), (accuracy, loss)]
    given = {"id": identity, "dataset": "digits", "architecture": architecture, "method": method}
    return given | {"status": status, "params": {"lr": 0.0123456, "rho": 0.1}, "curve": curve} | more


def random_trials(rng):
    trials = []
    for dataset in ("digits", "moons"):
        for architecture in ("vit", "mlp", "cnn"):
            for method, names in METHODS.items():
                hopeless = rng.random() < 0.2
                for _ in range(rng.randrange(1, 9)):
                    status = rng.choice(ENDS[1:]) if hopeless else rng.choice(ENDS[:4])
                    length = rng.randrange(0, 4) if status != "completed" else 4
                    coarse = (0.25, 0.5, 0.75, None)  # few values: ties, also of the loss, and nulls
                    curve = [(rng.choice(coarse), rng.choice(coarse)) for _ in range(length)]
                    params = {name: rng.uniform(0.01, 1) for name in names}
                    trials.append(
                        {"id": f"t{rng.randrange(10**9):09d}", "dataset": dataset, "status": status}
                        | {"architecture": architecture, "method": method, "curve": curve, "params": params}
                    )
    return trials


def slow_comparison(name, trials):
    """What `comparison` should say of one search, keyed by study, from the trials as they were given."""
    rows = {}
    for t in trials:
        rows.setdefault((name, t["dataset"], t["architecture"], t["method"]), []).append(t)
    for key, members in rows.items():
        completed = [t for t in members if t["status"] == "completed"]
        measured = [t for t in completed if t["curve"][-1][0] is not None]
        best = None
        for t in measured:
            accuracy, loss = t["curve"][-1]
            merit = (-accuracy, math.inf if loss is None else loss, t["id"])
            if best is None or merit < best[0]:
                best = (merit, t)
        accuracies = [t["curve"][-1][0] for t in measured]
        spent = [10 * len(t["curve"]) for t in members if t["curve"]]
        rows[key] = {
            "val_accuracy": -best[0][0] if best else None,
            "val_loss": best[1]["curve"][-1][1] if best else None,
            "best_trial_id": best[1]["id"] if best else None,
            "max_epochs": 9 if best else None,
            "params": best[1]["params"] if best else {},
            "num_trials": len(members),
            "num_completed": len(completed),
            **{
                f"{status}_fraction": sum(t["status"] == status for t in members) / len(members)
                for status in ("pruned", "diverged", "failed")
            },
            "median_val_accuracy": statistics.median(accuracies) if accuracies else None,
            "std_val_accuracy": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            "epochs": sum(len(t["curve"]) for t in members),
            "gradient_evaluations": sum(spent) if spent else None,
            "metric": "val_accuracy",
            "mode": "max",
            "conditions": 1,
            **dict.fromkeys(("measure", "budget", "num_seeds", "test_interval")),
            **dict.fromkeys(("test_mean", "test_std", "test_low", "test_high")),
            **dict.fromkeys(("finalist_mean", "finalist_std", "finalist_seeds")),
        }
        rows[key]["best_value"] = rows[key]["val_accuracy"]
        for name in ("median", "std"):
            rows[key][f"{name}_value"] = rows[key][f"{name}_val_accuracy"]
    # The rank is one more than the number of better rows on the same data and architecture.
    for key, row in rows.items():
        row["rank"] = None
        if row["val_accuracy"] is not None:
            rivals = [r for k, r in rows.items() if k[1:3] == key[1:3] and r["val_accuracy"] is not None]

            def merit(r):
                loss = math.inf if r["val_loss"] is None else r["val_loss"]
                return -r["val_accuracy"], loss

            row["rank"] = 1 + sum(merit(rival) < merit(row) for rival in rivals)
    return rows


@pytest.mark.parametrize("seed", range(2))
def test_says_what_a_slow_reading_says(folder, seed):
    trials = random_trials(random.Random(seed))
    make_search(folder, "tiny", trials)
    expected = slow_comparison("tiny", trials)
    rows = json.loads(to_json(comparison([folder])))
    assert len(rows) == len(expected)
    for row in rows:
        key = tuple(row.pop(name) for name in ("job", "dataset", "architecture", "method"))
        assert row.pop("folder") == str(folder)
        params = {n.removeprefix("param."): row.pop(n) for n in list(row) if n.startswith("param.")}
        assert set(params) == {"q_p", "rho", "lr", "momentum"}
        wanted = expected.pop(key)
        chosen = wanted.pop("params")
        assert params == {name: chosen.get(name) for name in params}
        assert row == pytest.approx(wanted, abs=1e-12)
    # sorted by rank within an architecture, those without a winner last, architectures as the job has them
    assert list(dict.fromkeys(t["architecture"] for t in trials)) == ["vit", "mlp", "cnn"]
    table = comparison([folder])
    assert list(dict.fromkeys(table["architecture"])) == ["vit", "mlp", "cnn"]
    for _, group in table.groupby(["dataset", "architecture"]):
        ranks = group["rank"].fillna(99).tolist()
        assert ranks == sorted(ranks)


def test_winners_are_completed_and_judged_by_their_last_epoch(tmp_path):
    trials = [trial(status, 0.99, status=status) for status in ENDS[1:-1]]
    peaked = trial("peaked", 0.4, curve=[(0.9, 0.1), (0.4, 0.5)])
    make_search(tmp_path, "tiny", [*trials, trial("running", 1.0, status=None), peaked, trial("w", 0.5)])
    (row,) = json.loads(to_json(comparison([tmp_path])))
    assert (row["best_trial_id"], row["val_accuracy"]) == ("w", 0.5)
    assert (row["num_trials"], row["num_completed"]) == (7, 2)


def test_ties_go_to_the_lower_loss_then_the_trial_id(tmp_path):
    a = [trial(name, 0.5, loss=loss) for name, loss in (("c", 0.2), ("b", 0.2), ("a", 0.3), ("0", None))]
    b = [trial("d", 0.5, loss=0.2, method="base"), trial("e", 0.5, loss=0.1, method="zsharp")]
    make_search(tmp_path, "tiny", a + b)
    table = comparison([tmp_path])
    assert table["best_trial_id"].tolist() == ["e", "b", "d"]
    assert table["rank"].tolist() == [1, 2, 2]


def test_configurations_with_several_seeds_are_ranked_by_their_means(tmp_path):
    values = {"a": [0.5, 0.9], "b": [0.8, 0.8]}  # "a" has the luckiest seed
    trials = [
        trial(f"{name}{seed}", value, params={"lr": ord(name)}, seed=seed)
        for name, by_seed in values.items()
        for seed, value in enumerate(by_seed)
    ]
    (row,) = json.loads(to_json(comparison([make_search(tmp_path, "tiny", trials)])))
    assert (row["best_trial_id"], row["val_accuracy"], row["best_value"]) == ("b0", 0.8, 0.8)


def test_the_same_study_in_two_folders_is_two_rows(tmp_path):
    one = make_search(tmp_path / "one", "tiny", [trial("a", 0.5)])
    two = make_search(tmp_path / "two", "tiny", [trial("a", 0.75)])
    table = comparison([one, two, one])
    assert table["folder"].tolist() == [str(two), str(one)]
    assert table["rank"].tolist() == [1, 2]
    assert "folder" in to_markdown(table)
    assert "folder" not in to_markdown(comparison([one]))
    lines = shown(table).splitlines()
    assert max(map(len, lines)) <= 100
    assert "* sam 0.7500 – – 0.1 0.0123 1/1 0% 2 20" in [" ".join(line.split()) for line in lines]
    for path in (one, two):  # a long one goes over several lines
        assert str(path) in "".join("".join(line.split()) for line in lines)


def test_a_folder_without_results_is_a_clear_message(tmp_path):
    with pytest.raises(ResultsError, match=r"trials\.parquet: no such file; expected a search folder"):
        comparison([tmp_path])


def test_a_search_without_trials_compares_to_nothing(tmp_path):
    table = comparison([make_search(tmp_path, "tiny", [])])
    assert len(table) == 0
    assert json.loads(to_json(table)) == []
    assert "rank" in to_csv(table)
    assert "Winners are single trials" in shown(table)
    assert "Winners are single trials" in to_markdown(table)


def test_csv_and_json_round_trip(folder):
    table = comparison([make_search(folder, "tiny", random_trials(random.Random(0)))])
    records = json.loads(to_json(table))
    pd.testing.assert_frame_equal(pd.DataFrame(records)[list(table)].astype(dict(table.dtypes)), table)
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(rows) == len(records) > 1
    for row, record in zip(rows, records, strict=True):
        assert {name: "" if value is None else str(value) for name, value in record.items()} == row


def shown(table, width=100):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(render_table(table))
    return console.file.getvalue()


def parsed(markdown):
    """The paragraphs of a Markdown text and the cells of its tables, as a reader sees them."""
    paragraphs, rows, inside = [], [], False
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown):
        inside = {"table_open": True, "table_close": False}.get(token.type, inside)
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline":
            kinds = {"text", "text_special"} | ({"code_inline"} if "`tune-jobs " in token.content else set())
            assert {child.type for child in token.children} <= kinds, token.content
            (rows[-1] if inside else paragraphs).append("".join(child.content for child in token.children))
    return paragraphs, rows


def test_trials_are_rows_for_a_spreadsheet(folder):
    make_search(folder / "one", "one", [trial("a-0000", 0.5), trial("a-0001", 0.7)])
    make_search(folder / "two", "two", [trial("b-0000", 0.6)])
    both = read_all([folder / "one", folder / "two"])
    rows = list(csv.DictReader(io.StringIO(to_csv(trials_of(both)))))
    assert [row["trial_id"] for row in rows] == ["a-0000", "a-0001", "b-0000"]
    assert [float(row["val_accuracy"]) for row in rows] == [0.5, 0.7, 0.6]
    assert list(rows[0])[1:] == list(both[0].trials.columns)
    assert rows[0]["started_at"].startswith("20")


@pytest.fixture
def demo(folder):
    zsharp = {"method": "zsharp", "params": {"q_p": 0.8749, "rho": 0.12345, "lr": 0.010999}}
    base = {"method": "base", "params": {"lr": 1.5e-5}}
    long = [(0.5, 1.0)] * 1234
    trials = [
        *(trial(f"a{n}", 0.98612 - n / 10, architecture="resnet8", **zsharp) for n in range(3)),
        trial("b", 0.5, architecture="resnet8", status="pruned", **zsharp),
        trial("c", 0.97, architecture="resnet8", **base),
        trial("d", 0.9, architecture="vit_7_8_8_384", status="diverged", method="zsharp_official"),
        trial("e", 0.9, architecture="vit_7_8_8_384", status="failed", method="zsharp_official", curve=long),
    ]
    return comparison([make_search(folder, "tiny", trials)])


BEST = "Best on digits: resnet8 with zsharp, validation accuracy 0.9861 (q_p 0.875, rho 0.123, lr 0.011)"


def test_terminal_table(demo):
    text = shown(demo)
    assert max(map(len, text.splitlines())) <= 100
    lines = text.splitlines()
    assert lines[0].strip() == BEST
    rows = [line.split() for line in lines]
    assert ["resnet8"] in rows
    assert ["*", "zsharp", "0.9861", "0.1000", "0.875", "0.123", "0.011", "3/4", "25%", "8", "80"] in rows
    assert ["base", "0.9700", "–", "–", "–", "1.5e-05", "1/1", "0%", "2", "20"] in rows
    assert ["zsharp_official", "–", "–", "–", "–", "–", "0/2", "0%", "1236", "12.4k"] in rows
    assert "Of 7 trials, 1 diverged and 1 failed." in text
    assert "Winners are single trials" in text
    assert "nan" not in text.lower()


def test_markdown_table(demo):
    paragraphs, (header, *rows) = parsed(to_markdown(demo))
    assert paragraphs[:2] == [BEST, "Of 7 trials, 1 diverged and 1 failed."]
    assert header[:5] == ["", "architecture", "method", "best val acc", "sd"]
    assert rows[0] == [
        "*",
        "resnet8",
        "zsharp",
        "0.9861",
        "0.1000",
        "0.875",
        "0.123",
        "0.011",
        "3/4",
        "25%",
        "8",
        "80",
    ]
    assert rows[1][:5] == ["", "resnet8", "base", "0.9700", "–"]
    assert rows[2][1:4] == ["vit_7_8_8_384", "zsharp_official", "–"]


def test_nothing_completed_and_other_parameters_are_said(tmp_path):
    table = comparison([make_search(tmp_path / "none", "tiny", [trial("a", 0.9, status="pruned")])])
    assert table[["val_accuracy", "rank"]].isna().all(axis=None)
    assert shown(table).startswith("No trial on digits was completed, so there is no best.")
    momentum = trial("a", 0.9, params={"lr": 0.1, "momentum": 0.123456})
    text = shown(comparison([make_search(tmp_path / "other", "tiny", [momentum])]))
    assert "mlp with sam in tiny also has momentum 0.123." in text
    assert "(lr 0.1, momentum 0.123)" in text


@pytest.mark.parametrize(
    "name", ["[red]", "[bold]x[/bold]", "[/]", "<script>alert(1)</script>", "a|b", "*x*_y_", "`c`", ":smile:"]
)
def test_names_are_text_not_markup(tmp_path, name):
    given = trial("a", 0.9, architecture=name, method=name, dataset=name)
    table = comparison([make_search(tmp_path, name, [given])])
    text = shown(table, width=200)
    assert text.startswith(f"Best on {name}: {name} with {name}, validation accuracy 0.9000")
    assert [name] in [line.split() for line in text.splitlines()]
    paragraphs, rows = parsed(to_markdown(table))
    assert paragraphs[0].startswith(f"Best on {name}: {name} with {name}, validation accuracy 0.9000")
    assert rows[1][1:3] == [name, name]
    assert json.loads(to_json(table))[0]["architecture"] == name
    assert pd.read_csv(io.StringIO(to_csv(table)))["architecture"].tolist() == [name]


@pytest.fixture(scope="module")
def table_of_one(tmp_path_factory):
    return comparison([make_search(tmp_path_factory.mktemp("one"), "tiny", [trial("a", 0.9)])])


@given(
    name=st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), min_size=1)
)
def test_markdown_shows_any_name(table_of_one, name):
    _, rows = parsed(to_markdown(table_of_one.assign(architecture=f"x{name}x")))
    assert rows[1][1] == " ".join(printable(f"x{name}x").split())


HOSTILE = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    " =1",
    "＝1",
    "\x1b[2Jx",
    "\x1b]0;x\x07",
    "\x00x",
    "\u202ex",
    "\x9b2J",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_move_no_cursor_and_start_no_formula(table_of_one, name):
    table = table_of_one.assign(architecture=name, method=name)
    forms = {
        "csv": to_csv(table),
        "markdown": to_markdown(table),
        "latex": to_latex(table),
        "json": to_json(table),
    }
    screen = console()
    with screen.capture() as captured:
        screen.print(render_table(table))
    for form, text in {**forms, "terminal": captured.get()}.items():
        assert all(printable(line) == line for line in text.split("\n")), form
    assert json.loads(forms["json"])[0]["architecture"] == name
    for field in pd.read_csv(io.StringIO(forms["csv"]), keep_default_na=False)["architecture"]:
        assert field.lstrip()[0] not in "=+-@＝＋－＠"
    assert tables.escape_markdown(name).strip()[0] not in "=+-@"


def test_numbers_below_zero_stay_numbers_in_csv(table_of_one):
    table = table_of_one.assign(val_loss=-1.5)
    assert pd.read_csv(io.StringIO(to_csv(table)))["val_loss"].tolist() == [-1.5]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="no pdflatex: Debian has it in texlive-latex-base"
)
def test_latex_compiles_with_any_name(table_of_one, tmp_path):
    """Among them names that start like an argument of the line break before them, which LaTeX would drop."""
    names = ["*", "[3pt]", "*star", "\\input{/etc/passwd}", "%x", "é±≤", "中", "a&b#c$d_e^f~g{h}", *HOSTILE]
    table = pd.concat(
        [table_of_one.assign(architecture=name, method=name) for name in names], ignore_index=True
    )
    rules = r"\def\toprule{\hline}\def\midrule{\hline}\def\bottomrule{\hline}"
    preamble = (
        rf"\documentclass{{article}}\IfFileExists{{booktabs.sty}}{{\usepackage{{booktabs}}}}{{{rules}}}"
    )
    text = f"{preamble}\n\\begin{{document}}\n{to_latex(table)}\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table.tex"],
        cwd=tmp_path, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert rb"\\*" not in text.encode() and "\n*" not in text and "\n[" not in text


def test_infinities_of_a_foreign_file_are_null_in_json():
    table = tables.Table("t", "", [], [{"loss": float("inf"), "count": 1}])
    assert json.loads(tables.to_json(table)) == [{"loss": None, "count": 1}]
