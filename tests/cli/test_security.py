"""Names of jobs from strangers, versions of Ray with known holes, and the tests that SECURITY.md names."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tune_jobs.errors import JobError
from tune_jobs.job.load import dump_job, load_job
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
