"""One real Ray for all tests of this folder: 4 logical CPUs and GPUs on whatever the machine has."""

import os
import shutil

import pytest
import ray
from playwright.sync_api import sync_playwright

from tune_jobs.cluster import ray as cluster

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


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
    cluster.start_local(cluster.Totals(cpus=4, gpus=4, gpus_per_node=4), threads_per_trial=1)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def browser():
    """A Chromium that the machine has; a machine without one says so, or has to say that it does not want this."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None and os.environ.get("ZSHARP_NO_BROWSER") == "1":
        pytest.skip("ZSHARP_NO_BROWSER=1: nothing is tried in a browser")
    assert found, (
        f"none of {', '.join(NAMES)} is installed (apt-get install chromium, or set ZSHARP_NO_BROWSER=1)"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()
