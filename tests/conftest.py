"""How the tests run side by side, and how many examples hypothesis tries."""

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("default", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

STARTS_A_RAY = ("tests/end_to_end/", "tests/faults/", "tests/storage/test_remote_search.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start a Ray come first, since they take longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(STARTS_A_RAY))


class FileByFile(LoadScopeScheduling):
    """Gives each file to one process, in the order collected.

    The short tests on Ray share one, hence a process. The slow ones have clusters of their own and mostly wait.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        shares_a_ray = file.startswith(STARTS_A_RAY) and self.config.option.markexpr != "slow"
        return "ray" if shares_a_ray else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileByFile:
    """How `--numprocesses` shares out the tests."""
    return FileByFile(config, log)
