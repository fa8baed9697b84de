"""Submitting without a cluster: what would be sent, where to, as whom, and what comes home."""

import json
import os
import shlex
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from tune_jobs.export import read_results
from tune_jobs.job_file import load_job
from tune_jobs.problems import JobError
from tune_jobs.signals import WIND_DOWN_S
from tune_jobs.submit import STOP_WAIT_S, _pip, entrypoint, folder_on_cluster
from tune_jobs.submit_client import ClusterError, checked_address, checked_id, connect
from tune_jobs.submit_code import LIMIT_BYTES, code_files, pack_code
from tune_jobs.submit_fetch import unpack
from tune_jobs.submit_pack import NAMES, lines, pack
from tune_jobs.submit_watch import Printable, printable

ROOT = Path(__file__).parents[2]
HOSTILE = [
    "$(touch touched)",
    "`touch touched`",
    "; touch touched",
    "a b'c\"d",
    "-rf",
    "|touch touched",
    "\\",
    "~",
    "*",
]
# what a job sent from here would find at an address where nobody listens
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Runs the command line in an empty folder, without Ray or a token of the machine's."""
    (tmp_path / "empty").mkdir()
    keep = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    def call(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "tune_jobs", *arguments],
            env=keep | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)} | environment,
            cwd=tmp_path / "empty", capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return call


# --- what is sent


def test_all_of_our_code_is_sent_and_nothing_else(tmp_path):
    tracked = subprocess.check_output(["git", "ls-files", "zsharp", "tune_jobs"], cwd=ROOT, text=True).split()
    names = {name for name, _ in code_files()}
    assert len(tracked) > 100
    assert set(tracked) <= names
    pack_code(tmp_path / "code.zip", "name: x\n")
    with zipfile.ZipFile(tmp_path / "code.zip") as archive:
        assert set(archive.namelist()) == names | {"job.yaml"}
        assert archive.read("job.yaml") == b"name: x\n"
    assert (tmp_path / "code.zip").stat().st_size < LIMIT_BYTES / 50
    assert not any(".git" in name or "__pycache__" in name for name in names)


def test_data_git_and_links_stay_at_home(tmp_path):
    package = tmp_path / "package"
    for name in (
        "a.py",
        "sub/b.yaml",
        ".git/c.py",
        "sub/.hidden.py",
        "__pycache__/d.py",
        "data.npy",
        "w.pt",
        "images.parquet",
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x")
    (tmp_path / "secret.py").write_text("x")
    (package / "link.py").symlink_to(tmp_path / "secret.py")
    assert [name for name, _ in code_files((package,))] == ["package/a.py", "package/sub/b.yaml"]


def test_the_same_code_is_the_same_archive(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("1")
    pack_code(tmp_path / "1.zip", roots=(package,))
    os.utime(package / "a.py", (1, 1))
    pack_code(tmp_path / "2.zip", roots=(package,))
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_too_much_is_refused_with_the_largest_files(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    for number in range(8):
        (package / f"f{number}.py").write_bytes(os.urandom((number + 1) * 300_000))
    size = sum((number + 1) * 300_000 for number in range(8))
    pack_code(tmp_path / "fits.zip", roots=(package,), limit_bytes=size + 10_000)
    with pytest.raises(JobError) as refused:
        pack_code(tmp_path / "large.zip", roots=(package,), limit_bytes=size)
    text = str(refused.value)
    assert "upload: '10.3 MiB' is not valid: Ray takes less than 10.3 MiB; nothing was sent" in text
    assert text.index("package/f7.py (2.3 MiB)") < text.index("package/f6.py (2.0 MiB)")
    assert "f2.py" not in text


def test_the_limit_is_ray_s():
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    assert LIMIT_BYTES == DASHBOARD_CLIENT_MAX_SIZE


def test_a_stop_leaves_time_to_end_epochs_and_write_results():
    assert STOP_WAIT_S >= 2 * WIND_DOWN_S


def test_the_pip_environment_is_what_is_installed_here():
    pins = {pin.name: pin for pin in map(Requirement, _pip())}
    assert {"torch", "optuna", "pyarrow", "pydantic", "plotly"} <= set(pins)
    assert not {"ray", "kaleido", "pytest"} & set(pins)
    assert all(str(pin.specifier) == f"=={version(name).partition('+')[0]}" for name, pin in pins.items())
    from ray.runtime_env import RuntimeEnv

    assert RuntimeEnv(pip=_pip())["pip"]["packages"] == _pip()


@given(
    words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), max_size=4)
)
@example(words=HOSTILE)
def test_no_word_reaches_the_shell(tmp_path_factory, words):
    folder = tmp_path_factory.getbasetemp()
    show = ["-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *words]
    line = entrypoint(sys.executable, show)
    assert line.startswith("exec ")
    printed = subprocess.check_output(["/bin/sh", "-c", line], cwd=folder, text=True)
    assert json.loads(printed) == words
    assert not (folder / "touched").exists()


# --- where to


@pytest.mark.parametrize(
    ("sets", "out", "is_here", "folder"),
    [
        (["storage=/nfs/results"], None, False, "/nfs/results/digits"),
        (["storage=/nfs/results/"], None, False, "/nfs/results/digits"),
        (["storage=/nfs/$(touch x)"], None, False, "/nfs/$(touch x)/digits"),
        (["storage=s3://bucket/results"], None, False, "s3://bucket/results/digits"),
        ([], "/nfs/here", False, "/nfs/here"),
        ([], "s3://bucket/x", False, "s3://bucket/x"),
        ([], None, True, f"{Path.cwd()}/results/digits"),
        ([], "~/x", True, f"{Path.home()}/x"),
    ],
)
def test_the_folder_is_one_for_all_machines(sets, out, is_here, folder):
    try:
        job = load_job("digits", sets)
    except JobError:
        pytest.skip("this version has no remote storage")
    assert folder_on_cluster(job, out, is_here) == folder


@pytest.mark.parametrize("out", [None, "results", "~/results", "./x", "/nfs/a\nb", "/nfs/\x1b[2J"])
def test_folders_that_differ_from_machine_to_machine_are_refused(out):
    with pytest.raises(JobError, match=r"^(storage|--out): .* expected a path"):
        folder_on_cluster(load_job("digits"), out, is_here=False)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("https://cluster.example.org/ray/", "https://cluster.example.org/ray"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_addresses(address, url):
    assert checked_address(address) == url


@pytest.mark.parametrize(
    "address",
    [
        "ray://head:10001",
        "file:///etc/passwd",
        "os://x",
        "http://",
        "http://a:99999",
        "http://user:pw@head:8265",
    ]
    + ["http://head:8265/?x=1", "http://head/#x", "http://he ad:8265", "http://head\n:8265", "", "auto:"],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(JobError, match=r"^--address: .* expected the job server's http://host:port"):
        checked_address(address)


@pytest.mark.parametrize("job_id", ["..", "../x", "a/b", "a?b", "", ".x", "-x", "a b", "a\n", "x" * 201])
def test_ids_cannot_be_paths(job_id):
    with pytest.raises(JobError, match=r"^ID: "):
        checked_id(job_id)
    assert checked_id("digits-a03daba2") == "digits-a03daba2"


# --- as whom


def test_without_a_token_nothing_is_asked(call):
    code, out, err = call("submit", "digits", "--address", NOWHERE)
    assert (code, out) == (2, "")
    assert err.startswith("token: no token: ")
    assert all(place in err for place in ("RAY_AUTH_TOKEN,", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"))


@pytest.mark.parametrize("verb", ["submit", "status", "logs", "stop", "fetch"])
def test_an_address_that_does_not_answer(call, verb):
    code, out, err = call(
        verb, *([] if verb == "status" else ["digits"]), "--address", NOWHERE, RAY_AUTH_TOKEN="abc"
    )
    assert (code, out) == (2, "")
    assert err.startswith(
        f"--address: '{NOWHERE}' is not valid: no job server of Ray 2.60 or later answers there ("
    )
    assert len(err.splitlines()) == 1
    assert "abc" not in err


@pytest.mark.parametrize("token", ["two words", "line\nHost: other", "é", "   "])
def test_tokens_that_are_not_one_word_are_refused_and_not_shown(monkeypatch, token):
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(JobError, match=r"^token: what is in RAY_AUTH_TOKEN is not one") as refused:
        connect(NOWHERE)
    assert token.strip() == "" or token not in str(refused.value)


def test_a_server_that_is_not_ray_is_no_cluster_and_gets_no_token(tmp_path, monkeypatch):
    """Python's own web server, which redirects nobody and knows none of Ray's paths."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        port = server.stdout.readline().split("port ")[1].split()[0]
        with pytest.raises(JobError, match=r"/api/authentication_mode is 404"):
            connect(f"127.0.0.1:{port}")
    finally:
        server.kill()
        server.communicate()


def test_a_job_that_is_not_valid_is_refused_before_anything_else(call):
    code, out, err = call("submit", "digits", "--set", "methods=[zsharpp]", "--address", NOWHERE)
    assert (code, out) == (2, "")
    assert err.startswith("methods[0]: 'zsharpp'")


# --- what comes home


@pytest.fixture
def search(tmp_path):
    from simulated_search import Driver, small_job

    folder = tmp_path / "search"
    driver = Driver(small_job("search.num_trials=3"), folder).run()
    driver.close()
    return folder


def test_results_and_report_survive_a_log(search):
    packed = pack(str(search))
    noise = ["Running entrypoint for job x: exec python", "a warning"]
    files = unpack("\n".join([*noise, *lines(packed)]) + "\n")
    assert set(files) == set(NAMES) - {"job.yaml"}, "the simulation writes no job.yaml"
    assert files["parquet/trials.parquet"] == (search / "parquet" / "trials.parquet").read_bytes()
    assert files["report.html"].startswith(b"<!")
    assert read_results(search).trials.shape[0] > 3


def test_a_search_that_has_not_begun_is_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tune_jobs.submit_pack", str(tmp_path / "no\nsearch")],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    with pytest.raises(ClusterError, match=r"^Nothing to fetch: .*no search.*"):
        unpack(done.stdout)


def damaged_bytes(log):
    at = log.index("tune-jobs-part ") + 100
    return log[:at] + ("A" if log[at] != "A" else "B") + log[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        damaged_bytes,
        lambda log: log.replace("tune-jobs-part ", "tune-jobs-part !", 1),
        lambda log: log.partition("tune-jobs-part ")[2].partition("\n")[2],
        lambda log: log.rpartition("tune-jobs-end")[0],
        lambda log: log + log,
        lambda log: "",
    ],
    ids=["a letter", "no base64", "a part lost", "no end", "twice", "nothing"],
)
def test_what_is_damaged_is_refused(damage):
    log = "\n".join(lines(zipped({"job.yaml": os.urandom(100_000)}))) + "\n"
    assert len(unpack(log)["job.yaml"]) == 100_000
    with pytest.raises(ClusterError, match=r"damaged|Nothing to fetch"):
        unpack(damage(log))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "parquet/../../x", "report.html/../../x", "other.html", ""]
)
def test_no_file_gets_out_of_the_folder(name):
    with pytest.raises(ClusterError, match="other names"):
        unpack("\n".join(lines(zipped({"job.yaml": b"x", name: b"x"}))))


def test_a_small_log_cannot_become_a_large_file():
    bomb = zipped(dict.fromkeys(NAMES[:4], b"0" * 300 * 2**20))
    assert len(bomb) < 2 * 2**20
    with pytest.raises(ClusterError, match="1 GiB"):
        unpack("\n".join(lines(bomb)))


def zipped(files):
    import io

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


# --- what is printed


def test_logs_of_others_do_nothing_to_a_terminal():
    assert printable("\x1b[36mcoloured\x1b[0m \tvalue 50%\r") == "coloured \tvalue 50%"
    assert printable("\x1b]0;title\x07 \x1b[2J \x9b1m \u202e") == r"\x1b]0;title\x07 \x1b[2J \x9b1m \u202e"


def test_lines_that_arrive_in_pieces_are_printed_whole():
    printed = []
    write = Printable(printed.append)
    for piece in ["a\nb", "c \x1b[3", "1mred\n", "end"]:
        write(piece)
    write.close()
    assert printed == ["a\n", "bc red\n", "end\n"]


def test_the_entry_point_is_one_that_ray_can_run():
    line = entrypoint("python", ["-m", "tune_jobs.submit_driver", "job.yaml", "--out=/nfs/a b"])
    assert shlex.split(line) == [
        "exec",
        "python",
        "-m",
        "tune_jobs.submit_driver",
        "job.yaml",
        "--out=/nfs/a b",
    ]
