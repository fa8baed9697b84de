"""Submitting without a cluster: what is sent, and which folder it is to fill."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from tune_jobs.errors import JobError
from tune_jobs.job.load import load_job
from tune_jobs.provenance import provenance
from tune_jobs.search.wind_down import WIND_DOWN_S
from tune_jobs.submit.code import LIMIT_BYTES, code_files, pack_code
from tune_jobs.submit.protocol import STOP_WAIT_S
from tune_jobs.submit.submit import _pip, entrypoint, folder_on_cluster

ROOT = Path(__file__).parents[2]
HOSTILE = ["$(touch touched)", "`touch touched`", "; touch touched", "|touch touched", "a b'c\"d"]
HOSTILE += ["-rf", "\\", "~", "*"]


def test_all_of_our_code_is_sent_and_nothing_else(tmp_path):
    tracked = subprocess.check_output(["git", "ls-files", "zsharp", "tune_jobs"], cwd=ROOT, text=True).split()
    names = {name for name, _ in code_files()}
    assert len(tracked) > 100
    assert set(tracked) <= names
    pack_code(tmp_path / "code.zip", "name: x\n")
    with zipfile.ZipFile(tmp_path / "code.zip") as archive:
        assert set(archive.namelist()) == names | {"job.yaml", "tune_jobs/sent_from.json"}
        assert archive.read("job.yaml") == b"name: x\n"
    assert (tmp_path / "code.zip").stat().st_size < LIMIT_BYTES / 50
    assert not any(".git" in name or "__pycache__" in name for name in names)


def test_results_of_a_cluster_name_the_commit_that_was_sent(tmp_path):
    pack_code(tmp_path / "code.zip")
    with zipfile.ZipFile(tmp_path / "code.zip") as archive:
        archive.extractall(tmp_path / "there")
    code = "import json; from tune_jobs.provenance import provenance; print(json.dumps(provenance()))"
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path / "there", text=True)
    here, there = provenance(), json.loads(printed)
    assert here["git_commit"] is not None
    assert (there["git_commit"], there["git_dirty"]) == (here["git_commit"], here["git_dirty"])


def test_data_git_and_links_stay_at_home(tmp_path):
    package = tmp_path / "package"
    hidden = ("data.npy", "w.pt", "images.parquet", ".git/c.py", "sub/.hidden.py", "__pycache__/d.py")
    for name in ("a.py", "sub/b.yaml", *hidden):
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
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}, "no clock is in it"


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
    assert text.startswith("upload: '10.3 MiB' ")
    assert text.index("package/f7.py (2.3 MiB)") < text.index("package/f6.py (2.0 MiB)")
    assert "f2.py" not in text


def test_the_limit_is_ray_s():
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    assert LIMIT_BYTES == DASHBOARD_CLIENT_MAX_SIZE


def test_a_stop_leaves_time_to_end_epochs_and_write_results():
    assert STOP_WAIT_S >= 2 * WIND_DOWN_S


def test_the_pip_environment_is_what_is_installed_here():
    pins = {pin.name: pin for pin in map(Requirement, _pip())}
    assert {"torch", "optuna", "pyarrow", "pydantic"} <= set(pins)
    assert not {"ray", "kaleido", "pytest", "timm"} & set(pins)
    assert any(pin.startswith("timm==") for pin in _pip({"timm"}))
    assert all(str(pin.specifier) == f"=={version(name).partition('+')[0]}" for name, pin in pins.items())
    from ray.runtime_env import RuntimeEnv

    assert RuntimeEnv(pip=_pip())["pip"]["packages"] == _pip()


@given(
    words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), max_size=4)
)
@example(words=HOSTILE)
def test_no_word_reaches_the_shell(tmp_path_factory, words):
    folder = tmp_path_factory.getbasetemp()
    line = entrypoint("printf", ["%s\\0", *words])
    assert line.startswith("exec printf ")
    printed = subprocess.check_output(["/bin/sh", "-c", line], cwd=folder)
    assert printed.decode() == "".join(f"{word}\0" for word in words or [""])
    assert not (folder / "touched").exists()


@pytest.mark.parametrize(
    ("storage", "out", "is_here", "folder"),
    [
        ("/nfs/results", None, False, "/nfs/results/digits"),
        ("/nfs/results/", None, False, "/nfs/results/digits"),
        ("/nfs/$(touch x)", None, False, "/nfs/$(touch x)/digits"),
        ("s3://bucket/results", None, False, "s3://bucket/results/digits"),
        ("results", "/nfs/here", False, "/nfs/here"),
        ("results", "s3://bucket/x", False, "s3://bucket/x"),
        ("results", None, True, f"{Path.cwd()}/results/digits"),
        ("results", "~/x", True, "HOME/x"),
    ],
)
def test_the_folder_is_one_for_all_machines(storage, out, is_here, folder):
    job = load_job("digits").model_copy(update={"storage": storage})
    assert folder_on_cluster(job, out, is_here) == folder.replace("HOME", str(Path.home()))


@pytest.mark.parametrize("out", [None, "results", "~/results", "./x", "/nfs/a\nb", "/nfs/\x1b[2J"])
def test_folders_that_differ_from_machine_to_machine_are_refused(out):
    with pytest.raises(JobError, match=r"^(storage|--out): .* expected a path"):
        folder_on_cluster(load_job("digits"), out, is_here=False)


def test_folders_of_ones_own_are_sent_without_data_environments_and_searches(tmp_path):
    kept = ["nets.py", "below/more.py", "below/settings.yaml"]
    left = [
        ".git/config.py", "images/1.png", "venv/pyvenv.cfg", "venv/lib.py", "found/ledger.sqlite", "found/code/0/x.py",
        "weights.pt", "__pycache__/nets.py", ".hidden.py",
    ]  # fmt: skip
    for name in kept + left:
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text("x = 1")
    pack_code(tmp_path / "code.zip", "name: x\n", own=[str(tmp_path / "own")])
    names = [name for name in zipfile.ZipFile(tmp_path / "code.zip").namelist() if name.startswith("code/")]
    assert sorted(names) == sorted(f"code/0/{name}" for name in kept)
    (tmp_path / "own" / "large.py").write_bytes(os.urandom(200_000))
    with pytest.raises(JobError, match=r"code/0/large\.py"):
        pack_code(tmp_path / "large.zip", own=[str(tmp_path / "own")], roots=(), limit_bytes=150_000)
