"""One real Ray for all tests of this folder: 4 logical CPUs and GPUs on whatever the machine has."""

import os

import pytest
import ray

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
