"""How the tests run side by side, and how many examples hypothesis tries."""

import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("default", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=40, deadline=None)
settings.register_profile("many", max_examples=200, deadline=None)  # make test-all
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))

# Ray's workers give way to everything else. Beside another process of tests they would hardly get on.
os.environ.setdefault("RAY_worker_niceness", "0")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
STARTS_A_RAY = (
    *("tests/end_to_end/", "tests/faults/", "tests/storage/test_remote_search.py"),
    "tests/contracts/test_search_of_0_1.py",
)
HAS_A_RAY_OF_ITS_OWN = (
    "test_dashboard.py",
    "test_own_code.py",
    "test_slurm.py",
    "test_submit.py",
    "test_remote_search.py",
    "test_search_of_0_1.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a Ray come first, since they take longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(STARTS_A_RAY))


class FileByFile(LoadScopeScheduling):
    """Gives each file to one process, in the order collected; tests that share a Ray, hence a process, are one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        shares_a_ray = file.startswith(STARTS_A_RAY) and not file.endswith(HAS_A_RAY_OF_ITS_OWN)
        return "ray" if shares_a_ray else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileByFile:
    """How `--numprocesses` shares out the tests."""
    return FileByFile(config, log)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium that the machine has; a machine without one says so, or has to say that it does not want this."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None and os.environ.get("ZSHARP_NO_BROWSER") == "1":
        pytest.skip("ZSHARP_NO_BROWSER=1: nothing is tried in a browser")
    assert found, (
        f"none of {', '.join(BROWSERS)} is installed (apt-get install chromium, or set ZSHARP_NO_BROWSER=1)"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()
