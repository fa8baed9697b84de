"""What a trial prints is kept for its page, bounded, and never disturbs the training."""

import sys

import pytest

from tune_jobs.results.log_lines import FOLDER_NAME, last_lines
from tune_jobs.search.folder import SearchFolder
from tune_jobs.search.trial_log import TrialLog


@pytest.fixture
def make_log(tmp_path, monkeypatch):
    """Makes a log within the test, since pytest puts its own streams back before each."""
    (tmp_path / "search").mkdir()
    made = []

    def make_log():
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, getattr(sys, name))
        made.append(TrialLog(SearchFolder(tmp_path / "search")))
        return made[-1]

    yield make_log
    for log in made:
        log.end()


def shown(tmp_path, trial_id, most=100):
    return [line.split(" ", 2)[2] for line in last_lines(tmp_path / "search", trial_id, most)]


def test_lines_go_to_the_trial_that_trains(make_log, tmp_path, capsys):
    log = make_log()
    print("before")
    log.begin("a-0")
    print("one")
    print("two", end="")
    print(" words", file=sys.stdout)
    print("\rstep 1\rstep 2", file=sys.stderr)
    log.begin("a-1")
    print("of another")
    log.end()
    print("after")
    log.begin("a-0")
    print("again")
    assert shown(tmp_path, "a-0") == ["one", "two words", "step 2", "again"]
    assert shown(tmp_path, "a-1") == ["of another"]
    assert shown(tmp_path, "a-0", 1) == ["again"]
    assert "before" in capsys.readouterr().out


def test_a_trial_that_prints_nothing_has_no_file(make_log, tmp_path):
    log = make_log()
    log.begin("quiet-0")
    log.end()
    assert list((tmp_path / "search").iterdir()) == []


def test_the_last_lines_of_many_stay(make_log, tmp_path):
    log = make_log()
    log.begin("loud-0")
    for number in range(6000):
        print(f"{number:06d} {'x' * 60}")
    log.end()
    lines = shown(tmp_path, "loud-0", 10_000)
    assert lines[-1].startswith("005999")
    assert 1000 < len(lines) < 6000
    files = list((tmp_path / "search" / FOLDER_NAME).iterdir())
    assert sum(file.stat().st_size for file in files) < 300_000


def test_a_log_that_cannot_be_written_is_nobodys_trouble(make_log, tmp_path, capsys):
    log = make_log()
    (tmp_path / "search").rmdir()
    log.begin("lost-0")
    print("still printed")
    assert "still printed" in capsys.readouterr().out
    assert not (tmp_path / "search").exists()


def test_a_ledger_cannot_name_a_file_elsewhere(tmp_path):
    (tmp_path / "secret.log").write_text("s\n")
    (tmp_path / "search" / FOLDER_NAME).mkdir(parents=True)
    assert last_lines(tmp_path / "search", "../../secret", 9) == []
