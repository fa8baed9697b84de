"""A job file for a test."""

from pathlib import Path

import pytest
import yaml


@pytest.fixture
def write(tmp_path: Path):
    def write(content: str | dict) -> str:
        path = tmp_path / "job.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write
