"""What Ray needs from this machine before it starts, and what a container gives a process of it."""

import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tune_jobs.cluster.ray import check_can_start, check_threads, connect, make_token
from tune_jobs.errors import JobError
from tune_jobs.search.run import run
from zsharp.cpu import may_have_gpu, quotas


@pytest.fixture
def no_ray(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "folder", ["/tmp/" + "x" * 120, "relative", "/tmp/caf\udce9", "/proc/1/x", "/dev/null/x", "/tmp/a\nb"]
)
def test_a_folder_that_ray_cannot_use_is_refused_before_anything_is_written(
    no_ray, monkeypatch, tmp_path, folder
):
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(JobError, match=r"^RAY_TMPDIR: "):
        run("digits", tmp_path / "search")
    assert list(tmp_path.iterdir()) == []


def test_a_long_temporary_folder_is_not_used_for_sockets(no_ray, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 120)
    with monkeypatch.context() as inside:
        inside.setenv("RAY_TMPDIR", "")
        inside.delenv("RAY_TMPDIR")
        check_can_start()
        assert os.environ["RAY_TMPDIR"] == "/tmp"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the limit is on processes")
@pytest.mark.parametrize(("most", "is_refused"), [(20, True), (150, True), (None, False)])
def test_too_few_threads_are_refused_before_anything_is_written(
    no_ray, monkeypatch, tmp_path, most, is_refused
):
    monkeypatch.setattr(os, "getuid", lambda: 54_321)  # root has no limit
    before = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (most or before[1], before[1]))
    try:
        if is_refused:
            with pytest.raises(JobError, match=r"^ulimit -u: "):
                run("digits", tmp_path / "search")
        else:
            check_threads()
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/my env/bin/python", "/it's/bin/python", "/a\tb/python"])
def test_an_interpreter_that_ray_cannot_start_is_refused(no_ray, monkeypatch, path):
    monkeypatch.setattr(sys, "executable", path)
    with pytest.raises(JobError, match=r"^Python: "):
        check_can_start()


def test_a_search_folder_that_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(JobError, match=r"^--out: "):
        run("digits", Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "x://y", "127.0.0.1:9", "::::", "127.0.0.1:99999"]
)
def test_an_address_of_no_ray_is_refused(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(JobError, match=r"^RAY_ADDRESS: "):
        connect()


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, [1.5]),
        ("0::/", {"cpu.max": "50000 100000"}, [0.5]),
        ("0::/of/the/host", {"cpu.max": "200000 100000"}, [2.0]),
        (
            "4:cpu,cpuacct:/x",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            [3],
        ),
        ("4:cpu,cpuacct:/x", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("4:cpuset:/x", {"cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "1"}, []),
        ("rubbish\n0::/", {"cpu.max": "0 0"}, []),
        ("0::/", {}, []),
    ],
)
def test_quotas_of_containers(tmp_path, groups, files, expected):
    (tmp_path / "cgroup").write_text(groups + "\n")
    for name, text in files.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(text + "\n")
    assert list(quotas(tmp_path / "cgroup", tmp_path / "sys")) == expected


@pytest.mark.parametrize("before", [None, 0o644])
def test_the_token_of_a_local_ray_is_its_owners_only(monkeypatch, tmp_path, before):
    for name in [name for name in os.environ if name.startswith("RAY_AUTH")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    if before is not None:
        file.parent.mkdir()
        file.write_text("abc")
        file.chmod(before)
    make_token()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (file.read_text() == "abc") == (before is not None)
    if before is None:
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert len(file.read_text()) == 64


def test_a_full_disk_leaves_no_empty_token(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("RAY_AUTH")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is restored
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        make_token()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / ".ray").iterdir()) == []
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_user_without_name_and_home_gets_both():
    folder = Path(tempfile.mkdtemp())  # pytest's own is below one that is closed to others
    folder.chmod(0o777)
    code = (
        "import getpass, os, pwd; from pathlib import Path; from zsharp.home import ensure_home; "
        "os.setgid(54321); os.setuid(54321); ensure_home(); print(getpass.getuser(), Path.home())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={"TMPDIR": str(folder), "PATH": os.environ["PATH"]},
        cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip
    home = folder / "home-of-user-54321"
    assert shown == ["user-54321", str(home)]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="devices of Linux")
@pytest.mark.parametrize(("device", "expected"), [("nvidiactl", True), ("kfd", True), ("nvme0", False)])
def test_only_a_machine_with_a_driver_is_asked_for_its_gpus(tmp_path, device, expected):
    (tmp_path / device).touch()
    assert may_have_gpu(tmp_path) is expected
