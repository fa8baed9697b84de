"""A folder for searches: in memory where there is room, since many commits on a busy disk are slow."""

import tempfile
from pathlib import Path

import pytest
from ledgers import IN_MEMORY


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as path:
        yield Path(path)
