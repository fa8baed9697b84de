"""How the tests run side by side, and how many examples hypothesis tries."""

import os

import pytest
from hypothesis import settings

settings.register_profile("default", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

STARTS_A_RAY = ("tests/end_to_end/", "tests/faults/", "tests/storage/test_remote_search.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each file to one process. Tests that start a Ray come first, since they take longest.

    The short ones share a Ray, hence a process. The slow ones have clusters of their own and mostly wait.
    """

    def group(item: pytest.Item) -> str:
        file = item.nodeid.partition("::")[0]
        shares_a_ray = file.startswith(STARTS_A_RAY) and item.get_closest_marker("slow") is None
        return "ray" if shares_a_ray else file

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: not item.nodeid.startswith(STARTS_A_RAY))
