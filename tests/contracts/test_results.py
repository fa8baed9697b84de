"""`docs/results.md` is what its command makes of the committed Parquet files."""

import runpy
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture(scope="module")
def made():
    return runpy.run_path(str(RESULTS / "make.py"))["page"]()


def test_the_page_is_what_the_command_makes(made):
    assert (RESULTS.parent / "results.md").read_text(encoding="utf-8") == made


def test_the_page_says_how_sure_it_is(made):
    assert "n = " in made
    assert "2,000 of the training images" in made
