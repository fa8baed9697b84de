"""`make dist`: the wheel and the source archive hold all that runs, and work where there is no checkout."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What is no code is easily left out of a wheel: presets, the report's style and script, the marker of types.
OPENS_ITS_FILES = """
from importlib.resources import files
from pathlib import Path
import sys, tune_jobs, zsharp
from tune_jobs.job.load import load_job
for package in (tune_jobs, zsharp):
    assert Path(package.__file__).is_relative_to(sys.prefix), package.__file__
    assert files(package).joinpath("py.typed").is_file()
presets = [f for f in files("tune_jobs.job").joinpath("presets").iterdir() if f.name.endswith(".yaml")]
assert len(presets) > 5
assert len(load_job("digits").studies()) == 6
for name in ("page.css", "page.js"):
    assert files("tune_jobs.report").joinpath(name).read_text()
for name in ("live.css", "live.js"):
    assert files("tune_jobs.serve").joinpath("static", name).read_text()
print("all there")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return out


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    # The dependencies are those of this environment, behind what was installed. The checkout is not among them.
    own = subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True)
    (Path(own.strip()) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def run(*command):
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=tmp_path, env={}
        ).stdout

    assert run(python, "-c", OPENS_ITS_FILES) == "all there\n"
    version = re.search(r"-(\d[^-]*)-", wheel.name).group(1)
    assert version in run(python.with_name("tune-jobs"), "--version")


@pytest.mark.slow
def test_the_source_archive_has_the_code_and_the_licence(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "zsharp/py.typed"} <= names
    assert "tune_jobs/job/presets/digits.yaml" in names
    assert not [name for name in names if name.startswith(("tests/", "docs/results/", ".venv/"))]
