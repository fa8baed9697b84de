"""Whatever a user gives to a verb: exit code 2, lines that say where, no traceback, and nothing written."""

import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from command_line import assert_refused, call, files_below
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_search import Driver, Trials, small_job

from tune_jobs.errors import JobError
from tune_jobs.job.checks import check_job
from tune_jobs.job.load import dump_job, load_job
from tune_jobs.job.plain_yaml import read_mapping
from tune_jobs.job.spec import SECTIONS
from tune_jobs.ledger.writer import Ledger
from tune_jobs.results.write import export

MANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXTS = {
    name: (files("tune_jobs.job") / f"presets/{name}.yaml").read_text(encoding="utf-8")
    for name in ("digits", "cifar10")
}
FEWER = settings(MANY, max_examples=settings().max_examples // 2)
VERBS = ("validate", "plan", "run")


def refused_or_valid(verb, source, *sets):
    """Refuses the job, or accepts it without running it. Returns the messages."""
    arguments = [source, *(part for change in sets for part in ("--set", change))]
    before = files_below(Path())
    try:
        job = load_job(source, sets)
    except JobError as error:
        answer = call(verb, *arguments)
        assert_refused(answer, *str(error).splitlines())
    else:
        answer = call("validate", *arguments)
        assert answer[0] == 0
        assert answer[1].startswith("valid: ")
        assert check_job(read_mapping(dump_job(job), "resolved")) == (job, [])
    assert files_below(Path()) == before
    return answer[2]


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
def test_bytes_put_into_a_presets_text(current, verb, preset, line, nasty, only):
    lines = TEXTS[preset].encode().splitlines(keepends=True)
    content = nasty if only else b"".join([*lines[:line], nasty, *lines[line:]])
    (current / "job.yaml").write_bytes(content)
    refused_or_valid(verb, "job.yaml")
    assert not (current / "touched").exists()


@pytest.mark.parametrize("text", NASTY)
def test_yaml_that_no_job_needs_is_refused_at_its_line(current, text):
    (current / "job.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert_refused(call("run", "job.yaml"))
    assert sorted(path.name for path in current.iterdir()) == ["job.yaml"]


# Values of other kinds than a setting has.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        ["auto", "sam", "resnet8", "q_p", "\ud800", "\x1b[2J", "a\nb", "tpe", 10**99, -1, 0, 1, 0.5]
    ),
    st.lists(st.integers() | st.text(max_size=3) | st.floats(), max_size=3),
    st.dictionaries(
        st.sampled_from(["uniform", "choice", "loguniform", "lr", "rho", "x", "\ud800"]),
        st.floats() | st.lists(st.floats(0, 1), max_size=3),
        max_size=2,
    ),
    st.recursive(
        st.integers(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=6,
    ),
)
VALUES = st.sampled_from(NASTY) | st.text(max_size=12) | JUNK.map(repr)
PATHS = st.sampled_from([".".join((*section, key)) for section, keys in SECTIONS.items() for key in keys])


@MANY
@given(
    st.sampled_from(VERBS), st.lists(st.tuples(PATHS | st.text(max_size=8), VALUES), min_size=1, max_size=3)
)
def test_changes_that_make_no_sense(current, verb, changes):
    refused_or_valid(verb, "digits", *(f"{path}={value}" for path, value in changes))


@pytest.mark.parametrize("out", ["job.yaml/x", "x" * 300, "x/" * 3000, "/dev/null/x", "/proc/x"])
def test_places_where_no_folder_can_be(current, out):
    (current / "job.yaml").write_text(TEXTS["digits"])
    for arguments in (("--out", out), ("--set", f"storage='{out}'")):
        assert_refused(call("run", "job.yaml", *arguments))
    assert sorted(path.name for path in current.iterdir()) == ["job.yaml"]


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
@pytest.mark.parametrize("verb", ["resume", "export", "compare", "replay"])
def test_folders_that_hold_no_search(current, verb, make):
    if make is not None:
        make(current / "there")
    before = files_below(current)
    if (verb, make) == ("export", of_another_kind):
        return  # an empty ledger can be exported
    answer = call(verb, "there")
    assert_refused(answer)
    assert ("data: missing" if (verb, make) == ("resume", of_another_kind) else "there") in answer[2]
    for impossible in ("x" * 300, "", "there/" * 2000):
        assert_refused(call(verb, impossible))
    assert files_below(current) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "there", "--grace", "1,9"], "--grace: 9 is not valid"),
        (["replay", "there", "--grace", "1;2"], "--grace: '1;2' is not valid"),
        (["replay", "there", "--rule", "pasha"], "--rule: 'pasha' is not valid"),
        (["replay", "there", "--reduction-factor", "2,1"], "--reduction-factor: 1 is not valid"),
    ],
)
def test_refusals_name_the_reason_and_change_nothing(current, finished, arguments, message):
    shutil.copytree(finished, "there")
    before = files_below(current)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert files_below(current) == before


@pytest.mark.parametrize("verb", ["resume", "export"])
def test_parquet_that_is_a_file(current, finished, verb):
    shutil.copytree(finished, "there")
    shutil.rmtree("there/parquet")
    Path("there/parquet").write_text("mine")
    assert_refused(call(verb, "there"), "there/parquet")
    assert Path("there/parquet").read_text() == "mine"


def test_a_process_of_its_own_ends_without_a_traceback(current):
    command = [sys.executable, "-m", "tune_jobs", "export", "there"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert_refused((done.returncode, done.stdout, done.stderr), "there/ledger.sqlite")


def damaged(content, where, how):
    at = int(where * len(content))
    if how == "cut":
        return content[:at]
    if how == "page":
        at -= at % 4096
        return content[:at] + b"\xff" * len(content[at : at + 4096]) + content[at + 4096 :]
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


@FEWER
@given(
    st.sampled_from(["resume", "export", "compare"]), st.floats(0, 0.999), st.sampled_from(["cut", "page"])
)
def test_damaged_ledgers(current, finished, verb, where, how):
    shutil.rmtree("there", ignore_errors=True)
    shutil.copytree(finished, "there")
    ledger = Path("there/ledger.sqlite")
    ledger.write_bytes(damaged(ledger.read_bytes(), where, how))
    before = files_below(Path("there"))
    code, out, err = call(verb, "there")
    if verb == "compare":
        assert code == 0, "it reads the Parquet files only"
    elif code:
        assert_refused((code, out, err))
        assert "there/ledger.sqlite" in err
        assert files_below(Path("there")) == before


@FEWER
@given(
    st.sampled_from(["trials", "epochs", "confirmations"]),
    st.floats(0, 0.999),
    st.sampled_from(["cut", "bit"]),
)
def test_damaged_parquet(current, finished, name, where, how):
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
