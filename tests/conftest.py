"""How the tests run side by side, and how many examples hypothesis tries."""

import os

import pytest
from hypothesis import settings

settings.register_profile("default", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

STARTS_A_RAY = ("tests/end_to_end/", "tests/faults/", "tests/storage/test_remote_search.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each file to one process, and all tests that start a Ray to the same one, which begins with them.

    A Ray fills the machine and its start is slow: two at once would measure each other.
    """
    for item in items:
        file = item.nodeid.partition("::")[0]
        starts_a_ray = file.startswith(STARTS_A_RAY)
        item.add_marker(pytest.mark.xdist_group("ray" if starts_a_ray else file))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args[0] != "ray")
