"""Shared by this folder: one real Ray with 4 logical CPUs and GPUs, and one search from the command line."""

import os

import pytest
import ray
from searches import SHORT, Row, Search

from tune_jobs.cluster import ray as cluster


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """Ray writes a token below HOME and decoded data go to its cache; both belong to the tests."""
    before = {name: os.environ.get(name) for name in ("HOME", "XDG_CACHE_HOME")}
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="session")
def ray_with_four_gpus(home):
    cluster.start_local(cluster.Totals(cpus=4, gpus=4), threads_per_trial=1)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def searched(home, tmp_path_factory):
    """`tune-jobs run` in a process of its own, on one slot; tests that change its folder copy it."""
    search = Search(tmp_path_factory.mktemp("searched") / "search", Row("none")).begin(*SHORT)
    assert search.end(120) == 0, search.printed
    search.check()
    return search
