"""An empty current folder for the command line, which may start no Ray."""

import pytest


@pytest.fixture
def current(tmp_path, tmp_path_factory, monkeypatch):
    """The current folder; decoded data and whatever Ray would write go elsewhere."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield folder
    assert not (tmp_path / "ray").exists(), "Ray was started"
