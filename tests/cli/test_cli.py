"""The command line without Ray: what it prints, and that bad input ends with exit code 2 and starts nothing."""

import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pandas as pd
import pytest

from tune_jobs.cli import app as cli
from tune_jobs.cli.app import app, main
from tune_jobs.cli.printing import console
from tune_jobs.job.load import load_job, presets
from tune_jobs.job.plain_yaml import read_mapping
from tune_jobs.job.space import PARAMETERS
from tune_jobs.ledger.rows import Decision
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.compare import compare
from zsharp.data import DATASETS
from zsharp.models import ARCHITECTURES
from zsharp.optim import METHODS

VERBS = [str(command.name or command.callback.__name__) for command in app.registered_commands]
JOB = """
name: mine
data: {name: digits}
architectures: [resnet8]
methods: [sam]
space: {lr: 0.01, rho: {uniform: [0.01, 0.1]}}
search: {num_trials: 2}
"""


@pytest.fixture(autouse=True)
def place(tmp_path, tmp_path_factory, monkeypatch):
    """An empty current folder; decoded data and whatever Ray would write go elsewhere."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield folder
    assert not (tmp_path / "ray").exists(), "Ray was started"


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, standard output and error output."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["tune-jobs", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return call


def files_below(folder):
    return sorted((str(path), path.read_bytes() if path.is_file() else None) for path in folder.rglob("*"))


def assert_refused(answer, *problems):
    """Exit code 2 and one line a problem, which has all its parts."""
    code, out, err = answer
    assert code == 2, (code, out, err)
    assert out == ""
    assert "Traceback" not in err
    assert len(err.splitlines()) == len(problems), err
    for line, parts in zip(err.splitlines(), problems, strict=True):
        for part in [parts] if isinstance(parts, str) else parts:
            assert part in line


def test_every_verb_has_help(call):
    assert {"list", "validate", "plan", "run", "export", "compare"} <= set(VERBS)
    for verb in VERBS:
        for flag in ("-h", "--help"):
            code, out, err = call(verb, flag)
            assert (code, err) == (0, "")
            assert f"tune-jobs {verb}" in out


def test_the_version_is_the_package_s(call):
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


def test_colours_that_are_forced_do_not_make_a_pipe_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not console().is_interactive


def test_list_names_everything_that_a_job_can_name(call):
    code, out, _ = call("list")
    assert code == 0
    first_words = {line.split()[0] for line in out.splitlines() if line.startswith(" ") and line.strip()}
    for names in (presets(), ARCHITECTURES, DATASETS, METHODS, PARAMETERS):
        assert names
        assert set(names) <= first_words
    assert PARAMETERS["q_p"].valid in out
    assert max(presets().values(), key=len) in out, "lines are not broken in a pipe"


def test_python_dash_m_is_the_same_command(call):
    run = subprocess.run(
        [sys.executable, "-m", "tune_jobs", "--version"], capture_output=True, text=True, check=True
    )
    assert (0, run.stdout, run.stderr) == call("--version")


@pytest.mark.parametrize("preset", presets())
def test_presets_are_valid_and_satisfy_the_schema(call, preset):
    code, out, err = call("validate", preset)
    assert (code, err) == (0, "")
    assert out.startswith(f"valid: {preset}, {len(load_job(preset).studies())} studies, ")
    schema = json.loads(call("validate", "--schema")[1])
    jsonschema.Draft202012Validator.check_schema(schema)
    text = (Path(sys.modules["tune_jobs"].__file__).parent / "job" / "presets" / f"{preset}.yaml").read_text()
    values = read_mapping(text, preset)
    jsonschema.Draft202012Validator(schema).validate(values)
    for wrong in ({"methods": ["zsharpp"]}, {"epochs": 3}, {"space": {"rh0": 0.1}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate(values | wrong)


JOB_VERBS = (
    "validate",
    "plan",
    "run",
)  # read a job in the same way: each is tried with a third of the tables
BAD_VALUES = {
    "name=../x": ["name: '../x'"],
    "name=/etc": ["name: '/etc'"],
    "name=..": ["name: '..'"],
    "train.epoch=3": ["--set train.epoch:", "unknown key 'epoch'", "did you mean epochs?"],
    "foo=3": ["--set foo:", "unknown key 'foo'"],
    "architectures=[resnet_20]": ["architectures[0]:", "'resnet_20'", "did you mean resnet20?", "vit_tiny"],
    "methods=[sam, zsharpp]": ["methods[1]:", "'zsharpp'", "did you mean zsharp?", "friendly_sam"],
    "data.name=digitz": ["data.name:", "'digitz'", "did you mean digits?", "tiny_imagenet"],
    "space.rh0=0.1": ["--set space.rh0:", "unknown parameter 'rh0'", "did you mean rho?"],
    "space.q_p={uniform: [0.5, 1.0]}": ["space.q_p.uniform[1]: 1.0", "at least 0 and below 1"],
    "space.q_p={uniform: [-0.1, 0.5]}": ["space.q_p.uniform[0]: -0.1", "at least 0 and below 1"],
    "space.q_p=95": ["space.q_p: 95", "below 1"],
    "space.rho={uniform: [-0.1, 0.5]}": ["space.rho.uniform[0]: -0.1", "at least 0"],
    "space.lr={uniform: [0, 0.1]}": ["space.lr.uniform[0]: 0", "above 0"],
    "space.lr={choice: [0.1, 0.0]}": ["space.lr.choice[1]: 0.0", "above 0"],
    "space.rho={uniform: [0.5, 0.1]}": ["space.rho.uniform: [0.5, 0.1]", "low bound must be below"],
    "space.rho={loguniform: [0.1, 0.1]}": ["space.rho.loguniform: [0.1, 0.1]", "low bound must be below"],
    "space.rho={loguniform: [0, 0.1]}": ["space.rho.loguniform[0]: 0", "above 0"],
    "space.rho={normal: [0, 1]}": ["space.rho:", "unknown distribution 'normal'", "loguniform"],
    "asha.grace_epochs=21": ["asha.grace_epochs: 21", "at most train.epochs, which is 20"],
    "search.first_points=[{lr: 0.01, rho: 0.1, q_p: 0.9, momentum: 0.9}]": [
        "search.first_points[0].momentum:",
        "not in this job's space",
        "q_p, rho, lr",
    ],
    "search.first_points=[{lr: 5}]": ["search.first_points[0].lr: 5", "between 0.0003 and 0.03"],
    "methods=[sam, base, sam]": ["methods[2]: 'sam'", "listed twice"],
    "architectures=[resnet8, resnet8]": ["architectures[1]: 'resnet8'", "listed twice"],
    "train.epochs=many": ["train.epochs: 'many'", "expected a whole number"],
    "train.epochs=[": ["--set train.epochs", "not YAML"],
    "train.epochs": ["--set", "expected path=value"],
    "storage=ftp://host/x": ["storage: 'ftp://host/x'", "expected a folder, or an address"],
}


@pytest.mark.parametrize(("verb", "change"), [*zip(itertools.cycle(JOB_VERBS), BAD_VALUES)])
def test_bad_values_are_refused_with_what_is_valid(call, place, verb, change):
    assert_refused(call(verb, "digits", "--set", change), BAD_VALUES[change])
    assert files_below(place) == []


def test_all_problems_are_said_at_once(call, place):
    changes = {
        "train.epoch=3": "epochs?",
        "methods=[zsharpp]": "zsharp?",
        "space.q_p=1.5": "below 1",
        "asha.grace_epochs=99": "at most",
    }
    sets = [part for change in changes for part in ("--set", change)]
    assert_refused(call("run", "digits", *sets, "--out", "there"), *changes.values())
    assert files_below(place) == []


BAD_FILES = {
    "a key too many": (JOB + "epochs: 3\n", ["epochs: unknown key"]),
    "a list": ("- a\n- b\n", ["job.yaml: ['a', 'b'] is not valid:", "lines of `key: value`"]),
    "a word": ("digits\n", ["job.yaml: 'digits'", "lines of `key: value`"]),
    "nothing": ("", ["job.yaml: the file is empty"]),
    "a Python object": (
        'name: !!python/object/apply:os.system ["touch touched"]\n',
        ["job.yaml, line 1: the tag 'tag:yaml.org,2002:python/object/apply:os.system'", "only plain data"],
    ),
    "a Python tuple": (JOB + "storage: !!python/tuple [a]\n", ["line 8: the tag", "only plain data"]),
    "an alias": (JOB + "storage: &a x\nasha: *a\n", ["line 9: an alias (*a)"]),
    "a key twice": (JOB + "name: other\n", ["line 8: the key 'name' a second time"]),
    "not YAML": ("name: [a\n", ["job.yaml, line 2: not YAML"]),
    "not text": ("name: \x00\n", ["job.yaml", "not YAML"]),
    "a missing section": (JOB.replace("search:", "asha: {}\n#"), ["search: missing"]),
}


@pytest.mark.parametrize(("verb", "case"), [*zip(itertools.cycle(JOB_VERBS), BAD_FILES)])
def test_bad_files_are_refused_with_the_line(call, place, verb, case):
    text, parts = BAD_FILES[case]
    Path("job.yaml").write_text(text)
    before = files_below(place)
    assert_refused(call(verb, "job.yaml"), parts)
    assert files_below(place) == before


@pytest.mark.parametrize("verb", JOB_VERBS)
def test_a_job_that_is_not_there(call, verb):
    assert_refused(call(verb, "digitz"), ["'digitz'", "neither a preset nor a file", "did you mean digits?"])
    assert_refused(call(verb, "."), ["'.'", "cannot be read: Is a directory"])


def another_job(folder):
    other = load_job("digits", ["train.seed=7"])
    Ledger.create(folder, other.model_dump(mode="json"), {}).close()


def somebodys_files(folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")


def a_file(folder):
    folder.write_text("not a folder")


def a_broken_ledger(folder):
    folder.mkdir()
    (folder / "ledger.sqlite").write_bytes(b"garbage " * 1000)


IN_USE = [
    (another_job, ["--out: 'there'", "holds another job ('digits')"]),
    (somebodys_files, ["--out: 'there'", "not a search folder"]),
    (a_file, ["--out: 'there'", "not a search folder"]),
    (a_broken_ledger, ["there/ledger.sqlite", "found"]),
]


@pytest.mark.parametrize(("occupy", "parts"), IN_USE)
def test_a_folder_in_use_is_left_alone(call, place, occupy, parts):
    occupy(place / "there")
    before = files_below(place)
    assert_refused(call("run", "digits", "--out", "there"), parts)
    assert files_below(place) == before


@pytest.mark.parametrize(("occupy", "parts"), IN_USE[1:])
def test_fresh_deletes_nothing_but_searches(call, place, occupy, parts):
    occupy(place / "there")
    before = files_below(place)
    assert_refused(call("run", "digits", "--out", "there", "--fresh"), parts)
    assert files_below(place) == before


def test_fresh_deletes_no_search_before_all_is_known_to_be_well(call, place):
    another_job(place / "there")
    refused = call("run", "digits", "--out", "there", "--fresh", "--set", "train.batch_size=2000")
    assert_refused(refused, "train.batch_size: 2000")
    with Ledger.open(place / "there", read_only=True) as ledger:
        assert ledger.job["train"]["seed"] == 7


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_data_and_architectures_that_do_not_fit(call, place, verb):
    missing = place.parent / "no-such-folder"
    refused = call(verb, "cifar10", "--set", f"data.root={missing}", "--out", "there")
    assert_refused(refused, ["data:", str(missing), "no such folder", "cifar-10-batches-py"])
    refused = call(verb, "digits", "--set", "architectures=[resnet8, vgg16_bn]", "--out", "there")
    assert_refused(refused, ["architectures[1]: 'vgg16_bn'"])
    assert files_below(place) == []


def test_a_machine_that_has_no_gpu(place):
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
    assert files_below(place) == []


@pytest.fixture
def searched(place):
    """A small search: two methods, one trial each that completed, one that was pruned."""
    folder = place / "small"
    job = load_job("digits", ["name=small", "architectures=[resnet8]", "methods=[sam, base]"])
    with Ledger.create(folder, job.model_dump(mode="json"), {}) as ledger:
        for number, (method, accuracy, end) in enumerate(
            [("sam", 0.9, "complete"), ("base", 0.8, "complete"), ("base", 0.3, "stop")]
        ):
            name = f"resnet8-{method}-{number:04d}"
            ledger.start_trial(
                name, study=f"resnet8-{method}", number=number, dataset="digits", architecture="resnet8",
                method=method, variant=None, seed=0, params={"lr": 0.01}, max_epochs=1,
            )  # fmt: skip
            measured = {"val_accuracy": accuracy, "val_loss": 1.0, "gradient_evaluations": 17}
            ledger.report(name, 1, measured, Decision(end))
            ledger.finish_trial(name, {"complete": "completed", "stop": "pruned"}[end], "because")
    return folder


def test_export_writes_the_files_it_names(call, searched):
    code, out, err = call("export", searched)
    assert (code, err) == (0, "")
    files = [Path(line) for line in out.splitlines()]
    assert [file.name for file in files] == ["trials.parquet", "epochs.parquet", "confirmations.parquet"]
    assert len(pd.read_parquet(files[0])) == 3


def test_compare_writes_the_same_rows_in_every_format(call, searched):
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
    assert list(read["best_val_accuracy"]) == [0.9, 0.8]
    assert [row["method"] for row in json.loads(text["json"])] == ["sam", "base"]
    assert "| resnet8 | sam | 0.9000 |" in text["markdown"]
    assert re.search(r"^ \* sam +0\.9000 .* 1/1 +0% +1 +17 *$", text["table"], re.MULTILINE)
    assert re.search(r"^   base +0\.8000 .* 1/2 +50% +2 +34 *$", text["table"], re.MULTILINE)
    assert call("compare", searched)[1] == text["table"]


def test_names_are_never_taken_for_markup_or_emoji(call, searched):
    folder = searched.rename(searched.with_name("[bold]:smile:"))
    call("export", folder)
    twice = folder.with_name("[red]again")
    (twice / "parquet").mkdir(parents=True)
    for file in (folder / "parquet").iterdir():
        (twice / "parquet" / file.name).write_bytes(file.read_bytes())
    _, out, _ = call("compare", folder, twice)
    assert "[bold]:smile:" in out
    assert "[red]again" in out
    assert_refused(call("compare", folder / "[/bold]:smile:"), "[/bold]:smile:")


def test_an_unknown_format_is_refused(call, searched):
    call("export", searched)
    code, out, err = call("compare", searched, "--format", "xml")
    assert (code, out) == (2, "")
    for part in ("--format", "xml", "table", "csv", "markdown", "json"):
        assert part in err


def test_plan_writes_nothing(call, place):
    code, out, err = call("plan", "digits", "--out", "there")
    assert (code, err) == (0, "")
    assert "48 trials, at most 960 epochs." in out
    assert out.rstrip().endswith(" in there")
    assert files_below(place) == []


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
