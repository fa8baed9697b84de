"""The command line without Ray: what it prints, and that bad input ends with exit code 2 and starts nothing."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import ledgers
import pandas as pd
import pytest
from command_line import assert_refused, call, files_below

from tune_jobs.cli import app as cli
from tune_jobs.cli.app import app, main
from tune_jobs.cli.printing import console
from tune_jobs.job.load import load_job, presets, schema
from tune_jobs.job.space import PARAMETERS
from tune_jobs.ledger.rows import Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.compare import compare
from zsharp.data import DATASETS
from zsharp.models import ARCHITECTURES
from zsharp.optim import METHODS

pytestmark = pytest.mark.usefixtures("current")
VERBS = [str(command.name or command.callback.__name__) for command in app.registered_commands]


def test_every_verb_has_help():
    assert {"list", "validate", "plan", "run", "export", "compare"} <= set(VERBS)
    for verb in VERBS:
        for flag in ("-h", "--help"):
            code, out, err = call(verb, flag)
            assert (code, err) == (0, "")
            assert f"tune-jobs {verb}" in out


def test_the_version_is_the_package_s():
    assert call("--version") == (0, f"tune-jobs {version('zsharp-tune')}\n", "")


def test_help_needs_nothing_that_is_slow_to_load():
    code = (
        "import sys, tune_jobs.cli.app as cli\n"
        "sys.argv[1:] = ['run', '-h']\n"
        "try:\n"
        "    cli.main()\n"
        "finally:\n"
        "    print('loaded:', *{'torch', 'ray', 'optuna', 'pandas', 'pyarrow'} & set(sys.modules))\n"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.splitlines()[-1] == "loaded:"


def test_list_names_everything_that_a_job_can_name():
    code, out, _ = call("list")
    assert code == 0
    first_words = {line.split()[0] for line in out.splitlines() if line.startswith(" ") and line.strip()}
    for names in (presets(), ARCHITECTURES, DATASETS, METHODS, PARAMETERS):
        assert names
        assert set(names) <= first_words
    assert PARAMETERS["q_p"].valid in out
    assert max(presets().values(), key=len) in out, "lines are not broken in a pipe"


def test_colours_that_are_forced_do_not_make_a_pipe_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not console().is_interactive


@pytest.mark.parametrize("preset", presets())
def test_presets_are_valid(preset):
    code, out, err = call("validate", preset)
    assert (code, err) == (0, "")
    assert out.startswith(f"valid: {preset}, {len(load_job(preset).studies())} studies, ")


def test_the_printed_schema_is_that_of_jobs():
    assert json.loads(call("validate", "--schema")[1]) == json.loads(json.dumps(schema()))


def another_job(folder):
    other = load_job("digits", ["train.seed=7"])
    Ledger.create(folder, other.model_dump(mode="json"), {}).close()


@pytest.mark.parametrize("occupied_by", ["another job", "files", "a file", "a broken ledger"])
def test_a_folder_in_use_is_left_alone_and_fresh_deletes_nothing_but_searches(current, occupied_by):
    there = current / "there"
    if occupied_by == "another job":
        another_job(there)
    elif occupied_by == "a file":
        there.write_text("not a folder")
    else:
        there.mkdir()
        name = "thesis.tex" if occupied_by == "files" else "ledger.sqlite"
        (there / name).write_bytes(b"years of work " * 1000)
    before = files_below(current)
    where = "there/ledger.sqlite" if occupied_by == "a broken ledger" else "--out: 'there'"
    for option in [[], ["--fresh"]][: 1 if occupied_by == "another job" else 2]:
        assert_refused(call("run", "digits", "--out", "there", *option), where)
    assert files_below(current) == before


def test_fresh_deletes_no_search_before_all_is_known_to_be_well(current):
    another_job(current / "there")
    refused = call("run", "digits", "--out", "there", "--fresh", "--set", "train.batch_size=2000")
    assert_refused(refused, "train.batch_size: 2000")
    with Ledger.open(current / "there", read_only=True) as ledger:
        assert ledger.job["train"]["seed"] == 7


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_data_and_architectures_that_do_not_fit(current, verb):
    missing = current.parent / "no-such-folder"
    refused = call(verb, "cifar10", "--set", f"data.root={missing}", "--out", "there")
    assert_refused(refused, ["data:", str(missing), "no such folder", "cifar-10-batches-py"])
    refused = call(verb, "digits", "--set", "architectures=[resnet8, vgg16_bn]", "--out", "there")
    assert_refused(refused, ["architectures[1]: 'vgg16_bn'"])
    assert files_below(current) == []


def test_a_machine_that_has_no_gpu(current):
    """In a process of its own, which no other test's Ray lends GPUs to."""
    code = """
import sys
from tune_jobs.cli.app import main
for verb, change in (("plan", "resources.device=cuda"), ("run", "resources.gpus_per_trial=1")):
    sys.argv = ["tune-jobs", verb, "digits", "--out", "there", "--set", change]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 2
"""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "")
    for setting, line in zip(("device", "gpus_per_trial"), done.stderr.splitlines(), strict=True):
        assert line.startswith(f"resources.{setting}:")
        assert "there is no GPU here; valid: auto" in line
    assert files_below(current) == []


@pytest.fixture
def searched(current):
    """A small search: two methods, one trial each that completed, one that was pruned."""
    folder = current / "small"
    job = load_job("digits", ["name=small", "architectures=[resnet8]", "methods=[sam, base]"])
    with Ledger.create(folder, job.model_dump(mode="json"), {}) as ledger:
        for number, (method, accuracy, end) in enumerate(
            [("sam", 0.9, "complete"), ("base", 0.8, "complete"), ("base", 0.3, "stop")]
        ):
            (study,) = (study for study in job.studies() if study.method == method)
            name = ledgers.start_of(ledger, job, study, number, {"lr": 0.01})
            measured = {"val_accuracy": accuracy, "val_loss": 1.0, "gradient_evaluations": 17}
            ledger.report(name, 1, measured, Decision(end))
            ledger.finish_trial(name, {"complete": "completed", "stop": "pruned"}[end], "because")
    return folder


def test_export_writes_the_files_it_names(searched):
    code, out, err = call("export", searched)
    assert (code, err) == (0, "")
    files = [Path(line) for line in out.splitlines()]
    assert [file.name for file in files] == ["trials.parquet", "epochs.parquet", "confirmations.parquet"]
    assert len(pd.read_parquet(files[0])) == 3


def test_compare_writes_the_same_rows_in_every_format(searched):
    call("export", searched)
    table = compare([searched])
    answers = {
        form: call("compare", searched, "--format", form) for form in ("csv", "json", "markdown", "table")
    }
    for code, _, err in answers.values():
        assert (code, err) == (0, "")
    text = {form: out for form, (_, out, _) in answers.items()}
    read = pd.read_csv(io.StringIO(text["csv"]))
    assert list(read.columns) == list(table.columns)
    assert list(read["val_accuracy"]) == [0.9, 0.8]
    assert [row["method"] for row in json.loads(text["json"])] == ["sam", "base"]
    assert "| resnet8 | sam | 0.9000 |" in text["markdown"]
    assert re.search(r"^ \* sam +0\.9000 .* 1/1 +0% +1 +17 *$", text["table"], re.MULTILINE)
    assert re.search(r"^   base +0\.8000 .* 1/2 +50% +2 +34 *$", text["table"], re.MULTILINE)
    assert call("compare", searched)[1] == text["table"]


def test_plan_writes_nothing(current):
    for folder in ("there", "/dev/null/x"):
        code, out, err = call(
            "plan", "digits", "--no-timing", "--set", "search.num_trials=2", "--out", folder
        )
        assert (code, err) == (0, "")
        assert "12 trials, at most 240 epochs." in out
        assert out.rstrip().endswith(f" in {folder}")
    assert files_below(current) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_a_search_has_begun_is_an_interruption(number, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def interrupted(*_, **__):
        assert signal.getsignal(number) is signal.default_int_handler, "or the signal would end this process"
        os.kill(os.getpid(), number)

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGTERM) == before
