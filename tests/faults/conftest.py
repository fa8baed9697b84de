"""Where the searches of this folder live, their random moments, and the table that a run of it ends with."""

import os
import random

import pytest
from searches import AGENTS, ONE_SLOT, TABLE, Row, Search, still_alive, table_lines

SEED = os.environ.get("FAULTS_SEED") or str(random.randrange(10**6))


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """Ray writes a token below HOME and decoded data go to its cache; both belong to the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
        assert not still_alive(AGENTS, 90)


@pytest.fixture(scope="session")
def reference(tmp_path_factory, home):
    """The search that nothing happens to."""
    search = Search(tmp_path_factory.mktemp("reference") / "search", Row("none", 0)).begin(*ONE_SLOT)
    assert search.end(120) == 0, search.printed
    search.check()
    return search


@pytest.fixture
def rng(request):
    """Random numbers of the test's own, from FAULTS_SEED."""
    print(f"FAULTS_SEED={SEED}")
    return random.Random(f"{SEED}/{request.node.name}")


@pytest.fixture
def begin(tmp_path):
    """Makes a search of a name, whose faults are counted in a row of that name; ends what it left running."""
    made = []

    def make(fault, **more):
        row = Row(fault)
        TABLE.append(row)
        made.append(Search(tmp_path / str(len(made)) / "search", row, **more))
        return made[-1]

    yield make
    for search in made:
        search.give_up()


def pytest_terminal_summary(terminalreporter):
    if TABLE:
        terminalreporter.write_sep("=", f"faults (FAULTS_SEED={SEED})")
        for line in table_lines(TABLE):
            terminalreporter.write_line(line)
