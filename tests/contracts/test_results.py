"""`docs/results.md` is what its command makes of the committed Parquet files."""

import json
import re
import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tune_jobs.results.read import read_results

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture(scope="module")
def made():
    return runpy.run_path(str(RESULTS / "make.py"))["page"]()


def test_the_page_is_what_the_command_makes(made):
    assert (RESULTS.parent / "results.md").read_text(encoding="utf-8") == made


def test_the_page_says_how_sure_it_is(made):
    assert "n = " in made
    assert "2,000 of the training images" in made


def test_the_controls_ran_with_the_settings_of_their_script():
    script = (RESULTS / "controls.sh").read_text()
    folders = sorted(folder.name for folder in (RESULTS / "controls").iterdir())
    assert folders == sorted(re.findall(r"^run (\w+)", script, re.MULTILINE))
    for name in folders:
        job = read_results(RESULTS / "controls" / name).metadata["job"]
        for path, value in re.findall(r"--set (train\.\w+|data\.(?!root)\w+)=(\S+)", script):
            section, key = path.split(".")
            assert job[section][key] == yaml.safe_load(value), (name, path)


def test_results_name_no_folder_of_a_machine():
    for file in RESULTS.rglob("*.parquet"):
        metadata = pq.read_schema(file).metadata
        assert json.loads(metadata[b"job"])["data"]["root"] == "cifar10_jpeg", file
