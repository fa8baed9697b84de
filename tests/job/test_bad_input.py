"""Whatever a user gives to a verb: exit code 2, lines that say where, no traceback, and nothing written."""

import contextlib
import copy
import io
import shutil
import sqlite3
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed_jobs import JUNK, places, put
from simulated_search import Driver, Trials, small_job

from tune_jobs.cli.app import main
from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.job.plain_yaml import read_mapping, write_mapping
from tune_jobs.job.spec import SECTIONS
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.write import export

MANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = {
    name: (files("tune_jobs.job") / f"presets/{name}.yaml").read_text(encoding="utf-8")
    for name in ("digits", "cifar10")
}
PLACES = {name: [at for at in places(read_mapping(text, name)) if at] for name, text in TEXTS.items()}
VERBS = ("validate", "plan", "run")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty current folder; nothing below it may change, and no Ray may start."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield folder
    assert not (tmp_path / "ray").exists(), "Ray was started"


def call(*arguments):
    """Runs the command line in this process; returns exit code, output and error output."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["tune-jobs", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main()
    finally:
        sys.argv = before
    return stop.value.code or 0, out.getvalue(), err.getvalue()


def files_below(folder):
    return sorted((str(path), path.read_bytes() if path.is_file() else None) for path in folder.rglob("*"))


def assert_refused(answer, *parts):
    code, out, err = answer
    assert code == 2, (code, out, err)
    assert out == ""
    lines = err.splitlines()
    assert lines
    assert all(line.isprintable() and ":" in line for line in lines), err
    for part in parts:
        assert part in err


def refused_or_valid(verb, source, *sets):
    """Refuses the job, or finds it valid; a valid one is not run. Returns the messages."""
    arguments = [source, *(part for change in sets for part in ("--set", change))]
    before = files_below(Path())
    try:
        load_job(source, sets)
    except JobError as error:
        answer = call(verb, *arguments)
        assert_refused(answer)
        assert answer[2].splitlines() == str(error).splitlines()
        messages = answer[2]
    else:
        code, out, err = call("validate", *arguments)
        assert (code, err) == (0, "")
        assert out.startswith("valid: ")
        messages = ""
    assert files_below(Path()) == before
    return messages


@MANY
@given(
    st.sampled_from(VERBS),
    st.sampled_from(sorted(TEXTS)),
    st.data(),
    st.sampled_from(["replace", "remove", "add"]),
    JUNK
    | st.sampled_from([10**400, -0.0, 1e308, float("nan"), float("inf"), [[[[]]]], {"a": {"b": {"c": {}}}}]),
)
def test_one_wrong_value_in_a_preset(place, verb, preset, data, action, junk):
    """Wrong types, missing parts, unknown keys, numbers beyond all bounds: the section is named."""
    at = data.draw(st.sampled_from(PLACES[preset]))
    values = read_mapping(TEXTS[preset], preset)
    put(values, at, action, copy.deepcopy(junk))
    (place / "job.yaml").write_text(write_mapping(values), encoding="utf-8", errors="surrogatepass")
    messages = refused_or_valid(verb, "job.yaml")
    assert not messages or action == "add" or at[0] in messages or "job.yaml" in messages


# Put into a preset's text as it stands: YAML that no job needs, bytes that are no text, what upsets terminals.
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\n"
NASTY = [
    BOMB, "? [a, b]\n: c\n", "<<: {name: x}\n", "data: &d {name: digits}\nx: *d\n",
    "name: !!python/object:os.system x\n",     "name: !!python/object/apply:os.system [touch touched]\n",
    "name: !!binary aGVsbG8=\n", "name: !local x\n",
    "%YAML 1.1\n---\n", "---\n", "...\nname: x\n", "name: x\nname: y\n", "space: {lr: 0.1, lr: 0.2}\n",
    "x: " + "[" * 500, "x: " + "{a: " * 400, "x: " + "[" * 30 + "]" * 30 + "\n", "- " * 300 + "x\n",
    "x: \x1b[2J\n", "x: \u202ereversed\n", "x: \u0000\n", "x: \u2028line\n", "\ufeffx: 1\n", "x: \ud800\n",
    "\t\tx: 1\n",
    "x: " + "9" * 5000 + "\n", "x: 1e99999\n", "x: .nan\n", "x: .inf\n", "x: 0x1F\n", "x: 1_000\n", "null: 1\n",
    "1: 2\n",
    "x: 'open\n", "x: \"\\x\"\n", "x: |\n", "x: >-\n y\n z\n", "name: ../../etc/passwd\n", "storage: /dev/null/x\n",
    "k" * 3000 + ": 1\n", "search: {num_trials: 99999999999999999999}\n", "true: false\n", "'': 1\n", "[]: 1\n",
    "{}: 1\n",
]  # fmt: skip


@MANY
@given(
    st.sampled_from(VERBS),
    st.sampled_from(sorted(TEXTS)),
    st.integers(0, 40),
    st.sampled_from([text.encode("utf-8", "surrogatepass") for text in NASTY])
    | st.binary(max_size=30)
    | st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.booleans(),
)
def test_bytes_put_into_a_presets_text(place, verb, preset, line, nasty, only):
    """At the beginning of any line, or as all that there is."""
    lines = TEXTS[preset].encode().splitlines(keepends=True)
    content = nasty if only else b"".join([*lines[:line], nasty, *lines[line:]])
    (place / "job.yaml").write_bytes(content)
    refused_or_valid(verb, "job.yaml")
    assert not (place / "touched").exists()


@pytest.mark.parametrize("text", NASTY)
def test_yaml_that_no_job_needs_is_refused_at_its_line(place, text):
    (place / "job.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert_refused(call("run", "job.yaml"))
    assert sorted(path.name for path in place.iterdir()) == ["job.yaml"]


PATHS = st.sampled_from([".".join((*section, key)) for section, keys in SECTIONS.items() for key in keys])


@MANY
@given(
    st.sampled_from(VERBS),
    st.lists(
        st.tuples(
            PATHS | st.text(max_size=8), st.sampled_from(NASTY) | st.text(max_size=12) | JUNK.map(repr)
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_changes_that_make_no_sense(place, verb, changes):
    refused_or_valid(verb, "digits", *(f"{path}={value}" for path, value in changes))


@pytest.mark.parametrize("out", ["job.yaml/x", "x" * 300, "x/" * 3000, "/dev/null/x", "/proc/x"])
def test_places_where_no_folder_can_be(place, out):
    (place / "job.yaml").write_text(TEXTS["digits"])
    for arguments in (("--out", out), ("--set", f"storage='{out}'")):
        assert_refused(call("run", "job.yaml", *arguments))
    assert sorted(path.name for path in place.iterdir()) == ["job.yaml"]


def test_a_plan_makes_no_folder_and_so_shows_any(place):
    assert call("plan", "digits", "--out", "/dev/null/x")[0] == 0
    assert files_below(place) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search that is over, as a folder to copy."""
    folder = tmp_path_factory.mktemp("finished") / "search"
    job = small_job(
        "search.num_trials=3", "search.sampler=random", "methods=[sam, base]", "train.warmup_epochs=0"
    )
    Driver(job, folder, Trials(1)).run().close()
    export(folder)
    return folder


def a_file(folder):
    folder.write_text("x")


def nothing_in_it(folder):
    folder.mkdir()


def somebody_elses(folder):
    folder.mkdir()
    (folder / "ledger.sqlite").write_bytes(b"garbage " * 1000)
    (folder / "parquet").mkdir()
    (folder / "parquet" / "trials.parquet").write_bytes(b"PAR1" * 1000)


def of_another_kind(folder):
    Ledger.create(folder, {"name": "foreign"}, {}).close()


def folders_for_files(folder):
    for name in ("ledger.sqlite", "parquet/trials.parquet", "parquet/epochs.parquet"):
        (folder / name).mkdir(parents=True)


@pytest.mark.parametrize(
    "make", [None, a_file, nothing_in_it, somebody_elses, of_another_kind, folders_for_files]
)
@pytest.mark.parametrize("verb", ["resume", "export", "compare"])
def test_folders_that_are_no_searches(place, verb, make):
    if make is not None:
        make(place / "there")
    before = files_below(place)
    if (verb, make) == ("export", of_another_kind):
        return  # its ledger is one: nothing searched yet
    answer = call(verb, "there")
    assert_refused(
        answer, *(["there"] if make is not of_another_kind or verb != "resume" else ["data: missing"])
    )
    assert files_below(place) == before


@pytest.mark.parametrize("name", ["x" * 300, "", "there/" * 2000])
@pytest.mark.parametrize("verb", ["resume", "export", "compare"])
def test_folders_that_cannot_be(place, verb, name):
    assert_refused(call(verb, name))
    assert files_below(place) == []


@pytest.mark.parametrize("verb", ["resume", "export"])
def test_parquet_that_is_a_file(place, finished, verb):
    shutil.copytree(finished, "there")
    shutil.rmtree("there/parquet")
    Path("there/parquet").write_text("mine")
    assert_refused(call(verb, "there"), "there/parquet")
    assert Path("there/parquet").read_text() == "mine"


def test_a_finished_search_with_a_sampler_that_is_gone_is_read_but_not_extended(place, finished):
    shutil.copytree(finished, "there")
    with contextlib.closing(sqlite3.connect("there/ledger.sqlite")) as connection, connection:
        connection.execute(
            """UPDATE meta SET value = replace(value, '"sampler": "random"', '"sampler": "cmaes"')"""
        )
    with Ledger.open(Path("there"), read_only=True) as ledger:
        assert ledger.job["search"]["sampler"] == "cmaes"
    assert call("export", "there")[0] == 0
    assert call("compare", "there")[0] == 0
    before = files_below(Path("there/parquet"))
    for arguments in ([], ["--set", "search.num_trials=4"]):
        assert_refused(call("resume", "there", *arguments), "search.sampler", "use tpe or gp")
    assert files_below(Path("there/parquet")) == before


def damaged(content, where, how):
    at = int(where * len(content))
    if how == "cut":
        return content[:at]
    if how == "page":
        at -= at % 4096
        return content[:at] + b"\xff" * len(content[at : at + 4096]) + content[at + 4096 :]
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


@MANY
@given(
    st.sampled_from(["resume", "export", "compare"]), st.floats(0, 0.999), st.sampled_from(["cut", "page"])
)
def test_damaged_ledgers(place, finished, verb, where, how):
    """Found, or in a part that holds nothing."""
    shutil.rmtree("there", ignore_errors=True)
    shutil.copytree(finished, "there")
    ledger = Path("there/ledger.sqlite")
    ledger.write_bytes(damaged(ledger.read_bytes(), where, how))
    before = files_below(Path("there"))
    code, out, err = call(verb, "there")
    if verb == "compare":
        assert code == 0, "it reads the Parquet files only"
    elif code:
        assert_refused((code, out, err), "there/ledger.sqlite")
        assert files_below(Path("there")) == before


@MANY
@given(
    st.sampled_from(["trials", "epochs", "confirmations"]),
    st.floats(0, 0.999),
    st.sampled_from(["cut", "bit"]),
)
def test_damaged_parquet(place, finished, name, where, how):
    shutil.rmtree("there", ignore_errors=True)
    shutil.copytree(finished, "there")
    file = Path(f"there/parquet/{name}.parquet")
    file.write_bytes(damaged(file.read_bytes(), where, how))
    before = files_below(Path("there"))
    code, out, err = call("compare", "there")
    if code:
        assert_refused((code, out, err), f"{name}.parquet")
    assert code or how == "bit"
    assert files_below(Path("there")) == before


REFUSALS = {
    "a value": (["run", "digits", "--set", "train.epochs=0"], "train.epochs: 0 is not valid"),
    "no argument": (["resume"], "Missing argument 'DIR'"),
    "an option": (["plan", "digits", "--sets", "a=1"], "No such option: --sets"),
    "fewer epochs": (
        ["resume", "finished", "--set", "train.epochs=3"],
        "train.epochs: 3 is not valid: expected at least 9",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_name_the_reason_and_change_nothing(place, finished, case):
    arguments, message = REFUSALS[case]
    shutil.copytree(finished, "finished")
    before = files_below(place)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert files_below(place) == before


def test_a_process_of_its_own_ends_with_code_2_and_no_traceback(place):
    done = subprocess.run(
        [sys.executable, "-m", "tune_jobs", "export", "there"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "there/ledger.sqlite: no such file" in done.stderr
    assert "Traceback" not in done.stderr
