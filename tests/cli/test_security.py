"""Job files, names and logs from strangers: what they try, and that it comes to nothing."""

import io
import itertools
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from generated_search import write_search
from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Console

from tune_jobs.errors import JobError
from tune_jobs.job.load import dump_job, load_job
from tune_jobs.report.write import write_report
from tune_jobs.results.compare import compare, render_table, to_markdown
from tune_jobs.search.folder import search_folder
from tune_jobs.submit.client import OLDEST_RAY
from tune_jobs.submit.submit import folder_on_cluster

ROOT = Path(__file__).parents[2]
SCRIPT = "<script>alert(1)</script>"
JOB = yaml.safe_load(dump_job(load_job("digits")))


@pytest.fixture
def job_file(tmp_path):
    def job_file(text):
        (tmp_path / "job.yaml").write_text(text)
        return str(tmp_path / "job.yaml")

    return job_file


NO_NAMES = (
    "../up|a/../../up|/etc/cron.d/x|..|.|.a||-rf|_a|a\0b|a\nb|a\n|$(touch x)|a b| |a/b|a\\b|a..b|a..|é|~"
)


@pytest.mark.parametrize("name", [*NO_NAMES.split("|"), SCRIPT, "a" * 101])
def test_a_name_is_a_folder_below_the_storage_or_refused(job_file, name):
    with pytest.raises(JobError, match=r"^name: "):
        load_job(job_file(yaml.safe_dump(JOB | {"name": name})))


@pytest.mark.parametrize("name", ["a", "9", "a.", "A.b-c_d", "my_search-2", "v1.2", "A" * 100])
def test_names_that_are_taken_stay_below_the_storage(job_file, tmp_path, name):
    job = load_job(job_file(yaml.safe_dump(JOB | {"name": name, "storage": str(tmp_path / "results")})))
    assert Path(str(search_folder(job))).resolve().parent == tmp_path / "results"
    assert folder_on_cluster(job, None, is_here=False) == f"{tmp_path}/results/{name}"


@pytest.mark.parametrize(
    "value",
    [
        '!!python/object/apply:os.system ["touch touched"]',
        '!!python/object/new:subprocess.Popen [["touch", "touched"]]',
        "!!python/name:os.system",
        "!!python/module:os",
        "!!binary dG91Y2g=",
        "!include /etc/passwd",
    ],
)
def test_job_files_run_nothing(job_file, tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobError, match=r"the tag .* only plain data is read"):
        load_job(job_file(f"name: {value}\n"))
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_job_files_cannot_blow_up(job_file):
    names = "abcdefghi"
    lines = (f"{new}: &{new} [*{old}, *{old}]\n" for old, new in itertools.pairwise(names))
    laughs = "a: &a [x, x]\n" + "".join(lines)
    with pytest.raises(JobError, match="alias"):
        load_job(job_file(laughs))
    with pytest.raises(JobError, match="longer than"):
        load_job(job_file("name: " + "x" * 2**20))
    with pytest.raises(JobError, match="levels deep"):
        load_job(job_file("name: " + "[" * 1000 + "]" * 1000))


class Scripts(HTMLParser):
    """Collects what a browser would run, and what it would show."""

    def __init__(self, text):
        super().__init__()
        self.run, self.shown, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._inside = tag == "script"
        for name, value in attributes:
            if name.startswith("on") or (value or "").startswith("javascript:"):
                self.run.append(value)

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        (self.run if self._inside else self.shown).append(data)


def test_an_architecture_called_script_stays_text(tmp_path, monkeypatch):
    monkeypatch.setattr("tune_jobs.report.write.write_images", lambda pictures, folder: None)  # takes seconds
    folder = tmp_path / "search"
    write_search(folder, architectures=(SCRIPT, "resnet8"), methods=("sam", "base"))
    page = write_report([folder], tmp_path / "report.html").page
    texts = Scripts(page.read_text(encoding="utf-8"))
    assert any(SCRIPT in text for text in texts.shown), "it is shown"
    assert not any(text.strip() == "alert(1)" for text in texts.run), "and not run"
    assert SCRIPT not in to_markdown(compare([folder]))
    with Console(width=200, file=io.StringIO()) as console:
        console.print(render_table(compare([folder])))
    assert SCRIPT in console.file.getvalue()


def test_a_ray_with_known_holes_is_not_taken():
    """CVE-2026-27482 is fixed in 2.54, tokens came with 2.52; we ask for more."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (ray,) = [package for package in map(Requirement, requirements) if package.name == "ray"]
    assert not any(ray.specifier.contains(version) for version in ("2.9.0", "2.51.0", "2.53.0", "2.59.9"))
    pin = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group(1)
    assert ray.specifier.contains(pin)
    assert Version(pin) >= Version(OLDEST_RAY) >= Version("2.54")
    text = (ROOT / "SECURITY.md").read_text()
    assert all(known in text for known in ("CVE-2023-48022", "CVE-2026-27482", "2.54"))


def test_the_tests_that_the_page_names_are_there():
    named = set(re.findall(r"`([\w/]*test_\w+\.py)`", (ROOT / "SECURITY.md").read_text()))
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).is_file(), name
